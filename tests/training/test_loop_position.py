"""A run that is cut off anywhere goes on with what an uninterrupted run does next, counted by Lightning's own loops."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.checkpoint_files import newest_checkpoint, step_of
from videoflamingo.training.checkpoints import Checkpoints
from videoflamingo.training.loop_position import KEY

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

Event = tuple[str, int, int]  # what, the step or the batch, the epoch


class Cut(BaseException):
    """Ends a run as a kill does."""


class StepNumbers:
    """A loader like that of mixtures: an epoch's steps, from the one after the last one taken."""

    def __init__(self, data: "Data") -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        first = self.data.trainer.global_step
        yield from range(first, (first // len(self) + 1) * len(self))


class Data(L.LightningDataModule):
    def __init__(self, steps_per_epoch: int, num_loaders: int) -> None:
        super().__init__()
        self.steps_per_epoch, self.num_loaders = steps_per_epoch, num_loaders

    def train_dataloader(self) -> StepNumbers:
        return StepNumbers(self)

    def val_dataloader(self) -> list[Any]:
        return [torch.utils.data.DataLoader(range(2), batch_size=None) for _ in range(self.num_loaders)]


class Noting(L.LightningModule):
    """Takes a real step, and notes what it is asked to do; the event of a given number cuts the run off."""

    def __init__(self, cut_at: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(2, 1)
        self.events: list[Event] = []
        self.cut_at = cut_at

    def note(self, what: str, number: int) -> None:
        if not self.trainer.sanity_checking:
            self.events.append((what, number, self.trainer.current_epoch))
            if len(self.events) == self.cut_at:
                raise Cut

    def training_step(self, batch: int, batch_index: int) -> None:
        self.note(f"begin {batch_index}", batch)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.layer(torch.tensor([1.0, float(batch)])).square().sum())
        optimizer.step()
        self.note("step", batch)

    def validation_step(self, batch: int, batch_index: int, dataloader_idx: int = 0) -> None:
        self.note(f"validate {dataloader_idx}", batch_index)

    def on_validation_end(self) -> None:
        self.note("validated", self.trainer.global_step)

    def on_train_epoch_start(self) -> None:
        self.note("epoch", self.trainer.global_step)

    def on_train_end(self) -> None:
        self.note("end", self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class LikeKilled(Checkpoints):
    """Does nothing when the run is cut off, as a killed process does nothing."""

    def on_exception(self, *_: Any) -> None:
        self._signals.restore()


def run(folder: Path, cut_at: int, every: int, steps_per_epoch: int, num_loaders: int, **limits: Any) -> Noting:
    torch.manual_seed(0)
    module = Noting(cut_at)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[LikeKilled(str(folder), every_num_steps=every)],
        **limits,
    )
    try:
        trainer.fit(module, datamodule=Data(steps_per_epoch, num_loaders), ckpt_path=newest_checkpoint(folder))
    except Cut:
        assert cut_at
    return module


def following(events: list[Event], step: int) -> list[Event]:
    """What comes after so many steps."""
    if not step:
        return events
    places = [place for place, (what, number, _) in enumerate(events) if (what, number) == ("step", step - 1)]
    return events[places[0] + 1 :]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("again", [None, 2, 5], ids=["once", "twice", "twice, later"])
@pytest.mark.parametrize(
    ("every", "shape"),
    [
        (1, {"steps_per_epoch": 3, "num_loaders": 1, "max_epochs": 2}),
        (2, {"steps_per_epoch": 3, "num_loaders": 2, "max_steps": 6}),
        (1, {"steps_per_epoch": 3, "num_loaders": 1, "max_steps": 5, "val_check_interval": 2,
             "check_val_every_n_epoch": None}),
        (2, {"steps_per_epoch": 4, "num_loaders": 1, "max_epochs": 2, "val_check_interval": 2}),
        (1, {"steps_per_epoch": 2, "num_loaders": 0, "max_epochs": 3}),
        (1, {"steps_per_epoch": 1, "num_loaders": 1, "max_steps": 3}),
    ],
    ids=["epochs", "steps, two loaders", "by steps across epochs", "within epochs", "no validation", "one step"],
)  # fmt: skip
def test_a_run_cut_off_at_any_event_does_next_what_one_left_alone_does(
    tmp_path: Path, every: int, shape: dict[str, Any], again: int | None
) -> None:
    """Steps, validations, epochs: in mid-epoch, at an epoch's last step, in a validation, once or twice."""
    alone = run(tmp_path / "alone", 0, every, **shape)
    for cut_at in range(1, len(alone.events)):
        folder = tmp_path / str(cut_at)
        run(folder, cut_at, every, **shape)
        if again is not None:
            run(folder, again, every, **shape)
        start = newest_checkpoint(folder)
        resumed = run(folder, 0, every, **shape)
        at = f"cut off at {alone.events[cut_at - 1]}, gone on from {start}"
        expected = following(alone.events, 0 if start is None else step_of(start))
        if not resumed.events:  # everything was done but the end
            assert start is not None and not torch.load(start)[KEY]["validation_due"], at
            expected = [event for event in expected if not event[0].startswith(("validate", "end"))]
        assert resumed.events == expected, at
        assert torch.equal(resumed.layer.weight, alone.layer.weight), at
