"""What `tests/training/test_shown_distributed.py` runs: train and predict, watched, in two processes or one."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.tiny import TINY_CONFIG
from tests.training.shown import Videos, fit, mixture
from videoflamingo.training.callbacks import SavePredictions
from videoflamingo.training.loss_plot import LossPlot
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.predictions_page import PredictionsPage
from videoflamingo.training.sharded import ShardedStrategy


def main(how: str, language_model: str, folder: Path) -> None:
    """Write what the callbacks write into the folder."""
    torch.manual_seed(0)
    texts = Videos(folder / "videos", words=("a dog", "two cats", "rain", "snow", "a bee"), make=False)
    module = FlamingoTraining(replace(TINY_CONFIG, language_model=language_model), 0.01, 1, frozen_dtype="float32")
    callbacks = [
        PredictionsPage(str(folder / how), num_samples=2),
        SavePredictions(str(folder / how / "said.jsonl")),
        LossPlot(str(folder / how), every_num_steps=2),
    ]
    strategies = {"one": "auto", "ddp": "ddp", "sharded": ShardedStrategy()}
    settings = {"strategy": strategies[how], "devices": 1 if how == "one" else 2}
    data = mixture({"captions": texts}, micro_batch_size=1)
    trainer = fit(module, data, folder, *callbacks, **settings)
    if how != "sharded":
        trainer.predict(module, datamodule=data)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
