"""LightningModule, LightningCLI and callbacks."""
