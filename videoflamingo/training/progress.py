"""How far a run is: two lines that stay in place on a terminal, and elsewhere a line now and then."""

import time
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from videoflamingo.errors import UsageError
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
import lightning as L  # noqa: E402  (these imports need the declaration above)
from lightning.pytorch.callbacks import ProgressBar  # noqa: E402

RATE_OVER_STEPS = 100  # the time left is judged by so many last steps, validation between them included
REFRESH_SECONDS = 0.25


class Progress(ProgressBar):
    """Step x of y, time left, losses, tokens per second and the share of time spent waiting for data, on stderr.

    Lightning's own bars count the batches of an epoch and estimate the end of it; into a file the rich one writes
    nothing until the end.

    Args:
        every_seconds: between two lines where stderr is no terminal, such as in a log file.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        if not every_seconds >= 0:
            raise UsageError(f"Progress.every_seconds is {every_seconds}; give 0 or more")
        super().__init__()
        self.every_seconds = every_seconds
        self._enabled = True
        self._console: Console | None = None
        self._live: Live | None = None
        self._shown_at = 0.0
        self._steps = deque[tuple[float, int]](maxlen=RATE_OVER_STEPS + 1)  # when each was done
        self._batches = deque[tuple[float, int]](maxlen=RATE_OVER_STEPS + 1)

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Above the bar."""
        if self._enabled:
            (self._console or Console(stderr=True)).print(*args, **kwargs)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock of the time left starts."""
        self._steps.clear()
        self._steps.append((time.monotonic(), trainer.global_step))
        self._begin()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._steps.append((time.monotonic(), trainer.global_step))
        total = trainer.estimated_stepping_batches
        last = trainer.global_step >= total
        if self._due(last or len(self._steps) == 2):
            self._show("training", "step", self._steps, total, _shown_metrics(trainer))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_batches()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._batch_done("trying validation" if trainer.sanity_checking else "validating", counts)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The validation's losses, as a line that stays."""
        losses = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val_loss")}
        if self._enabled and losses and not trainer.sanity_checking:
            self.print(f"step {trainer.global_step:,}: {_metrics_text(losses)}", markup=False, highlight=False)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_batches()

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._batch_done("testing", trainer.num_test_batches)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_batches()

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._batch_done("predicting", trainer.num_predict_batches)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._end()

    def _begin_batches(self) -> None:
        self._batches.clear()
        self._batches.append((time.monotonic(), 0))
        self._begin()

    def _batch_done(self, doing: str, batches_of_loaders: list[int | float]) -> None:
        done, total = self._batches[-1][1] + 1, sum(batches_of_loaders)
        self._batches.append((time.monotonic(), done))
        if self._due(done >= total and doing in ("testing", "predicting")):
            self._show(doing, "batch", self._batches, total, {})

    def _begin(self) -> None:
        if not self._enabled or self._live is not None:
            return
        self._console = Console(stderr=True)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _due(self, now: bool) -> bool:
        """Whether to show something: it is time to, or the first or last of its kind."""
        pause = self.every_seconds if self._live is None else REFRESH_SECONDS
        return self._enabled and (now or time.monotonic() - self._shown_at >= pause)

    def _show(
        self, doing: str, unit: str, done: deque[tuple[float, int]], total: float, metrics: Mapping[str, float]
    ) -> None:
        self._shown_at = time.monotonic()
        (first_seconds, first), (last_seconds, last) = done[0], done[-1]
        pace = (last_seconds - first_seconds) / max(last - first, 1)
        count = f"{unit} {last:,}" if total == float("inf") else f"{unit} {last:,} of {total:,.0f}"
        left = "" if total == float("inf") or last >= total else f" · {duration_text(pace * (total - last))} left"
        said = _metrics_text(metrics)
        if self._live is None:
            line = f"{doing}: {count}{left}" + (f" · {said}" if said else "")
            self.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        upper = Table.grid(padding=(0, 1))
        bar = Bar(total=None if total == float("inf") else total, completed=last, width=24)
        upper.add_row(Text(doing), bar, Text(f"{count}{left}", no_wrap=True))
        lines = [upper, Text(said, style="dim")] if said else [upper]
        self._live.update(Group(*lines), refresh=True)


def _shown_metrics(trainer: L.Trainer) -> dict[str, float]:
    """What was logged for the progress bar, and speed and waiting."""
    shown = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
    known = trainer.callback_metrics
    return shown | {name: float(known[name]) for name in ("tokens_per_second", "data_wait") if name in known}


def _metrics_text(metrics: Mapping[str, Any]) -> str:
    """Names and values as people read them.

    >>> _metrics_text({"loss": 2.31459, "tokens_per_second": 12345.6, "data_wait": 0.031})
    'loss 2.315 · 12,346 tokens/s · 3 % waiting for data'
    """
    texts = {
        "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
        "data_wait": lambda value: f"{value:.0%} waiting for data".replace("%", " %"),
    }
    return " · ".join(
        texts[name](float(value)) if name in texts else f"{name} {float(value):.4g}" for name, value in metrics.items()
    )


def duration_text(seconds: float) -> str:
    """A duration in the two largest units that matter.

    >>> [duration_text(seconds) for seconds in (7.4, 150, 4830, 270000)]
    ['7 s', '2 min 30 s', '1 h 20 min', '3 d 3 h']
    """
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = round(seconds)
    for (unit, size), (smaller, smaller_size) in pairwise(units):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
