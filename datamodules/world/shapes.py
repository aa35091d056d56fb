"""Shapes of episodes, and classes that come again and again in them, named by what was shown before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from datamodules.world.names import made_up_names
from videoflamingo.errors import UsageError
from videoflamingo.video.medium import MediumRequest

T = TypeVar("T")
Shown = tuple[MediumRequest, tuple[str, ...]]  # a medium, and what its visual tokens are to say
EpisodeKind = Literal[
    "name", "doer", "which", "sequence", "bind", "actor", "scene", "clip", "film", "motion", "order", "rule", "ask"
]
# (classes, chunks) of an episode's shapes: every class once, then any of them.
SHAPES: dict[EpisodeKind, tuple[tuple[int, int], ...]] = {
    "name": ((1, 12),),
    "doer": ((1, 6),),
    "which": ((1, 6),),
    "sequence": ((1, 6),),
    "bind": ((2, 6), (3, 8), (5, 12), (8, 16), (12, 22), (20, 32)),
    "actor": ((2, 5), (3, 8), (5, 12)),
    "scene": ((2, 5), (3, 8), (5, 8), (5, 12)),
    "clip": ((2, 5), (3, 6), (5, 12)),
    "film": ((2, 5), (3, 4), (3, 6), (5, 12)),
    "motion": ((2, 5), (2, 6), (3, 8), (4, 10), (5, 12), (5, 24)),
    "order": ((2, 5), (3, 8), (5, 12), (5, 24)),
    "rule": ((1, 6), (1, 9)),
    "ask": ((1, 4),),
}
OF_PICTURES: tuple[EpisodeKind, ...] = ("name", "bind")
QUESTIONS: dict[EpisodeKind, tuple[str, ...]] = {
    "name": ("What is this?", "What is in the picture?"),
    "bind": ("What is this?", "What is this called?"),
    "actor": ("What is moving?", "What is this called?"),
    "scene": ("What is moving?", "What is this called?"),
    "clip": ("Which film is this?", "What is this called?"),
    "film": ("Which film is this?", "What is this called?"),
    "motion": ("What does it do?", "What is this called?"),
    "order": ("What happens?", "What is this called?"),
}
# Whether a kind's episodes may ask a question; those that ask nothing put `Output: name`.
WITH_QUESTION: dict[EpisodeKind, tuple[bool, ...]] = {
    **dict.fromkeys(SHAPES, (False, True)),
    "rule": (False,),
    "doer": (True,),
    "which": (True,),
    "sequence": (True,),
    "ask": (True,),
}
QUESTION_WEIGHT = 1 / 3  # of shapes with a question beside those without, where a kind has both


@dataclass(frozen=True)
class Shape:
    """What the episodes of one step have in common, so that they are about equally long.

    Args:
        with_question: whether they ask one, or put names after `Output:`.
    """

    kind: EpisodeKind
    num_classes: int
    num_chunks: int
    with_question: bool

    @property
    def weight(self) -> float:
        """How often it is chosen among its kind's."""
        return QUESTION_WEIGHT if self.with_question and len(WITH_QUESTION[self.kind]) > 1 else 1.0


@dataclass(frozen=True)
class Chunk:
    """One medium of an episode with its text.

    Args:
        question: None = a caption.
        counts: whether the loss is on its answer.
        said: what its visual tokens are to say, see `PlannedText.readouts`.
    """

    request: MediumRequest
    question: str | None
    answer: str
    counts: bool
    said: tuple[str, ...]


def named_by_shots(
    shape: Shape, rng: np.random.Generator, show: Callable[[int], Shown], names: Sequence[str] | None = None
) -> list[Chunk]:
    """Chunks of classes that come again and again; those whose name was there before count.

    Args:
        show: something of a class, drawn anew.
        names: of the classes; None makes them up.
    """
    names = names or made_up_names(shape.num_classes, rng)
    question, put = _asking(shape, rng)
    chunks = []
    for of_class, counts in bursty(shape.num_classes, shape.num_chunks, rng):
        request, said = show(of_class)
        chunks.append(Chunk(request, question, put(names[of_class]), counts, said))
    return chunks


def _asking(shape: Shape, rng: np.random.Generator) -> tuple[str | None, "_Put"]:
    """What all chunks of an episode ask, and how they put what is right."""
    question = one_of(QUESTIONS[shape.kind], rng) if shape.with_question else None
    return question, _Put(one_of(("{}", "a {}", "this is {}"), rng, (0.8, 0.1, 0.1)))


@dataclass(frozen=True)
class _Put:
    """How an episode puts its names."""

    template: str

    def __call__(self, name: str) -> str:
        return self.template.format(name)


def bursty(num_classes: int, num_chunks: int, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """The class of each chunk, and whether it was there before: every class once, in any order, then any of them.

    Example:
        >>> bursty(2, 4, np.random.default_rng(0))
        [(0, False), (1, False), (1, True), (1, True)]
    """
    first = [(int(of_class), False) for of_class in rng.permutation(num_classes)]
    return [*first, *((int(of_class), True) for of_class in rng.integers(num_classes, size=num_chunks - num_classes))]


def one_of(options: Sequence[T], rng: np.random.Generator, chances: tuple[float, ...] | None = None) -> T:
    """One of several, equally likely ones unless chances are given."""
    return options[rng.choice(len(options), p=chances)]


def different(
    numbers: Sequence[int] | np.ndarray, count: int, rng: np.random.Generator, what: str, option: str = "num_videos"
) -> list[int]:
    """Some of these, each once.

    Raises:
        UsageError: if there are fewer.
    """
    if len(numbers) < count:
        raise UsageError(
            f"episodes: an episode takes {count} different {what}, and there are {len(numbers)}; raise {option}, or "
            "leave its kind out of shares"
        )
    return [int(number) for number in rng.choice(numbers, count, replace=False)]
