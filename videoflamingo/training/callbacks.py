"""What happens beside the optimisation."""

import json
from pathlib import Path
from typing import Any

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


class SavePredictions(L.Callback):
    """Append what `predict` says to a JSON Lines file, one sample a line, as it comes.

    Args:
        path: the file; what an earlier run left there is replaced.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with an empty file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", "utf-8")

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: object) -> None:
        """One line for each sample of the batch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in outputs)
