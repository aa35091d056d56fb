"""Shots and a query -> token ids, media index and labels. Pure functions of text; no model is needed.

The media index is a function of the prompt's segments, not of token ids: the paper's `<image>` is plain text (v1
3.2.1), and the same characters inside a user's text mean nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from videoflamingo.clip import Clip

IGNORED_LABEL = -100  # what torch's cross-entropy leaves out
MediaOfText = Literal["previous", "next"]
MEDIA_OF_TEXT_DRAW = 0x6E657874  # keeps this draw apart from others made of the same seed and position


@dataclass(frozen=True)
class Text:
    """A piece of text; an answer where the loss counts in `answers` mode."""

    text: str
    is_answer: bool = False


@dataclass(frozen=True)
class Medium:
    """The place of the next video or picture."""


@dataclass(frozen=True)
class EndOfChunk:
    """The end of what was said of one medium; belongs to the answer before it."""

    is_answer: bool = True


Segment = Text | Medium | EndOfChunk


@dataclass(frozen=True)
class Shot:
    """One example: a clip with its answer; without a question it is a caption."""

    clip: "Clip"
    question: str | None
    answer: str


@dataclass(frozen=True)
class PromptTemplate:
    """How questions and captions are put; defaults are the paper's (v1 figure 8 and 4.1.3).

    Args:
        before_question, before_answer: as in `<image>Question: {q} Answer: {a}<EOC>`.
        before_caption: as in `<image>Output: {caption}<EOC>`.
        answer_space: between those words and an answer or caption.
        between_examples: after each example's end of chunk, before what follows.
        stop_words: an answer is cut at the first of these (v1 4.4.1: without an end of chunk the model may go on with
            another prompt).
    """

    before_question: str = "Question: "
    before_answer: str = " Answer:"
    before_caption: str = "Output:"
    answer_space: str = " "
    between_examples: str = ""
    stop_words: tuple[str, ...] = ("Question:", "Answer:", "Output:")

    def ask(self, question: str | None, answer: str | None = None, *, has_medium: bool = True) -> list[Segment]:
        """Segments of one medium with its question, or caption if there is none; without an answer it ends where the
        model goes on.

        Args:
            has_medium: False for an example in words only, such as the two of a zero-shot prompt (v1 4.1.3).
        """
        asked = self.before_caption if question is None else f"{self.before_question}{question}{self.before_answer}"
        segments: list[Segment] = [Medium()] if has_medium else []
        segments.append(Text(asked))
        if answer is not None:
            segments += [Text(f"{self.answer_space}{answer}", is_answer=True), EndOfChunk()]
            if self.between_examples:
                segments.append(Text(self.between_examples))
        return segments

    def trim(self, answer: str) -> str:
        """The answer up to the first stop word, without surrounding space.

        Example:
            >>> PromptTemplate().trim(" left Question: what?")
            'left'
        """
        for word in self.stop_words:
            answer = answer.split(word)[0]
        return answer.strip()


PROMPTS = {
    "paper": PromptTemplate(),
    # What OpenFlamingo 2 asks of VQA and captioning datasets; it cuts what follows at these words, too.
    "openflamingo": PromptTemplate(
        before_question="Question:",
        before_answer=" Short answer:",
        answer_space="",
        between_examples="\n",
        stop_words=("Question", "Answer", "Short", "Output"),
    ),
}


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids with what the model needs to know of each; all lists have the length of the text.

    Args:
        token_ids: int.
        media_index: 0 = no medium (none yet; with `media_of_text="next"`, none to come), else the 1-based number of the
            medium the token belongs to.
        is_answer: whether the token belongs to an answer.
        num_media: media the prompt has places for.
    """

    token_ids: list[int]
    media_index: list[int]
    is_answer: list[bool]
    num_media: int = field(default=0)

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.media_index) == len(self.is_answer):
            raise ValueError("EncodedPrompt: token_ids, media_index and is_answer must have one length")

    def __len__(self) -> int:
        return len(self.token_ids)

    def labels(self, loss_on: str = "all") -> list[int]:
        """Token ids where the loss counts, `IGNORED_LABEL` elsewhere.

        `all` is the paper: its objective sums over every text token (v2 2 and v1 3.2.3), so media tags, text before the
        first medium and text without a medium count as well. `answers` keeps answers and their ends of chunk only. Both
        are the same whichever medium the text belongs to.

        Raises:
            ValueError: if `loss_on` is neither.
        """
        if loss_on not in ("all", "answers"):
            raise ValueError(f"loss_on is {loss_on!r}; choose 'all' (the paper) or 'answers'")
        keep = self.is_answer if loss_on == "answers" else [True] * len(self)
        return [token if kept else IGNORED_LABEL for token, kept in zip(self.token_ids, keep, strict=True)]


