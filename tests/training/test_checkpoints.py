"""When a run is saved, what a failed save does, and what `--ckpt_path auto` finds."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from tests.training.test_loop_position import Data
from videoflamingo.errors import UsageError
from videoflamingo.training.checkpoint_files import (
    PART,
    newest_checkpoint,
    problem_of,
    save_whole,
    step_file,
    step_files,
)
from videoflamingo.training.checkpoints import Checkpoints, checkpoint_to_resume

import lightning as L  # isort: skip  (declared by the modules above)

NUM_STEPS = 6


class Stepping(L.LightningModule):
    """Takes real steps, and calls what a test gives it in each."""

    def __init__(self, during: Callable[[int], object], after: Callable[[int], object]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.updating = False
        self.layer = torch.nn.Linear(2, 1)
        self.during, self.after = during, after

    def training_step(self, batch: int, batch_index: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.layer(torch.tensor([1.0, float(batch)])).square().sum())
        self.during(batch + 1)
        self.updating = True
        optimizer.step()
        if batch + 1 == getattr(self, "break_update_of", None):
            raise RuntimeError("in the update")
        self.updating = False
        self.after(batch + 1)

    def on_train_batch_end(self, *_: Any) -> None:
        if sys.platform != "win32":
            limit_file_size(None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def nothing(step: int) -> None:
    """What most tests do in a step."""


def fit(
    checkpoints: Checkpoints, during: Callable[[int], object] = nothing, after: Callable[[int], object] = nothing
) -> None:
    module = Stepping(during, after)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=NUM_STEPS,
        callbacks=[checkpoints],
    )
    trainer.fit(module, datamodule=Data(NUM_STEPS, 0))


def limit_file_size(num_bytes: int | None) -> None:
    """Let the system refuse longer files from now on, as a full disk does; None: no longer."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if num_bytes is None else num_bytes, most))


def names(folder: Path) -> list[str]:
    return [path.name for path in step_files(folder)]


def test_steps_and_the_end_are_saved_and_the_newest_stay(tmp_path: Path) -> None:
    fit(Checkpoints(str(tmp_path), every_num_steps=4))
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000004.ckpt"]
    assert not any(map(problem_of, step_files(tmp_path)))
    fit(Checkpoints(str(tmp_path / "one"), every_num_steps=1, keep=1))
    assert names(tmp_path / "one") == ["step-00000006.ckpt"]


def test_a_run_is_saved_when_time_has_passed(tmp_path: Path) -> None:
    fit(Checkpoints(str(tmp_path), every_num_steps=None, every_minutes=1e-9, keep=9))
    assert len(names(tmp_path)) == NUM_STEPS


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_costs_one_checkpoint_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(
        Checkpoints(str(tmp_path), every_num_steps=2, keep=9),
        during=lambda step: limit_file_size(1000) if step == 4 else None,
    )
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000002.ckpt"]
    assert not any(map(problem_of, step_files(tmp_path))) and not list(tmp_path.glob(f"*{PART}"))
    assert "step 4 could not be saved" in caplog.text and "File too large" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_at_the_end_is_an_error(tmp_path: Path) -> None:
    class FullAtTheEnd(Checkpoints):
        def on_train_end(self, *arguments: Any) -> None:
            limit_file_size(1000)
            try:
                super().on_train_end(*arguments)
            finally:
                limit_file_size(None)

    with pytest.raises(OSError, match="File too large"):
        fit(FullAtTheEnd(str(tmp_path), every_num_steps=4))
    assert problem_of(tmp_path / "step-00000004.ckpt") is None


def fail(step: int) -> None:
    if step == 3:
        raise RuntimeError("on purpose")


def test_an_error_between_two_updates_is_followed_by_a_save(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(Checkpoints(str(tmp_path / "during")), during=fail)
    assert names(tmp_path / "during") == ["step-00000002.ckpt"]
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(Checkpoints(str(tmp_path / "after")), after=fail)
    assert names(tmp_path / "after") == ["step-00000003.ckpt"]


def test_nothing_is_saved_while_weights_are_half_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepping, "break_update_of", 3, raising=False)
    with pytest.raises(RuntimeError, match="in the update"):
        fit(Checkpoints(str(tmp_path)))
    assert names(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"every_num_steps": 0}, {"every_minutes": 0}, {"keep": 0}])
def test_a_number_that_makes_no_sense_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"Checkpoints.{next(iter(wrong))} is 0; give"):
        Checkpoints(str(tmp_path), **wrong)


def config(*folders: Path, ckpt_path: str | None = "auto") -> Namespace:
    """As a subcommand's namespace is parsed."""
    callbacks = [
        Namespace(
            class_path="videoflamingo.training.checkpoints.Checkpoints", init_args=Namespace(folder=str(folder), keep=2)
        )
        for folder in folders
    ]
    other = Namespace(class_path="lightning.pytorch.callbacks.Timer", init_args=Namespace())
    return Namespace(ckpt_path=ckpt_path, trainer=Namespace(callbacks=[other, *callbacks]))


def test_auto_is_the_newest_whole_checkpoint_of_the_recipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3):
        save_whole({"step": step}, step_file(tmp_path, step))
    newest = step_file(tmp_path, 3)
    assert checkpoint_to_resume(config(tmp_path)) == str(newest)
    newest.write_bytes(newest.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(config(tmp_path)) == str(newest_checkpoint(tmp_path)) == str(step_file(tmp_path, 2))
    assert str(newest) in caplog.text


def test_auto_without_a_checkpoint_begins_a_run_but_has_nothing_to_measure(tmp_path: Path) -> None:
    assert checkpoint_to_resume(config(tmp_path)) is None
    with pytest.raises(UsageError, match=r"there is no whole checkpoint in .*; train first"):
        checkpoint_to_resume(config(tmp_path), must_exist=True)


def test_auto_needs_the_callback_and_says_how_to_add_it() -> None:
    with pytest.raises(
        UsageError, match=r"auto: trainer.callbacks has no .*add \{class_path: .*checkpoints.Checkpoints"
    ):
        checkpoint_to_resume(config())


@pytest.mark.parametrize("given", [None, "runs/other.ckpt"])
def test_what_is_not_auto_stays_as_it_was_given(given: str | None) -> None:
    assert checkpoint_to_resume(config(ckpt_path=given)) == given
