"""Few-shot answering: examples computed once, media encoded once, many questions together (Flamingo v1 3.3, 4.1)."""

from videoflamingo.fewshot.engine import Asked, FewShotEngine, Shown
from videoflamingo.fewshot.ensembling import ensembled, orders
from videoflamingo.fewshot.few_shot import FewShot
from videoflamingo.fewshot.media_store import ClipFacts, MediaStore

__all__ = ["Asked", "ClipFacts", "FewShot", "FewShotEngine", "MediaStore", "Shown", "ensembled", "orders"]
