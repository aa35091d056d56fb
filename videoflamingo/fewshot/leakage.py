"""Which examples would give a question's answer away: those of the asked video, and of its duplicates."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from videoflamingo.errors import UsageError
from videoflamingo.fewshot.choosing import unit_vectors
from videoflamingo.video.medium import FilePart, MediumRequest
from videoflamingo.video.source import SourceFile

END_BYTES = 1 << 16  # of a file's beginning, and of its end, by which a copy under another name is known
# With the bundled model, ten videos and copies of them encoded anew: 0.995 to 0.9998 at a quality factor of 18 (one of
# them 0.974), 0.989 to 0.999 at 28 (one 0.943), 0.85 to 0.998 at half the size. Of 205 different videos and pictures no
# two exceed 0.86.
DUPLICATE_SIMILARITY = 0.99


class Leaks(NamedTuple):
    """Indices of the support that must not be shown with a question, by reason.

    Args:
        same_video: of the asked video.
        duplicates: of videos whose features are nearly the same.
    """

    same_video: frozenset[int]
    duplicates: frozenset[int] = frozenset()

    @property
    def all(self) -> frozenset[int]:
        """What `choosing.choose` takes as `excluded`."""
        return self.same_video | self.duplicates


class LeakageGuard:
    """Keeps examples of the asked video away from its questions.

    The same video is the same path once links are followed, the same URL without what follows `?` or `#`, or a file
    with the same size, the same first and the same last 64 kB, whatever it is called. All its parts are kept away,
    overlapping or not, unless `other_parts` allows those that do not overlap.

    A copy that was encoded anew is none of these. Where features are given, it is known by a cosine of
    `duplicate_similarity` or more with the asked video's. That finds copies of good quality; a small or coarse copy may
    be missed.

    Args:
        support: S media.
        other_parts: whether parts of the asked video may be shown that do not overlap with the asked part.
        features: `[S, D]`, pooled features of the support's videos; None to leave duplicates unsought.
        duplicate_similarity: in (-1, 1]; None to leave duplicates unsought.

    Raises:
        UsageError: if the similarity is out of range.
    """

    def __init__(
        self,
        support: Sequence[MediumRequest],
        *,
        other_parts: bool = False,
        features: np.ndarray | None = None,
        duplicate_similarity: float | None = DUPLICATE_SIMILARITY,
    ) -> None:
        if duplicate_similarity is not None and not -1 < duplicate_similarity <= 1:
            raise UsageError(f"duplicate_similarity is {duplicate_similarity}; give a cosine above -1, up to 1")
        self._support = list(support)
        self._other_parts = other_parts
        self._least = duplicate_similarity
        self._units = None if features is None or duplicate_similarity is None else unit_vectors(features)  # [S, D]
        self._identities: dict[str | FilePart, list[str]] = {}
        self._of_identity: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(self._support):
            for identity in self._known_by(request):
                self._of_identity[identity].append(index)

    def leaks(self, query: MediumRequest, feature: np.ndarray | None = None) -> Leaks:
        """What must not be shown with a question about this medium.

        Args:
            feature: `[D]`, of its video, where the support's were given; None if it has none.
        """
        same = {index for identity in self._known_by(query) for index in self._of_identity.get(identity, ())}
        if self._other_parts:
            same = {index for index in same if overlap(self._support[index], query)}
        if self._units is None or self._least is None or feature is None:
            return Leaks(frozenset(same))
        alike = np.nonzero(self._units @ unit_vectors(feature) >= self._least)[0]
        return Leaks(frozenset(same), frozenset(alike.tolist()) - same)

    def _known_by(self, request: MediumRequest) -> list[str]:
        if request.source not in self._identities:
            self._identities[request.source] = identities(request.source)
        return self._identities[request.source]


def overlap(one: MediumRequest, other: MediumRequest) -> bool:
    """Whether the parts `[start, end)` of two requests of one video have a moment in common.

    Parts that only touch have none.
    """
    one_start, one_end = _part(one)
    other_start, other_end = _part(other)
    return one_start < other_end and other_start < one_end


def _part(request: MediumRequest) -> tuple[float, float]:
    start, end = request.sampling.start_seconds, request.sampling.end_seconds
    return (0.0 if start is None else start), (float("inf") if end is None else end)


def identities(source: str | FilePart) -> list[str]:
    """What a video is known by: two sources that share one of these are the same video.

    Of a file that cannot be read, the path alone.
    """
    if isinstance(source, FilePart):
        return [f"{os.path.realpath(source.path)}#{source.offset}+{source.num_bytes}"]
    file = SourceFile.of(source)
    if file.is_remote:
        return [file.name.partition("#")[0].partition("?")[0]]
    content = _content(file.name)
    return [os.path.realpath(file.name), *([] if content is None else [content])]


def _content(path: str) -> str | None:
    """Size and digest of both ends of a file; None of a folder, of an empty file and of one that cannot be read."""
    try:
        num_bytes = os.path.getsize(path)
        if os.path.isdir(path) or num_bytes == 0:
            return None
        with open(path, "rb") as file:
            ends = hashlib.blake2b(file.read(END_BYTES), digest_size=16)
            file.seek(max(END_BYTES, num_bytes - END_BYTES))
            ends.update(file.read())
    except OSError:  # whoever shows it says so
        return None
    return f"{num_bytes} bytes {ends.hexdigest()}"
