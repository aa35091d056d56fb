"""What happens beside the optimisation."""

from videoflamingo.errors import ModelError
from videoflamingo.models.checkpoint import save_checkpoint
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.module import FlamingoTraining

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)


class SaveTrainable(L.Callback):
    """Write the small checkpoint folder that `videoflamingo ask --model FOLDER` reads, while training and at its end.

    Args:
        folder: where to.
        every_num_steps: optimiser steps between two writes.
    """

    def __init__(self, folder: str, every_num_steps: int = 100) -> None:
        if every_num_steps < 1:
            raise ModelError(f"SaveTrainable.every_num_steps is {every_num_steps}; give 1 or more")
        self.folder = folder
        self.every_num_steps = every_num_steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """At optimiser steps only, on the first process."""
        if trainer.global_step % self.every_num_steps == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last state."""
        self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, FlamingoTraining):
            save_checkpoint(pl_module.model, self.folder)
