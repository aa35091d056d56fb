"""`videoflamingo cache-features`: keep what the frozen tower makes of a recipe's media, so that training reads it.

The same command continues a run that was interrupted, and makes what is new or changed. See `docs/feature_cache.md`.
"""

import argparse
import json
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from videoflamingo.errors import UsageError

if TYPE_CHECKING:
    from videoflamingo.training.feature_making import CacheReport

_INPUT_FAILED, _INTERRUPTED = 3, 130
_FAILURES_NAMED = 20
_LOG_EVERY_SECONDS = 10.0


class Display(AbstractContextManager["Display"]):
    """How far it is, on stderr: a bar in a terminal, else a line now and then; and the first failures."""

    def __init__(self) -> None:
        self._logged = time.monotonic()
        self._num_named = 0
        self._first_made: tuple[float, int] | None = None  # when the rate begins: finding what is there is fast
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            *(BarColumn(24), TextColumn("{task.description}", markup=False)),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, report: "CacheReport") -> None:
        """One more medium is done."""
        for name, reason in report.failed[self._num_named : _FAILURES_NAMED]:
            self._say(f"videoflamingo cache-features: {name}: {reason}")
        if self._num_named < _FAILURES_NAMED < len(report.failed):
            self._say(f"videoflamingo cache-features: {_FAILURES_NAMED} failures named; the others are only counted")
        self._num_named = len(report.failed)
        if self._first_made is None and report.num_made:
            self._first_made = report.seconds, report.num_done
        text = self._text(report)
        self._progress.update(self._task, total=report.num_media, completed=report.num_done, description=text)
        now = time.monotonic()
        if self._progress.disable and now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            self._say(f"videoflamingo cache-features: {text}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def _text(self, report: "CacheReport") -> str:
        text = f"{report.num_done:,} of {_media(report.num_media)}"
        began, num_before = self._first_made or (0.0, 0)
        if report.num_done > num_before and report.seconds > began:
            rate = (report.num_done - num_before) / (report.seconds - began)
            left = report.num_media - report.num_done
            text += f", {rate:.3g} a second" + (f", {_duration(left / rate)} left" if left else "")
        return f"{text}, {len(report.failed):,} failed"


def summary(report: "CacheReport", folder: Path) -> str:
    """One line: what became of the media."""
    num_repaired = len(report.repaired)
    repaired = f", {num_repaired:,} damaged shard{'s' * (num_repaired != 1)} replaced" if num_repaired else ""
    return (
        f"{_media(report.num_media)}: {report.num_made:,} cached now ({_bytes(report.num_bytes)}), "
        f"{report.num_found:,} already there, {len(report.failed):,} failed{repaired}, in "
        f"{_duration(report.seconds)}: {folder}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo cache-features`.

    Returns:
        0; 3 if some medium cannot be read; 130 if interrupted, with what was done kept.

    Raises:
        UsageError: if the recipe does not fit, names no folder for features, or asks for what cannot be cached.
        ModelError: if there is no such tower or device.
    """
    arguments, overrides = _parser().parse_known_args(argv)
    from videoflamingo.training.cli import datamodule_of, told_on_stderr  # takes seconds, which --help should not
    from videoflamingo.training.feature_making import cache_features

    recipe = [word for path in arguments.config for word in ("--config", path)]
    mixture = datamodule_of([*recipe, *overrides])
    if mixture.features is None:
        raise UsageError(
            f"{' '.join(arguments.config)}: data.features is null, so the recipe has no feature cache; set it to a "
            "folder in the recipe, or add --data.features FOLDER"
        )
    folder = Path(mixture.features).expanduser()
    with told_on_stderr():
        mixture.prepare_data()
    with Console(stderr=True).status("listing media"):  # terminals only
        requests = list(dict.fromkeys(mixture.media_requests(arguments.splits)))
    if not requests:
        raise UsageError(
            f"{' '.join(arguments.config)}: there are no media in {', '.join(arguments.splits)}; name other --splits"
        )
    print(f"videoflamingo cache-features: {_media(len(requests))} for {folder}", file=sys.stderr, flush=True)
    try:
        with Display() as display:
            report = cache_features(
                requests,
                folder,
                mixture.vision,
                num_workers=arguments.num_workers,
                device=arguments.device,
                retry_failed=arguments.retry_failed,
                checksums=arguments.verify,
                progress=display.show,
            )
    except KeyboardInterrupt:
        print(
            f"videoflamingo cache-features: interrupted; what was done is kept in {folder}, the same command continues",
            file=sys.stderr,
        )
        return _INTERRUPTED
    for shard, reason in report.repaired:
        print(f"videoflamingo cache-features: {shard}: {reason}; given up, its media made again", file=sys.stderr)
    print(_json(report, folder) if arguments.json else summary(report, folder), flush=True)
    return _INPUT_FAILED if report.failed else 0


def _json(report: "CacheReport", folder: Path) -> str:
    return json.dumps(
        {
            "media": report.num_media,
            "cached_now": report.num_made,
            "already_there": report.num_found,
            "failed": [{"medium": name, "reason": reason} for name, reason in report.failed],
            "damaged_shards": [{"shard": shard, "reason": reason} for shard, reason in report.repaired],
            "bytes": report.num_bytes,
            "seconds": round(report.seconds, 3),
            "folder": str(folder),
        }
    )


def _media(count: int) -> str:
    return f"{count:,} {'medium' if count == 1 else 'media'}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo cache-features",
        usage="videoflamingo cache-features --config RECIPE.yaml [--config ...] [--KEY.OF.RECIPE VALUE ...] [options]",
        description="Decode a recipe's videos and pictures, encode them with its frozen tower, and keep the features "
        "in the folder that the recipe names as data.features; training with the recipe then reads them from there. "
        "Interrupted, the same command continues; repeated, it makes what is new or changed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="RECIPE.yaml",
        help="the recipe; several are put together, and dotted options override them, as in `videoflamingo fit`",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "validate", "test"),
        default=["train", "validate"],
        help="whose media (default: train validate, which `fit` reads)",
    )
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes that decode (default: one per core; without a GPU a quarter of that, the tower takes the rest)",
    )
    parser.add_argument("--device", default="auto", help="of the tower: auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--retry-failed", action="store_true", help="try again what could not be read before")
    parser.add_argument(
        "--verify", action="store_true", help="compare checksums of all that is there, and replace what is damaged"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return parser
