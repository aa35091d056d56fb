"""Losses of a run as a picture and a table, for those who do not want to start TensorBoard to see them."""

import importlib.util
import io
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from videoflamingo.errors import UsageError
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.batch import Step
from videoflamingo.training.step_log import StepLog, replace_file

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

logger = logging.getLogger(__name__)

# Okabe and Ito's colours, which colour-blind people can tell apart, without their yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":")  # the second seven datasets, and the third
LOG_RATIO = 20  # losses that differ by more are drawn on a log axis
SMOOTH_FROM = 12  # rows; fewer are drawn as they are


@dataclass(frozen=True)
class LossRow:
    """The loss of one dataset around one step.

    Args:
        step: the last optimisation step it counts.
        split: a `train` loss is the mean over the steps since the row before; a `validate` loss is of the whole split.
        name: of the dataset.
        loss: mean over labels.
        weight: of the dataset in training.
        steps, texts, tokens: this dataset's so far, over all processes; 0 where they are not known.
    """

    step: int
    split: Literal["train", "validate"]
    name: str
    loss: float
    weight: float = 1.0
    steps: int = 0
    texts: int = 0
    tokens: int = 0


class LossPlot(L.Callback):
    """Keep each dataset's losses in `losses.jsonl`; at validation and at the end draw `losses.png`, write `losses.md`.

    A resumed run goes on with the file: rows of steps after the one it resumes at are replaced.

    Args:
        folder: where to.
        every_num_steps: optimisation steps of one training row.

    Raises:
        UsageError: if `every_num_steps` is out of range, or, when training begins, matplotlib is missing.
    """

    def __init__(self, folder: str, every_num_steps: int = 50) -> None:
        if every_num_steps < 1:
            raise UsageError(f"LossPlot.every_num_steps is {every_num_steps}; give 1 or more")
        self.folder = Path(folder).expanduser()
        self.every_num_steps = every_num_steps
        self._log = StepLog(self.folder / "losses.jsonl", key=("step", "split", "name"))
        self._so_far: dict[str, dict[str, Any]] = {}  # by dataset

    @property
    def rows(self) -> list[LossRow]:
        """All rows of the run so far."""
        return [LossRow(**row) for row in self._log.rows]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Before anything is trained, rather than at the first validation."""
        if stage == "fit" and importlib.util.find_spec("matplotlib") is None:
            raise UsageError(
                'LossPlot needs matplotlib, which is not installed: pip install "videoflamingo[plots]", or leave '
                "videoflamingo.training.loss_plot.LossPlot out of trainer.callbacks"
            )

    def state_dict(self) -> dict[str, Any]:
        """Counts, and losses since the last row, so that the next row is as if the run had not stopped."""
        return {name: dict(own) for name, own in self._so_far.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._so_far = {name: dict(own) for name, own in state_dict.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._log.begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        for part in batch.parts:  # `callback_metrics` also holds losses of datasets that took part in earlier steps
            loss = trainer.callback_metrics.get(f"loss/{part.name}")
            if loss is None:
                continue
            own = self._so_far.setdefault(
                part.name, {"loss_sum": 0.0, "new_steps": 0, "steps": 0, "texts": 0, "tokens": 0, "weight": 1.0}
            )
            own["loss_sum"] += float(loss)
            own["new_steps"] += 1
            own["steps"] += 1
            own["texts"] += int(trainer.callback_metrics.get(f"texts/{part.name}", sum(map(len, part.batches))))
            own["tokens"] += int(trainer.callback_metrics.get(f"tokens/{part.name}", 0))
            own["weight"] = part.weight
        if trainer.global_step % self.every_num_steps == 0:
            self._add_training_rows(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        losses = {
            name.removeprefix("val_loss/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val_loss/")
        }
        self._add(LossRow(trainer.global_step, "validate", name, loss) for name, loss in losses.items())
        self._publish()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also where it was interrupted."""
        self._add_training_rows(trainer)
        if trainer.is_global_zero:
            self._publish()

    def _add_training_rows(self, trainer: L.Trainer) -> None:
        rows = []
        for name, own in self._so_far.items():
            if own["new_steps"]:
                loss = own["loss_sum"] / own["new_steps"]
                counts = {key: own[key] for key in ("steps", "texts", "tokens")}
                rows.append(LossRow(trainer.global_step, "train", name, loss, own["weight"], **counts))
                own.update(loss_sum=0.0, new_steps=0)
        if trainer.is_global_zero:
            self._add(rows)

    def _add(self, rows: Iterable[LossRow]) -> None:
        try:
            self._log.add(map(asdict, rows))
        except OSError as error:
            logger.warning("%s: cannot be written (%s); training goes on", self._log.path, error)

    def _publish(self) -> None:
        if not self.rows:
            return
        try:
            replace_file(self.folder / "losses.md", losses_table(self.rows).encode())
            replace_file(self.folder / "losses.png", draw_losses(self.rows))
        except OSError as error:
            logger.warning("%s: the losses cannot be drawn (%s); training goes on", self.folder, error)


