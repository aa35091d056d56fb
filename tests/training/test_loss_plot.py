"""Losses of each dataset: the rows, the table, the picture, and that a resumed run goes on with them."""

import importlib.util
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from tests.training.shown import Videos, fit, mixture
from videoflamingo.errors import UsageError
from videoflamingo.training.loss_plot import COLOURS, LossPlot, LossRow, draw_losses, losses_table, smoothed
from videoflamingo.training.mixture import Mixture
from videoflamingo.training.module import FlamingoTraining

MakeModule = Callable[..., FlamingoTraining]
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason='needs matplotlib: pip install "videoflamingo[plots]"'
)


def train_rows(name: str, *losses: float) -> list[LossRow]:
    return [LossRow(10 * number, "train", name, loss) for number, loss in enumerate(losses, start=1)]


def test_the_table_has_first_last_and_best_of_each_dataset() -> None:
    rows = [
        LossRow(10, "train", "captions", 3.0, 0.5, 10, 160, 2000),
        LossRow(20, "train", "captions", 1.5, 0.5, 20, 320, 4000),
        LossRow(30, "train", "captions", 2.0, 0.5, 30, 480, 6000),
        LossRow(20, "validate", "captions", 1.75),
        LossRow(30, "validate", "captions", 2.25),
        LossRow(30, "validate", "a|b", 4.0),
    ]
    assert losses_table(rows).splitlines()[0] == "# Losses after step 30"
    assert losses_table(rows).splitlines()[-2:] == [
        "| captions | 0.5 | 3.000 | 2.000 | 1.500 at 20 | 2.250 | 1.750 at 20 | 30 | 480 | 6,000 |",
        r"| a\|b | - | - | - | - | 4.000 | 4.000 at 30 | - | - | - |",
    ]


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    (line,) = losses_table(train_rows("a", math.nan, 2.0, math.nan)).splitlines()[-1:]
    assert line.split(" | ")[2:5] == ["nan", "nan", "2.000 at 20"]


def test_smoothing_follows_the_level_and_calms_the_noise() -> None:
    noisy = [2.0 + (-1) ** number for number in range(200)]
    calm = smoothed(noisy)
    assert len(calm) == 200
    assert max(abs(value - 2.0) for value in calm[50:]) < 0.1


def test_smoothing_starts_at_the_first_loss_and_passes_over_what_is_no_number() -> None:
    assert smoothed([4.0, math.nan, 4.0]) == [4.0, 4.0, 4.0]


def pixels_of(rows: list[LossRow]) -> np.ndarray:
    """The picture, `[height, width, 3]`."""
    return np.asarray(Image.open(io.BytesIO(draw_losses(rows))).convert("RGB"))


