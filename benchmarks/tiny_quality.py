"""What the bundled model sees: accuracy on fresh videos of known drawings, with controls that must fall to chance.

    python benchmarks/tiny_quality.py [--limit N] [--seed S] [--json] [--skills direction order ...] [--model tiny]

Every video is new (its seed was never trained on), really encoded as H.264 and really decoded. Each skill gets N videos
and one question a video, answered by ranking the given choices by their summed log-probability. Controls: `blind` shows
blank frames, `shuffled` the right frames in random order. Intervals are Wilson's, 95 %. The last line of the output is
one JSON object; the run is appended to `benchmarks/results/tiny_quality.json`.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _record import append

from datamodules.world import Question, questions, sample_scene
from datamodules.world.clips import make_clip

FIRST_SEED = 5_000_000  # far from the seeds of training, validation and the demo
# kind of scene: skill that is asked about it -> row of the report
ROWS = {
    "move": {"direction": "direction", "object": "object", "speed": "speed"},
    "sequence": {"order": "order", "place": "place", "count": "count", "next": "next"},
    "event": {"event": "event"},
    "pair": {"direction": "direction of two", "mover": "mover of two"},
}
CONTROLS = ("accuracy", "blind", "shuffled")
BATCH_VIDEOS = 16


@dataclass
class Tally:
    """Right answers of one skill, with frames, blank, and shuffled; and what guessing would give."""

    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CONTROLS, 0))
    chances: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        count = len(self.chances)
        shares = {name: round(right / count, 4) for name, right in self.right.items()}
        chance = round(sum(self.chances) / count, 4)
        return {**shares, "interval": wilson(self.right["accuracy"], count), "chance": chance, "n": count}


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> wilson(90, 100)
    (0.8256, 0.9448)
    """
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return round(centre - half, 4), round(centre + half, 4)


def make_video(job: tuple[int, str]) -> tuple[np.ndarray, list[tuple[str, Question]]]:
    """Frames as decoded, and one question for each row of the report."""
    seed, kind = job
    scene = sample_scene(seed, kind)
    asked: dict[str, Question] = {}
    candidates = questions(scene, np.random.default_rng(seed))
    for index in np.random.default_rng([seed, 1]).permutation(len(candidates)):  # first or last, for `order`
        asked.setdefault(candidates[index].skill, candidates[index])
    return make_clip(scene).frames, [(row, asked[skill]) for skill, row in ROWS[kind].items() if skill in asked]


def made_videos(kind: str, limit: int, seed: int) -> Iterator[tuple[np.ndarray, list[tuple[str, Question]]]]:
    """All videos of a kind, made before the first is shown: arithmetic that waits for a busy core is slow."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = [(FIRST_SEED + seed * 100_000 + index, kind) for index in range(limit)]
        made = list(pool.map(make_video, jobs, chunksize=4))
    yield from made


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def measure(model_name: str, limit: int, seed: int, rows: list[str]) -> dict[str, Tally]:
    """Ask `limit` videos of every kind the questions of these rows, with and without the controls."""
    import torch

    from videoflamingo import load
    from videoflamingo.generation import score_choices

    flamingo = load(model_name)
    model = flamingo.model
    size = model.vision.image_size
    tallies = {row: Tally() for skills in ROWS.values() for row in skills.values() if row in rows}
    kinds = [kind for kind, skills in ROWS.items() if tallies.keys() & skills.values()]
    started, done = time.monotonic(), 0
    with torch.inference_mode():
        blank = model.vision(torch.zeros(1, 3, size, size, device=model.device))  # [1, P, D], the mean colour
        for batch in batches((video for kind in kinds for video in made_videos(kind, limit, seed)), BATCH_VIDEOS):
            pixels = torch.cat([model.vision.preprocess(frames) for frames, _ in batch])
            features = torch.cat([blank, model.vision(pixels.to(model.device))])
            length = len(batch[0][0])
            true = 1 + torch.arange(len(batch) * length).view(len(batch), 1, length)  # [B, 1, T]
            rng = np.random.default_rng([seed, done])
            order = torch.from_numpy(np.stack([rng.permutation(length) for _ in batch]))[:, None]
            shown = {"accuracy": true, "blind": torch.zeros_like(true), "shuffled": true.gather(2, order)}
            shown_tokens = {control: model.resample(features, index) for control, index in shown.items()}
            for row, tally in tallies.items():  # row by row, so that the choices of a pass have similar lengths
                asked = [(video, one) for video, (_, own) in enumerate(batch) for name, one in own if name == row]
                if not asked:
                    continue
                videos = torch.tensor([video for video, _ in asked], device=model.device)
                prompts = [flamingo.encode_prompt(question.question) for _, question in asked]
                choices = [[flamingo.encode_choice(choice) for choice in question.choices] for _, question in asked]
                for control, visual_tokens in shown_tokens.items():
                    scored = score_choices(model, prompts, choices, visual_tokens[videos])
                    for (_, question), own in zip(asked, scored, strict=True):
                        sums = [sum(choice.log_probabilities) for choice in own]
                        tally.right[control] += question.choices[int(np.argmax(sums))] == question.answer
                tally.chances += [1 / len(question.choices) for _, question in asked]
            done += len(batch)
            rate = done / (time.monotonic() - started)
            print(f"\r{done}/{limit * len(kinds)} videos, {rate:.1f} a second ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tallies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=500, help="videos of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which fresh videos (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    rows = [row for skills in ROWS.values() for row in skills.values()]
    parser.add_argument("--skills", nargs="+", choices=rows, default=rows, help="only these (default: all)")
    parser.add_argument("--model", default="tiny", help="bundled model or checkpoint folder (default: %(default)s)")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    if options.limit < 1 or options.seed < 0:
        parser.error(f"--limit {options.limit} must be at least 1 and --seed {options.seed} at least 0")
    results = {
        skill: tally.summary()
        for skill, tally in measure(options.model, options.limit, options.seed, options.skills).items()
        if tally.chances
    }
    if not options.json:
        print(
            f"{'skill':<17} {'accuracy':>8}  {'95 % interval':<16} {'blind':>6} {'shuffled':>8} {'chance':>6} {'n':>4}"
        )
        for skill, row in results.items():
            low, high = row["interval"]
            print(
                f"{skill:<17} {row['accuracy']:>8.1%}  {low:>6.1%} to {high:>6.1%} {row['blind']:>6.1%} "
                f"{row['shuffled']:>8.1%} {row['chance']:>6.1%} {row['n']:>4}"
            )
    if not options.no_record:
        append(
            "tiny_quality", {"model": options.model, "seed": options.seed, "limit": options.limit, "skills": results}
        )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
