"""Records as training texts: what the datasets of `datamodules` share."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from datamodules.records import Record, Records, counted
from datamodules.text_options import SHOWN, TextOptions
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.health import read_index, skip_unreadable


@dataclass(frozen=True)
class _SplitTexts:
    """A split, read.

    Args:
        records: those that are used.
        texts: for each text its record, and whether it is the question.
        unreadable: videos that were left out, each with the reason.
    """

    records: Records
    texts: list[tuple[Record, bool]]
    unreadable: list[tuple[str, str]]

    def __str__(self) -> str:
        words = [str(self.records)]
        if self.unreadable:
            words.append(f"{counted(len(self.unreadable), 'unreadable video')} left out ({self.unreadable[0][1]})")
        return "; ".join(words)


class RecordTexts(Texts):
    """A dataset of records. One text for each thing to learn: a question with its first answer; a caption.

    A record with a question and captions is two texts. Several captions are one text, of which each training draw
    chooses one; in validation and test it is the first.

    A child says where its records come from: `read`.

    Args:
        health: index that `videoflamingo scan` wrote; videos it cannot read are left out and counted. None for all.
        strict: whether a video that is not on disk is an error; otherwise it is left out and counted.
        options: fields of `TextOptions`.
    """

    def __init__(self, *, health: str | None = None, strict: bool = False, **options: Any) -> None:
        self.health, self.strict = health, strict
        self.options = TextOptions(**options)
        self._splits: dict[Split, _SplitTexts] = {}

    @abstractmethod
    def read(self, split: Split) -> Records:
        """The records of a split, none if the dataset has no such split.

        Raises:
            UsageError: if they cannot be read.
        """

    def size(self, split: Split) -> int:
        """How many texts there are; annotations are read when first asked."""
        return len(self._split(split).texts)

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        """Text `index`; in training, as drawn this time."""
        record, asks = self._split(split).texts[index]
        return self.options.text(record, asks=asks, drawn=draw.generator(SHOWN) if split == "train" else None)

    def __str__(self) -> str:
        """What was read, and what left out, of each split so far."""
        read = [f"{split}: {found}" for split, found in self._splits.items() if found.records or found.unreadable]
        return " | ".join(read) or "nothing read yet"

    def _split(self, split: Split) -> _SplitTexts:
        if split not in self._splits:
            records = self.read(split)
            unreadable: list[tuple[str, str]] = []
            if self.health is not None:
                kept, unreadable = skip_unreadable(records.videos, read_index(self.health))
                records = records.of_videos(set(kept))
            texts = [(record, True) for record in records if record.question is not None]
            texts += [(record, False) for record in records if record.captions]
            self._splits[split] = _SplitTexts(records, texts, unreadable)
        return self._splits[split]
