"""How a dataset's media are shown and its texts are put: the options that all datasets share."""

from dataclasses import dataclass, field, replace

import numpy as np

from datamodules.records import Record
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, Medium, PromptTemplate, Segment, Text
from videoflamingo.training.texts import PlannedText
from videoflamingo.video.medium import FilePart, MediumRequest
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import DRAWN, Sampling

SHOWN = 0x73686F77  # keeps these draws apart from others made of the same seed, epoch and position
SEEDS = 2**31  # seeds are drawn from [0, SEEDS)


@dataclass(frozen=True)
class MediaOptions:
    """How media are shown.

    Args:
        sampling: which frames of a video. `random` draws anew each time a text is seen; in validation and test it is
            `uniform`.
        reading: how they are read.
        mirrored_share: how often, in training, left and right are swapped. The paper flips at random in pretraining (v2
            B.1.2); 0 by default because answers may say left and right.
        colour_share: how often, in training, brightness, contrast and saturation are changed (v2 B.1.2); 0 by default,
            because answers may name colours and cached features cannot be changed.

    Raises:
        UsageError: if a share is not in [0, 1].
    """

    sampling: Sampling = field(default_factory=Sampling)
    reading: ReadOptions = field(default_factory=ReadOptions)
    mirrored_share: float = 0.0
    colour_share: float = 0.0

    def __post_init__(self) -> None:
        check_share("mirrored_share", self.mirrored_share)
        check_share("colour_share", self.colour_share)

    def request(
        self,
        source: str | FilePart,
        drawn: np.random.Generator | None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> MediumRequest:
        """What to read of a medium.

        Args:
            drawn: in training, where draws come from: always as many, whatever the options; None elsewhere.
            start_seconds, end_seconds: the part that is meant, where there is one.
        """
        sampling = self.sampling
        if start_seconds is not None or end_seconds is not None:
            sampling = replace(sampling, start_seconds=start_seconds, end_seconds=end_seconds)
        if drawn is None:
            if sampling.method in DRAWN:
                sampling = replace(sampling, method="uniform", frames_per_second=None)
            return MediumRequest(source, sampling, self.reading)
        mirrored, coloured = drawn.random(2) < (self.mirrored_share, self.colour_share)
        seed, colour_seed = (int(number) for number in drawn.integers(SEEDS, size=2))
        return MediumRequest(
            source,
            sampling,
            self.reading,
            seed=seed if sampling.method in DRAWN else None,
            mirrored=bool(mirrored),
            colour_seed=colour_seed if coloured else None,
        )


@dataclass(frozen=True)
class TextOptions(MediaOptions):
    """How media are shown, and how questions and captions are put.

    Args:
        template: words around a question, an answer, a caption. The default is the paper's form of examples,
            `<image>Output: caption<EOC>`; with an empty `before_caption` it is that of pretraining pairs,
            `<image>caption<EOC>` (v1 3.2).
        caption_space_share: with an empty `before_caption`, how often, in training, a caption begins with a space; 0.5
            in the paper, for the tokenizer's sake (v2 B.1.2).
        question_mark: put one after questions that end without.
        options_in_question: put a multiple-choice question's options after it, `Options: a; b; c.`; otherwise the right
            option is an answer in words.

    Raises:
        UsageError: if a share is not in [0, 1], or the template puts the space already.
    """

    template: PromptTemplate = field(default_factory=PromptTemplate)
    caption_space_share: float = 0.0
    question_mark: bool = False
    options_in_question: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("caption_space_share", self.caption_space_share)
        if self.caption_space_share and self.template.before_caption:
            raise UsageError(
                f"caption_space_share={self.caption_space_share:g}: a caption after {self.template.before_caption!r} "
                "always begins with a space; set template.before_caption to '', or leave the share out"
            )

    def text(
        self,
        record: Record,
        *,
        asks: bool,
        drawn: np.random.Generator | None,
        source: FilePart | None = None,
    ) -> PlannedText:
        """The text of a record: its question, or one of its captions.

        Args:
            asks: whether it is the question. Answers after the first are for scoring only.
            drawn: in training, where draws come from; None elsewhere: the first caption, nothing changed.
            source: where the video is, if not at `record.video`.
        """
        chosen, spaced = (0.0, 0.5) if drawn is None else drawn.random(2)
        if asks:
            segments = self.template.ask(self._question(record), record.answers[0])
        else:
            caption = record.captions[int(chosen * len(record.captions))]
            segments = self._caption(caption, spaced < self.caption_space_share)
        request = self.request(source or record.video, drawn, record.start_seconds, record.end_seconds)
        return PlannedText(segments, [request], place=record.place)

    def _question(self, record: Record) -> str:
        question = (record.question or "").strip()
        if self.question_mark and not question.endswith("?"):
            question = f"{question}?"
        if self.options_in_question and record.options:
            question = f"{question} Options: {'; '.join(record.options)}."
        return question

    def _caption(self, caption: str, spaced: bool) -> list[Segment]:
        if self.template.before_caption:
            return self.template.ask(None, caption)
        return [Medium(), Text(f" {caption}" if spaced else caption, is_answer=True), EndOfChunk()]


def check_share(name: str, value: float) -> None:
    """Raise a UsageError if it is no share."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value}: give a share from 0 to 1")
