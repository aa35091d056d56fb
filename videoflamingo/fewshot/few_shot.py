"""A model with its examples, from Python: asked about one clip or many."""

import itertools
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError
from videoflamingo.fewshot.engine import Asked, FewShotEngine, Shown
from videoflamingo.fewshot.ensembling import ensembled, orders
from videoflamingo.fewshot.media_store import MediaStore
from videoflamingo.pipeline import Answer, VideoFlamingo, ranked, refuse_wrong_choices
from videoflamingo.prompt import Shot


class FewShot:
    """A model that has been shown a few examples. They are computed once, whatever is asked afterwards.

    Args:
        model: from `videoflamingo.load`.
        shots: in the order of the prompt; images and videos of different lengths may be mixed.
        ensemble: orders of the shots with which `rank` scores every choice, whose log-likelihoods are then averaged
            (the paper: 6). `ask` and `answers` take the given order.
        seed: of the draw of those orders.

    Raises:
        UsageError: if `ensemble` is less than 1.
    """

    def __init__(self, model: VideoFlamingo, shots: Sequence[Shot], *, ensemble: int = 1, seed: int = 0) -> None:
        self.model, self.shots = model, tuple(shots)
        self._clips: dict[Hashable, Clip] = {number: shot.clip for number, shot in enumerate(self.shots)}
        shown = [Shown(number, shot.question, shot.answer) for number, shot in enumerate(self.shots)]
        self._orders = orders(shown, ensemble, seed)
        self._numbers = itertools.count(len(self.shots))
        self._lock = threading.Lock()
        self.media = MediaStore(model, lambda keys: [self._clips[key] for key in keys])
        self.engine = FewShotEngine(model, self.media)

    def ask(
        self, clips: Clip | Sequence[Clip], question: str | Sequence[str | None] | None, **options: Any
    ) -> list[str]:
        """The answer to each question about each clip; see `answers`."""
        return [answer.text for answer in self.answers(clips, question, **options)]

    def answers(
        self, clips: Clip | Sequence[Clip], question: str | Sequence[str | None] | None, **options: Any
    ) -> list[Answer]:
        """Answers with their scores, in the order of the clips.

        Args:
            clips: one or more.
            question: one for all clips, or one for each; None = a caption.
            options: as of `VideoFlamingo.answer`.

        Raises:
            UsageError: if there are not as many questions as clips, or an option is out of range.
        """
        with self._known(clips) as keys:
            self.engine.keep_prefix(self._orders[0])
            return self.engine.answer(self._asked(keys, question, self._orders[0]), **options)

    def rank(
        self,
        clips: Clip | Sequence[Clip],
        question: str | Sequence[str | None] | None,
        choices: Sequence[str],
        *,
        by: Literal["sum", "mean"] = "sum",
    ) -> list[list[Answer]]:
        """For each clip the given choices, most likely first.

        Args:
            clips, question: as in `answers`.
            choices: the same for all clips.
            by: as in `VideoFlamingo.rank`.

        Raises:
            UsageError: as `answers`, or if there are no choices, or one is empty or given twice.
        """
        refuse_wrong_choices(choices)
        with self._known(clips) as keys:
            of_orders = []
            for shots in self._orders:
                self.engine.keep_prefix(shots)
                of_orders.append(self.engine.score(self._asked(keys, question, shots), [choices] * len(keys)))
        together = [
            [ensembled(of_choice) for of_choice in zip(*of_clip, strict=True)]
            for of_clip in zip(*of_orders, strict=True)
        ]
        return [ranked(own, by) for own in together]

    @contextmanager
    def _known(self, clips: Clip | Sequence[Clip]) -> Iterator[list[Hashable]]:
        """Keys of the clips, which are let go afterwards: only the shots stay."""
        given = [clips] if isinstance(clips, Clip) else list(clips)
        distinct = {id(clip): clip for clip in given}
        with self._lock:
            numbers = {name: next(self._numbers) for name in distinct}
            self._clips.update((numbers[name], clip) for name, clip in distinct.items())
        try:
            yield [numbers[id(clip)] for clip in given]
        finally:
            self.media.forget(numbers.values())
            for number in numbers.values():
                del self._clips[number]

    @staticmethod
    def _asked(
        keys: list[Hashable], question: str | Sequence[str | None] | None, shots: tuple[Shown, ...]
    ) -> list[Asked]:
        questions = [question] * len(keys) if question is None or isinstance(question, str) else list(question)
        if len(questions) != len(keys):
            raise UsageError(
                f"{len(questions)} questions were given for {len(keys)} clips; give one for all, or one for each"
            )
        return [Asked(shots, key, one) for key, one in zip(keys, questions, strict=True)]
