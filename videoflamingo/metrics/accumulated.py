"""The same metrics for a training loop: fed batch by batch, in several processes, and computed over all at the end.

What is kept is the texts themselves, and texts are what processes exchange: CIDEr-D and BLEU of a corpus are not means
of what each process would compute. Results are times 100, as in the functions.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videoflamingo.errors import UsageError
from videoflamingo.metrics.answers import by_kind, exact_match
from videoflamingo.metrics.captions import DocumentFrequencies, bleu, cider_d, rouge_l
from videoflamingo.metrics.wups import Tagger, wups
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()

from torchmetrics import Metric  # noqa: E402

_LINE_END = b"\n"


class TextMetric(Metric):
    """Keeps what it is given as lines of JSON, in a tensor of bytes: the one form of text that torchmetrics gathers.

    A sample's `id`, where given, makes it count once: samplers of distributed evaluation repeat samples so that all
    processes have equally many.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    lines: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def keep(self, ids: Sequence[str] | None, *columns: Sequence[Any]) -> None:
        """Add samples, one for every place in the columns, which are equally long.

        Raises:
            UsageError: if they are not.
        """
        rows = [ids if ids is not None else [None] * len(columns[0]), *columns]
        if len({len(column) for column in rows}) != 1:
            lengths = ", ".join(str(len(column)) for column in rows)
            raise UsageError(f"{type(self).__name__}: was given lists of {lengths} samples; give equally long ones")
        text = b"".join(json.dumps(row).encode() + _LINE_END for row in zip(*rows, strict=True))
        assert isinstance(self.lines, list)
        self.lines.append(torch.tensor(list(text), dtype=torch.uint8, device=self.device))

    def kept(self) -> list[list[Any]]:
        """The samples of all processes, each id once, without the ids; a column for each that was given.

        Raises:
            UsageError: if there are none.
        """
        parts = [self.lines] if isinstance(self.lines, Tensor) else self.lines
        text = b"".join(bytes(part.tolist()) for part in parts)
        rows = [json.loads(line) for line in text.splitlines()]
        once = {(row[0] if row[0] is not None else (number,)): row[1:] for number, row in enumerate(rows)}
        if not once:
            raise UsageError(f"{type(self).__name__}: was given no sample; call update before compute")
        return [list(column) for column in zip(*once.values(), strict=True)]

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        if not self.lines:  # torchmetrics would send floats for a process that saw nothing, and the others bytes
            self.lines = [torch.zeros(0, dtype=torch.uint8, device=self.device)]
        super()._sync_dist(*args, **kwargs)


class CiderD(TextMetric):
    """`videoflamingo.metrics.captions.cider_d` of all captions that were given."""

    def __init__(self, document_frequencies: DocumentFrequencies | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.document_frequencies = document_frequencies

    def update(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        self.keep(ids, predictions, references)

    def compute(self) -> Tensor:
        predictions, references = self.kept()
        score = cider_d(predictions, references, document_frequencies=self.document_frequencies)
        return torch.tensor(score.value, device=self.device)


class Bleu(TextMetric):
    """`videoflamingo.metrics.captions.bleu`: a tensor of BLEU-1 to BLEU-4."""

    def update(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        self.keep(ids, predictions, references)

    def compute(self) -> Tensor:
        return torch.tensor([score.value for score in bleu(*self.kept())], device=self.device)


class RougeL(TextMetric):
    """`videoflamingo.metrics.captions.rouge_l` of all captions that were given."""

    def update(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        self.keep(ids, predictions, references)

    def compute(self) -> Tensor:
        return torch.tensor(rouge_l(*self.kept()).value, device=self.device)


class ExactMatch(TextMetric):
    """`videoflamingo.metrics.answers.exact_match`: percent of right answers, under `all` and under every kind given."""

    def update(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        kinds: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.keep(ids, predictions, answers, kinds if kinds is not None else [""] * len(predictions))

    def compute(self) -> dict[str, Tensor]:
        predictions, answers, kinds = self.kept()
        scores = [exact_match(*pair) for pair in zip(predictions, answers, strict=True)]
        return _tensors(by_kind(scores, kinds), self.device)


class ChoiceAccuracy(TextMetric):
    """Percent of questions whose right option was chosen, under `all` and under every kind given.

    No option chosen (None) is wrong: nothing is ever guessed.
    """

    def update(
        self,
        chosen: Sequence[int | None],
        right: Sequence[int],
        kinds: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.keep(ids, chosen, right, kinds if kinds is not None else [""] * len(chosen))

    def compute(self) -> dict[str, Tensor]:
        chosen, right, kinds = self.kept()
        scores = [float(option == answer) for option, answer in zip(chosen, right, strict=True)]
        return _tensors(by_kind(scores, kinds), self.device)


class Wups(TextMetric):
    """`videoflamingo.metrics.wups.wups`, times 100, under `all` and under every kind given.

    Args:
        threshold: similarities below it are scaled down to a tenth.
        tag: as for the function.

    Raises:
        WordNetMissing: when computed, if WordNet is not on this machine.
    """

    def __init__(self, threshold: float = 0.0, tag: Tagger | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.tag = tag

    def update(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        kinds: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.keep(ids, predictions, answers, kinds if kinds is not None else [""] * len(predictions))

    def compute(self) -> dict[str, Tensor]:
        predictions, answers, kinds = self.kept()
        scores = [
            wups(prediction, accepted, kind, threshold=self.threshold, tag=self.tag)
            for prediction, accepted, kind in zip(predictions, answers, kinds, strict=True)
        ]
        return _tensors(by_kind(scores, kinds), self.device)


def _tensors(scores: dict[str, float], device: torch.device) -> dict[str, Tensor]:
    return {kind: torch.tensor(score, device=device) for kind, score in scores.items()}