def num_pixels(picture: np.ndarray, colour: str) -> int:
    """How many have exactly this colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((picture == wanted).all(-1).sum())


@needs_matplotlib
def test_each_dataset_has_a_line_of_its_own_colour() -> None:
    one, two = pixels_of(train_rows("a", 3, 2, 1)), pixels_of([*train_rows("a", 3, 2, 1), *train_rows("b", 4, 3, 2)])
    assert num_pixels(one, COLOURS[0]) > 500 and num_pixels(one, COLOURS[1]) == 0
    assert num_pixels(two, COLOURS[0]) > 500 and num_pixels(two, COLOURS[1]) > 500


@needs_matplotlib
def test_validation_is_drawn_as_points_beside_the_line() -> None:
    rows = train_rows("a", 3, 2, 1)
    without, beside = pixels_of(rows), pixels_of([*rows, LossRow(20, "validate", "a", 2.9)])
    assert num_pixels(beside, "#808080") > num_pixels(without, "#808080") + 20  # the legend's grey point
    assert num_pixels(beside, COLOURS[0]) != num_pixels(without, COLOURS[0])


@needs_matplotlib
@pytest.mark.parametrize("name", ["$5 and $", "_hidden", "two\nlines", "猫"])
def test_any_name_can_be_drawn(name: str) -> None:
    assert num_pixels(pixels_of(train_rows(name, 3, 2, 1)), COLOURS[0]) > 500


@needs_matplotlib
def test_losses_far_apart_are_drawn_on_a_log_axis() -> None:
    """Then a line that halves at every step is straight: its middle lies halfway up."""

    def height_of_middle(*losses: float) -> float:
        line = (pixels_of(train_rows("a", *losses)) == [0, 0x72, 0xB2]).all(-1)
        line[:60] = False  # the legend
        rows, columns = np.nonzero(line)
        middle = rows[np.abs(columns - (columns.min() + columns.max()) / 2) < 3].mean()
        return float((rows.max() - middle) / (rows.max() - rows.min()))

    assert height_of_middle(64, 16, 4, 1, 0.25) == pytest.approx(0.5, abs=0.03)
    assert height_of_middle(8, 4, 2, 1, 0.5) == pytest.approx(0.2, abs=0.03)


def losses_in(folder: Path) -> list[tuple[int, str, str]]:
    rows = map(json.loads, (folder / "losses.jsonl").read_text("utf-8").splitlines())
    return [(row["step"], row["split"], row["name"]) for row in rows]


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Mixture]:
    texts = {"captions": Videos(tmp_path / "captions"), "more": Videos(tmp_path / "more")}
    return lambda **settings: mixture(texts, **settings)


FAST = {"learning_rate": 0.01, "warmup_steps": 1}


@needs_matplotlib
def test_training_leaves_rows_a_table_and_a_picture(
    make_module: MakeModule, data: Callable[..., Mixture], tmp_path: Path
) -> None:
    plot = LossPlot(str(tmp_path / "run"), every_num_steps=2)
    trainer = fit(make_module(**FAST), data(), tmp_path, plot, max_steps=5)
    train, validate = [("train", "captions"), ("train", "more")], [("validate", "captions"), ("validate", "more")]
    expected = [(2, *one) for one in train + validate] + [(4, *one) for one in train + validate]
    assert losses_in(tmp_path / "run") == [*expected, *((5, *one) for one in train)]
    last = [row for row in plot.rows if row.split == "validate"][-1]
    assert last.loss == pytest.approx(float(trainer.callback_metrics["val_loss/more"]))
    assert (plot.rows[-1].steps, plot.rows[-1].texts) == (5, 10)
    assert (tmp_path / "run/losses.md").read_text("utf-8") == losses_table(plot.rows)
    assert Image.open(tmp_path / "run/losses.png").size == (1200, 660)


@needs_matplotlib
def test_a_training_row_is_the_mean_since_the_row_before(
    make_module: MakeModule, data: Callable[..., Mixture], tmp_path: Path
) -> None:
    every, coarse = LossPlot(str(tmp_path / "a"), 1), LossPlot(str(tmp_path / "b"), 4)
    for plot in (every, coarse):
        fit(make_module(**FAST), data(), tmp_path, plot)
    single = [row.loss for row in every.rows if row.name == "more" and row.split == "train"]
    (mean,) = [row.loss for row in coarse.rows if row.name == "more" and row.split == "train"]
    assert len(single) == 4
    assert mean == pytest.approx(sum(single) / 4)


@needs_matplotlib
def test_a_dataset_counts_the_steps_it_takes_part_in(
    make_module: MakeModule, data: Callable[..., Mixture], tmp_path: Path
) -> None:
    plot = LossPlot(str(tmp_path), 1)
    fit(make_module(**FAST), data(combine="round_robin"), tmp_path, plot)
    train = [(row.step, row.name, row.steps) for row in plot.rows if row.split == "train"]
    assert train == [(1, "captions", 1), (2, "more", 1), (3, "captions", 2), (4, "more", 2)]


@needs_matplotlib
def test_a_resumed_run_has_the_rows_of_one_that_never_stopped(
    make_module: MakeModule, data: Callable[..., Mixture], tmp_path: Path
) -> None:
    """It resumes at step 3, between two rows, after the file already had those of step 4."""
    whole = LossPlot(str(tmp_path / "whole"), 2)
    fit(make_module(**FAST), data(), tmp_path, whole, max_steps=6)
    settings = {"enable_checkpointing": True, "max_steps": 4}
    first = [LossPlot(str(tmp_path / "run"), 2), ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3)]
    fit(make_module(**FAST), data(), tmp_path, *first, **settings)
    resumed = LossPlot(str(tmp_path / "run"), 2)
    fit(make_module(**FAST), data(), tmp_path, resumed, ckpt=tmp_path / "step=3.ckpt", max_steps=6)
    assert losses_in(tmp_path / "run") == losses_in(tmp_path / "whole")
    for one, other in zip(resumed.rows, whole.rows, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert (one.steps, one.texts, one.tokens) == (other.steps, other.texts, other.tokens)


def test_writing_never_is_refused() -> None:
    with pytest.raises(UsageError, match="every_num_steps is 0; give 1 or more"):
        LossPlot("folder", every_num_steps=0)


def test_without_matplotlib_training_does_not_begin(
    make_module: MakeModule, data: Callable[..., Mixture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(UsageError, match=r'needs matplotlib, .*pip install "videoflamingo\[plots\]"'):
        fit(make_module(), data(), tmp_path, LossPlot(str(tmp_path)))
