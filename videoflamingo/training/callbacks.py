"""What happens beside the optimisation."""

import json
from pathlib import Path
from typing import Any

import torch

from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)


class SavePredictions(L.Callback):
    """Append what `predict` says to a JSON Lines file, one text a line, as it comes, in the order of the texts.

    Args:
        path: the file; what an earlier run left there is replaced.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with an empty file."""
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", "utf-8")

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: object) -> None:
        """One line for each text of the batches that the processes have at this turn."""
        said = _of_all_processes(trainer, outputs)
        if trainer.is_global_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in said)


def _of_all_processes(trainer: L.Trainer, outputs: list[Any]) -> list[Any]:
    """What each process said, one after the other, as `Mixture` shares texts out."""
    if trainer.world_size == 1:
        return outputs
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, outputs)
    return [one for own in gathered for one in own]
