"""Planned texts -> batches: media are read a few steps ahead, in processes that survive any file, or from a cache."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.training.batch import Batch, Part, Sample, Step, collate
from videoflamingo.training.feature_cache import FeatureCache
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip

logger = logging.getLogger(__name__)

FEW_FAILURES = 10  # so many unreadable media stop no run, however short it is

NamedTexts = list[tuple[str, PlannedText]]  # each with the name of its dataset


@dataclass(frozen=True)
class PlannedPart:
    """What one dataset gives to a step on one process: the texts of each forward pass."""

    name: str
    weight: float
    passes: list[NamedTexts]


@dataclass(frozen=True)
class Reading:
    """A medium that is being read.

    Args:
        result: waits for frames uint8 `[T, 3, height, width]` or features float16 `[T, P, D]`, as they are in the file;
            raises VideoError if it cannot be read.
        cancel: gives it up.
    """

    result: Callable[[], np.ndarray]
    cancel: Callable[[], object] = lambda: None


class MediaReader:
    """Reads requests: features from a cache, or frames in `num_workers` processes, or with 0 in this process.

    Args:
        cache: where features are; files are not opened then.
    """

    def __init__(self, cache: FeatureCache | None = None, num_workers: int = 0) -> None:
        self.cache = cache
        self.pool = DecodePool(num_workers) if cache is None and num_workers else None

    def begin(self, request: MediumRequest) -> Reading:
        """Begin to read, where there is a process for it; otherwise its `result` reads."""
        if self.cache is not None:
            return Reading(lambda: self._cached(request))
        if self.pool is None:
            return Reading(lambda: _frames_here(request))
        try:
            future = self.pool.read(request.opened(), request.sampling, request.reading, request.seed)
        except VideoError:  # a part of a file that cannot be read, which `result` says again
            return Reading(lambda: _frames_here(request))
        return Reading(lambda: future.result().frames, future.cancel)

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.close(wait=False)

    def _cached(self, request: MediumRequest) -> np.ndarray:
        assert self.cache is not None
        features = self.cache.find(request.unchanged())
        if features is None:
            raise UsageError(
                f"{request.name}: is not in the feature cache {self.cache.folder}, or not with these frames; run "
                "`videoflamingo cache-features` with this recipe (--splits test for the test split), or leave out "
                "data.features"
            )
        return features


def _frames_here(request: MediumRequest) -> np.ndarray:
    rng = None if request.seed is None else np.random.default_rng(request.seed)
    with open_video(request.opened(), request.reading) as video:
        clip: Clip = read_clip(video, request.sampling, rng, tolerance_seconds=request.reading.tolerance_seconds)
    return clip.frames


class PendingStep:
    """A step whose media are being read; the same medium asked for twice is read once.

    Args:
        index: the step's number.
        plan: what it is made of.
    """

    def __init__(self, index: int, plan: list[PlannedPart], media: MediaReader) -> None:
        self.index, self.plan = index, plan
        texts = [text for part in plan for texts in part.passes for _, text in texts]
        wanted = dict.fromkeys(request for text in texts for request in text.media)
        self.reading = {request: media.begin(request) for request in wanted}

    def cancel(self) -> None:
        """Give it up."""
        for reading in self.reading.values():
            reading.cancel()

    def finished(self, started: float) -> Step:
        """The step, once everything is read.

        Args:
            started: when the trainer began to wait, by `time.perf_counter`.
        """
        read: dict[MediumRequest, np.ndarray] = {}
        failed: list[tuple[str, str]] = []
        for request, reading in self.reading.items():
            try:
                read[request] = request.changed(reading.result())
            except (VideoError, SamplingError) as error:  # the latter: a part that leaves the video
                failed.append((request.name, str(error)))
        parts = [
            Part(part.name, part.weight, [collate(_samples(texts, read)) for texts in part.passes])
            for part in self.plan
        ]
        return Step(self.index, parts, time.perf_counter() - started, failed)


def _samples(texts: NamedTexts, read: dict[MediumRequest, np.ndarray]) -> list[Sample]:
    return [
        Sample(text, [read[request] for request in text.media], name)
        for name, text in texts
        if all(request in read for request in text.media)
    ]


class StepLoader:
    """As many steps as an epoch has, from the one that follows the last one taken.

    Args:
        plan: step number -> what it is made of on this process.
        media: reads it.
        steps_per_epoch: how many.
        steps_taken: tells the number of optimisation steps so far.
        prefetch_steps: how many steps ahead media are read.
        max_failed_share: of media; see `Mixture`.
    """

    def __init__(
        self,
        plan: Callable[[int], list[PlannedPart]],
        media: MediaReader,
        steps_per_epoch: int,
        steps_taken: Callable[[], int],
        *,
        prefetch_steps: int = 0,
        max_failed_share: float = 1.0,
    ) -> None:
        self.plan, self.media = plan, media
        self.steps_per_epoch, self.steps_taken = steps_per_epoch, steps_taken
        self.prefetch_steps, self.max_failed_share = prefetch_steps, max_failed_share
        self._under_way: deque[PendingStep] = deque()
        self._num_read = self._num_failed = 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def state_dict(self) -> dict[str, int]:
        """Nothing: where to go on follows from the steps taken. Lightning asks for it where a loader can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load."""

    def __iter__(self) -> Iterator[Step]:
        first = self.steps_taken()
        for index in range(first, first + len(self)):  # of an epoch begun before, the trainer takes the rest only
            started = time.perf_counter()
            pending = self._begun(index)
            step = pending.finished(started)
            self._count(len(pending.reading), step.failed)
            yield step

    def _begun(self, index: int) -> PendingStep:
        """The step, with those after it begun; what was begun for other steps is given up."""
        while self._under_way and self._under_way[0].index != index:
            self._under_way.popleft().cancel()
        while len(self._under_way) <= self.prefetch_steps:
            following = index + len(self._under_way)
            self._under_way.append(PendingStep(following, self.plan(following), self.media))
        return self._under_way.popleft()

    def _count(self, num_read: int, failed: list[tuple[str, str]]) -> None:
        self._num_read += num_read
        self._num_failed += len(failed)
        for _, reason in failed:
            logger.warning("left out: %s", reason)
        if failed and self._num_failed > max(FEW_FAILURES, self.max_failed_share * self._num_read):
            raise VideoError(
                f"{self._num_failed:,} of {self._num_read:,} media could not be read, more than "
                f"data.max_failed_share={self.max_failed_share:g}; the last: {failed[-1][1]}; check them with "
                "`videoflamingo scan`"
            )


class TextLoader:
    """Batches of all texts of a split, in order; every process has as many batches, the last ones perhaps empty.

    Args:
        name: of the dataset.
        batch_size: texts of a batch on one process.

    Attributes:
        failed: media that could not be read in the last pass, each with the reason; their texts are in no batch.
    """

    def __init__(
        self,
        name: str,
        texts: Texts,
        split: Split,
        media: MediaReader,
        batch_size: int,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.name, self.texts, self.split, self.media = name, texts, split, media
        self.batch_size, self.rank, self.num_processes = batch_size, rank, num_processes
        self.failed: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return math.ceil(self.texts.size(self.split) / (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[Batch]:
        self.failed = []
        under_way: deque[PendingStep] = deque()
        for number in range(len(self)):
            while len(under_way) <= 1 and number + len(under_way) < len(self):
                under_way.append(self._begun(number + len(under_way)))
            step = under_way.popleft().finished(time.perf_counter())
            for name, reason in step.failed:
                self.failed.append((name, reason))
                logger.warning("%s: left out of the %s split: %s", self.name, self.split, reason)
            yield step.parts[0].batches[0]

    def _begun(self, number: int) -> PendingStep:
        start = (number * self.num_processes + self.rank) * self.batch_size
        indices = range(start, min(start + self.batch_size, self.texts.size(self.split)))
        texts = [(self.name, self.texts.plan(self.split, index, Draw(position=index))) for index in indices]
        return PendingStep(number, [PlannedPart(self.name, 1.0, [texts])], self.media)