def losses_table(rows: Sequence[LossRow]) -> str:
    """A Markdown table with a line for each dataset.

    >>> rows = [LossRow(50, "train", "captions", 3.0, steps=50, texts=800), LossRow(50, "validate", "captions", 3.5),
    ...         LossRow(100, "train", "captions", 2.5, steps=100, texts=1600)]
    >>> print(losses_table(rows))
    # Losses after step 100
    <BLANKLINE>
    | dataset | weight | first | last | best | validation, last | validation, best | steps | texts | tokens |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
    | captions | 1 | 3.000 | 2.500 | 2.500 at 100 | 3.500 | 3.500 at 50 | 100 | 1,600 | - |
    <BLANKLINE>
    """
    columns = ("weight", "first", "last", "best", "validation, last", "validation, best", "steps", "texts", "tokens")
    lines = [f"# Losses after step {max(row.step for row in rows):,}", "", "| dataset | " + " | ".join(columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for name in _names(rows):
        train, validate = _of(rows, name, "train"), _of(rows, name, "validate")
        cells = [name.replace("|", r"\|"), f"{train[-1].weight:g}" if train else "-"]
        cells += [_loss(train[:1]), _loss(train[-1:]), _best(train), _loss(validate[-1:]), _best(validate)]
        last = train[-1] if train else validate[-1]
        cells += [f"{count:,}" if count else "-" for count in (last.steps, last.texts, last.tokens)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _names(rows: Iterable[LossRow]) -> list[str]:
    """In the order in which they first appear."""
    return list(dict.fromkeys(row.name for row in rows))


def _of(rows: Iterable[LossRow], name: str, split: str) -> list[LossRow]:
    return sorted((row for row in rows if row.name == name and row.split == split), key=lambda row: row.step)


def _loss(rows: Sequence[LossRow]) -> str:
    return f"{rows[0].loss:.3f}" if rows else "-"


def _best(rows: Iterable[LossRow]) -> str:
    finite = [row for row in rows if math.isfinite(row.loss)]
    if not finite:
        return "-"
    best = min(finite, key=lambda row: row.loss)
    return f"{best.loss:.3f} at {best.step:,}"


def smoothed(losses: Sequence[float]) -> list[float]:
    """An exponential average over about a twentieth of the losses, without a bias towards the first; NaNs are passed
    over.

    >>> smoothed([2.0] * 3)
    [2.0, 2.0, 2.0]
    """
    keep = 1 - 1 / max(4.0, len(losses) / 20)
    total = weight = 0.0
    averages = []
    for loss in losses:
        if math.isfinite(loss):
            total, weight = keep * total + loss, keep * weight + 1
        averages.append(total / weight if weight else math.nan)
    return averages


def draw_losses(rows: Sequence[LossRow]) -> bytes:
    """The losses as a PNG: a line for each dataset, faint as they are and strong as smoothed; validation as points."""
    from matplotlib.figure import Figure  # not pyplot, which would want to know about windows
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(10, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    handles = []
    for number, name in enumerate(_names(rows)):
        colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
        train, validate = _of(rows, name, "train"), _of(rows, name, "validate")
        steps, losses = [row.step for row in train], [row.loss for row in train]
        label = name.replace("$", r"\$")  # matplotlib reads formulas between dollars
        if len(train) >= SMOOTH_FROM:
            axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=1)
            losses = smoothed(losses)
        axes.plot(steps, losses, line, color=colour, linewidth=2.2, marker="." if len(train) < SMOOTH_FROM else "")
        if train:
            label += f"  {losses[-1]:.3g}"
        if validate:
            points = [row.step for row in validate], [row.loss for row in validate]
            axes.plot(*points, "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=1.2, zorder=3)
            label += f"  (validation {validate[-1].loss:.3g})"
        handles.append(Line2D([], [], color=colour, ls=line, linewidth=2.2, label=label))
    if any(row.split == "validate" for row in rows):
        handles.append(Line2D([], [], color="grey", marker="o", linestyle="", markersize=7, label="validation"))
    finite = [row.loss for row in rows if math.isfinite(row.loss)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("optimisation step", fontsize=12)
    axes.set_ylabel("loss (negative log-likelihood of a token)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(3, len(handles)), fontsize=11, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
