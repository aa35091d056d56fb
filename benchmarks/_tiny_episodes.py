"""Queries of `tiny_quality.py`, rows of them with their controls, and episodes with made-up names.

Of an episode all is drawn anew for each query: which clips are the shots, their order, and the names. It asks nothing
(`Output: name`), as most of those trained on, and is answered openly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from _tiny_media import View

from datamodules.world.names import made_up_names

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """One thing to ask, with what is right.

    Args:
        shots: views with their answers, in the prompt's order.
        choices: to rank; none = answered openly, word for word.
        follows: of swapped shots, the answer of whoever takes them at their word.
    """

    view: View
    question: str | None
    answer: str
    shots: tuple[tuple[View, str], ...] = ()
    choices: tuple[str, ...] = ()
    follows: str | None = None

    @property
    def views(self) -> list[View]:
        """All that is shown."""
        return [*(view for view, _ in self.shots), self.view]

    def shown(self, change: Callable[[View], View]) -> "Query":
        """The same with all that is shown changed."""
        return replace(self, view=change(self.view), shots=tuple((change(view), said) for view, said in self.shots))

    def blind(self) -> "Query":
        """The same about grey frames, after the same shots."""
        return replace(self, view=self.view.blank())


@dataclass
class Row:
    """Queries of one kind.

    Args:
        group: heading of the report, and what `--rows` chooses by.
        chance: how often guessing is right; None where nobody can say.
        controls: by name, the same queries with something taken away.
        target: what the row is to reach; of a rule, that its interval lies above that of this control.
        part_of: row of the report that sums up this one and its likes.
        note: what to know when reading it.
        nearest: whether to measure as well how often the shot most alike has the right name.
    """

    group: str
    name: str
    queries: list[Query]
    chance: float | None
    controls: dict[str, list[Query]] = field(default_factory=dict)
    target: float | str | None = None
    part_of: str | None = None
    note: str = ""
    nearest: bool = False


def episode(
    view: View, of_class: int, classes: Sequence[Sequence[View]], rng: np.random.Generator
) -> tuple[Query, Query]:
    """A query after the shots of each class, in random order under made-up names; and again with the names swapped.

    Swapped, every class has the name of another.
    """
    names = made_up_names(len(classes), rng)
    shots = [(shot, number) for number, own in enumerate(classes) for shot in own]
    shots = [shots[place] for place in rng.permutation(len(shots))]
    turn = int(rng.integers(1, len(classes)))
    others = names[turn:] + names[:turn]
    query = Query(view, None, names[of_class], tuple((shot, names[number]) for shot, number in shots))
    swapped = replace(query, shots=tuple((shot, others[number]) for shot, number in shots), follows=others[of_class])
    return query, swapped


def row_of_episodes(
    group: str,
    name: str,
    episodes: Iterable[tuple[Query, Query]],
    num_classes: int,
    target: float | None = None,
    *,
    part_of: str | None = None,
    note: str = "",
    nearest: bool = False,
) -> Row:
    """Episodes of so many classes with the controls that they all have."""
    queries, swapped = (list(own) for own in zip(*episodes, strict=True))
    controls = {"blind": [query.blind() for query in queries], "swapped": swapped}
    return Row(group, name, queries, 1 / num_classes, controls, target, part_of, note, nearest)


def some(options: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """Different ones, in random order."""
    return [options[place] for place in rng.choice(len(options), count, replace=False)]
