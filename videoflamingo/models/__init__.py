"""Clip -> visual tokens -> logits. Never imports `videoflamingo.video`."""
