"""Which questions a report shows with their frames: where the model is most surely right, and most surely wrong."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from videoflamingo.errors import UsageError, VideoError
from videoflamingo.evaluation.benchmark import Example
from videoflamingo.evaluation.page_parts import data_url
from videoflamingo.evaluation.results import Condition
from videoflamingo.evaluation.scoring import Cell, Sample, Scored

SHOWN_CASES = 6  # best, and as many worst
SHOWN_FRAMES = 8


@dataclass(frozen=True)
class Said:
    """What was answered in one condition at one number of shots."""

    condition: Condition
    num_shots: int
    sample: Sample


@dataclass(frozen=True)
class Case:
    """A question with its frames and everything that was answered to it in one trial.

    Args:
        sample: the one it was chosen for.
        frames: `data:` URLs.
        times_seconds: of each; None where they are not known.
        num_frames: how many the model saw, of which `frames` may be some.
        note: why there are no frames, or empty.
        said: by condition and number of shots, most shots first.
        shots: what the model was shown before the question, in order.
    """

    sample: Sample
    frames: tuple[str, ...]
    times_seconds: tuple[float | None, ...]
    num_frames: int
    note: str
    said: tuple[Said, ...]
    shots: tuple[Example, ...]


def best_and_worst(scored: Scored, frames: Callable[[Example], list[Image.Image]]) -> tuple[list[Case], list[Case]]:
    """Cases of the real condition with most shots, in its first trial, of as many types of question as there are.

    Of equal scores those count first in which the model was most sure. A question whose video could not be read is no
    case: the report lists it elsewhere.
    """
    real = [cell for cell in scored.cells if cell.condition == "real"]
    if not real:
        return [], []
    most = max(cell.num_shots for cell in real)
    cell = min((cell for cell in real if cell.num_shots == most), key=lambda one: one.trial)
    samples = [one for one in cell.samples if not one.answered.error]
    highest = None if scored.bounds is None else scored.bounds[1]
    good = [one for one in samples if one.score > 0]
    bad = [one for one in samples if one.score != highest]
    best = _varied(sorted(good, key=lambda one: (-one.score, -_sureness(one))), scored, SHOWN_CASES)
    taken = {one.example.id for one in best}
    bad = [one for one in bad if one.example.id not in taken]
    worst = _varied(sorted(bad, key=lambda one: (one.score, -_sureness(one))), scored, SHOWN_CASES)
    return [_case(one, cell, scored, frames) for one in best], [_case(one, cell, scored, frames) for one in worst]


def _sureness(sample: Sample) -> float:
    """Mean log-probability of the answer; of options, the share of the chosen one among all."""
    answered = sample.answered
    if answered.choices and sample.answer in sample.example.options:
        return shares(sample)[sample.example.options.index(sample.answer)]
    return -math.inf if answered.score is None or sample.unparsed else answered.score


def shares(sample: Sample) -> list[float]:
    """How the model divides its belief among the options: softmax of their log-probabilities; empty without options."""
    sums = [choice.sum for choice in sample.answered.choices or ()]
    if not sums or not math.isfinite(max(sums)):
        return [0.0 for _ in sums]
    weights = [math.exp(value - max(sums)) for value in sums]
    return [weight / sum(weights) for weight in weights]


def _varied(samples: Iterable[Sample], scored: Scored, count: int) -> list[Sample]:
    """The first few in order, taking turns among the types of question, and no video twice while there are others."""
    groups: dict[str, list[Sample]] = {}
    for one in samples:
        groups.setdefault(scored.benchmark.group(one.example), []).append(one)
    chosen: list[Sample] = []
    while len(chosen) < count and any(groups.values()):
        before = len(chosen)
        for own in filter(None, groups.values()):
            videos = {one.example.video for one in chosen}
            place = next((place for place, one in enumerate(own) if one.example.video not in videos), None)
            if place is not None:
                chosen.append(own.pop(place))
        if len(chosen) == before:  # every video was there
            chosen += [own.pop(0) for own in groups.values() if own]
    return chosen[:count]


def _case(sample: Sample, cell: Cell, scored: Scored, frames: Callable[[Example], list[Image.Image]]) -> Case:
    answered, note = sample.answered, ""
    images: list[Image.Image] = []
    try:
        images = frames(sample.example)
    except (VideoError, UsageError) as error:
        note = f"the frames cannot be read any more: {error}"
    times: Sequence[float | None] = answered.frame_times
    if len(times) != len(images):
        times = [None] * len(images)
    step = max(1, math.ceil(len(images) / SHOWN_FRAMES))
    support = {example.id: example for example in scored.benchmark.support}
    return Case(
        sample,
        tuple(data_url(image) for image in images[::step]),
        tuple(times[::step]),
        len(images),
        note,
        tuple(
            Said(other.condition, other.num_shots, one)
            for other in sorted(scored.cells, key=lambda one: (one.condition != "real", -one.num_shots))
            if other.trial == cell.trial and (other.condition == "real" or other.num_shots == cell.num_shots)
            for one in other.samples
            if one.example.id == sample.example.id
        ),
        tuple(support[name] for name in answered.shots if name in support),
    )
