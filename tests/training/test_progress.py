"""How far a run is: what is said, how often, and where."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.shown import Videos, fit, mixture, trainer
from videoflamingo.errors import UsageError
from videoflamingo.training.mixture import Mixture
from videoflamingo.training.module import FlamingoTraining
from videoflamingo.training.progress import Progress, duration_text

MakeModule = Callable[..., FlamingoTraining]
NEVER = 1e9


@pytest.fixture
def data(tmp_path: Path) -> Mixture:
    return mixture({"captions": Videos(tmp_path / "captions"), "more": Videos(tmp_path / "more")})


@pytest.fixture
def module(make_module: MakeModule) -> FlamingoTraining:
    return make_module(learning_rate=0.01, warmup_steps=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7320, "2 h 2 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_have_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_log_file_gets_the_first_and_the_last_step_and_each_validation(
    module: FlamingoTraining, data: Mixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(module, data, tmp_path, Progress(every_seconds=NEVER), enable_progress_bar=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" · ")[0] for line in lines if line.startswith("training")] == [
        "training: step 1 of 4",
        "training: step 4 of 4",
    ]
    assert [line.partition(" val_loss/captions ")[0] for line in lines if "val_loss/" in line] == ["step 2:", "step 4:"]
    assert len(lines) == 4


def test_a_line_tells_time_left_loss_speed_and_waiting(
    module: FlamingoTraining, data: Mixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(module, data, tmp_path, Progress(every_seconds=0), enable_progress_bar=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training: step 3 ")]
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"training: step 3 of 4 · {number} s left · loss {number} · {number} tokens/s · {number} % waiting for data"
        rf" · val_loss {number}",
        line,
    )


def test_a_resumed_run_counts_from_where_it_was(
    module: FlamingoTraining, data: Mixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(module, data, tmp_path).save_checkpoint(tmp_path / "four.ckpt")
    capsys.readouterr()
    callback = Progress(every_seconds=NEVER)
    fit(module, data, tmp_path, callback, ckpt=tmp_path / "four.ckpt", max_steps=6, enable_progress_bar=True)
    shown = [line.partition(" · ")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("training")]
    assert shown == ["training: step 5 of 6", "training: step 6 of 6"]


def test_predicting_counts_batches_of_all_datasets(
    module: FlamingoTraining, data: Mixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = trainer(tmp_path, Progress(every_seconds=NEVER), enable_progress_bar=True)
    own.predict(module, datamodule=data)
    assert "predicting: batch 4 of 4\n" in capsys.readouterr().err


def test_on_a_terminal_a_bar_stays_in_its_place(
    module: FlamingoTraining, data: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every redrawing begins by clearing the lines of the one before, and what is printed comes above."""
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w", encoding="utf-8", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        fit(module, data, tmp_path, Progress(), enable_progress_bar=True, num_sanity_val_steps=0)
        terminal.flush()
        shown = os.read(ours, 1_000_000).decode()
    os.close(ours)
    clear_line, up = "\x1b[2K", "\x1b[1A"
    assert "step 1 of 4" in shown and "step 4 of 4" in shown
    assert clear_line in shown and up in shown
    above = re.search(r"step 4: val_loss/captions [\d.]+", shown)
    assert above is not None
    assert "step 4 of 4" in shown[above.end() :]


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Progress(every_seconds=0)
    callback.disable()
    callback.print("nothing of this")
    assert capsys.readouterr().err == ""
    callback.enable()
    callback.print("but this")
    assert capsys.readouterr().err == "but this\n"


def test_a_pause_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match=r"every_seconds is -1.0; give 0 or more"):
        Progress(every_seconds=-1.0)