def encode_prompt(
    segments: Sequence[Segment],
    tokenize: Callable[[str], list[int]],
    *,
    end_of_chunk_id: int,
    media_tag_ids: Sequence[int] = (),
    begin_id: int | None = None,
    media_of_text: MediaOfText = "previous",
) -> EncodedPrompt:
    """Segments -> tokens. Each segment is tokenised by itself, so an answer's tokens do not depend on what is around.

    With `media_of_text="next"` text belongs to the medium after it (Flamingo v2 A.3.2: on web pages a picture may
    follow what is said of it). Token ids, answers and labels stay as they are; only the media index changes. A media
    tag stands at its medium's place and belongs to that medium in both modes. Text after the last medium then has none
    (0): the paper is silent, this is OpenFlamingo's choice. `next` is for training: text then sees a picture that comes
    later, while a generated answer follows its medium.

    Args:
        segments: in order.
        tokenize: text -> token ids, adding nothing of its own.
        end_of_chunk_id: id of the new token.
        media_tag_ids: tokens put at each medium, to which they belong: `Flamingo.media_tag_ids`.
        begin_id: token put first, or None; text like any other.
        media_of_text: whether text belongs to the medium before it or after it; see `draw_media_of_text`.

    Raises:
        ValueError: if `media_of_text` is neither.

    Example:
        >>> encoded = encode_prompt([Text("a"), Medium(), Text("b", is_answer=True), EndOfChunk()],
        ...                         lambda text: [ord(letter) for letter in text],
        ...                         end_of_chunk_id=999, media_tag_ids=[35])
        >>> encoded.token_ids, encoded.media_index
        ([97, 35, 98, 999], [0, 1, 1, 1])
        >>> encoded.labels("answers")
        [-100, -100, 98, 999]
    """
    if media_of_text not in ("previous", "next"):
        raise ValueError(f"media_of_text is {media_of_text!r}; choose 'previous' (the paper's prompts) or 'next'")
    total = sum(isinstance(segment, Medium) for segment in segments)
    token_ids: list[int] = []
    media_index: list[int] = []
    is_answer: list[bool] = []
    num_media = 0

    def add(ids: list[int], medium: int, answer: bool = False) -> None:
        token_ids.extend(ids)
        media_index.extend([medium] * len(ids))
        is_answer.extend([answer] * len(ids))

    def of_text() -> int:
        if media_of_text == "previous":
            return num_media
        return num_media + 1 if num_media < total else 0

    if begin_id is not None:
        add([begin_id], of_text())
    for segment in segments:
        if isinstance(segment, Medium):
            num_media += 1
            add(list(media_tag_ids), num_media)
        elif isinstance(segment, EndOfChunk):
            add([end_of_chunk_id], of_text(), segment.is_answer)
        else:
            add(tokenize(segment.text), of_text(), segment.is_answer)
    return EncodedPrompt(token_ids, media_index, is_answer, num_media)


def draw_media_of_text(p_next: float, *place: int) -> MediaOfText:
    """Which medium the text of one interleaved page belongs to: `next` with probability `p_next` (Flamingo v2 A.3.2).

    A function of its arguments and of nothing else, so that a resumed run draws what the first one drew.

    Args:
        p_next: in [0, 1]; the paper's is 1/2, for interleaved pages only.
        place: which page this is, each number 0 or more: for instance seed, epoch, position.

    Raises:
        ValueError: if `p_next` is no probability, or the place is missing or negative.

    Example:
        >>> [draw_media_of_text(0.5, 0, position) for position in range(4)]
        ['previous', 'previous', 'previous', 'next']
    """
    if not 0 <= p_next <= 1:
        raise ValueError(f"p_next is {p_next}; give a probability in [0, 1] (the paper's is 0.5)")
    if not place or min(place) < 0:
        raise ValueError(f"the page's place is {place}; give whole numbers of 0 or more, such as seed, epoch, position")
    drawn = np.random.default_rng([MEDIA_OF_TEXT_DRAW, *place]).random()  # in [0, 1)
    return "next" if drawn < p_next else "previous"


@dataclass(frozen=True, eq=False)
class PaddedPrompts:
    """Prompts as arrays `[B, L]`, int64; padding has token 0, media index 0, no attention and no label."""

    input_ids: np.ndarray
    media_index: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray

    @property
    def position_ids(self) -> np.ndarray:
        """Positions that count text only, so that padding changes nothing."""
        return np.maximum(self.attention_mask.cumsum(1) - 1, 0)


def pad_prompts(prompts: Sequence[EncodedPrompt], *, side: str, loss_on: str = "all") -> PaddedPrompts:
    """Stack prompts of different lengths, padded on the `left` (generation) or `right` (training)."""
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}; choose 'left' or 'right'")
    shape = (len(prompts), max(len(prompt) for prompt in prompts))
    padded = PaddedPrompts(
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED_LABEL)
    )
    for row, prompt in enumerate(prompts):
        columns = slice(0, len(prompt)) if side == "right" else slice(shape[1] - len(prompt), shape[1])
        padded.input_ids[row, columns] = prompt.token_ids
        padded.media_index[row, columns] = prompt.media_index
        padded.attention_mask[row, columns] = 1
        padded.labels[row, columns] = prompt.labels(loss_on)
    return padded
