"""Clips and words in, words out: a model with its prompts and its decoding. What `videoflamingo.load` returns."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from videoflamingo.clip import Clip
from videoflamingo.decoding import Decoding, answer_text, settled_text
from videoflamingo.errors import ModelError, UsageError
from videoflamingo.generation import Generated, encode_segments, generate, score_choices, stream
from videoflamingo.models.attention import Backend
from videoflamingo.models.checkpoint import load_checkpoint
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.models.language import Quantization
from videoflamingo.prompt import PROMPTS, EncodedPrompt, PromptTemplate, Segment, Shot
from videoflamingo.startup import collection_paused

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Args:
        text: trimmed; empty if the model said nothing.
        score: mean log-probability of its tokens.
        num_tokens: how many tokens that is, the end of chunk among them.
        lowest: log-probability of the least likely of them: how sure the model is where it is least sure.
    """

    text: str
    score: float
    num_tokens: int
    lowest: float = 0.0

    @property
    def sum(self) -> float:
        """Summed log-probability."""
        return self.score * self.num_tokens


class VideoFlamingo:
    """A model ready to be asked about clips.

    Several threads may use one: nothing is kept between calls.

    Args:
        model: in eval mode, on its device.
        name: for reports.
        template: how questions and captions are put.
    """

    def __init__(self, model: Flamingo, name: str = "custom", template: PromptTemplate | None = None) -> None:
        self.model, self.name = model, name
        self.template = template or PromptTemplate()

    def with_prompts(self, prompts: str) -> "VideoFlamingo":
        """The same model, with other wording: `paper` or `openflamingo`."""
        return VideoFlamingo(self.model, self.name, PROMPTS[prompts])

    def __repr__(self) -> str:
        weight = self.model.new_tokens.weight
        return f"VideoFlamingo({self.name}, {str(weight.dtype).removeprefix('torch.')} on {weight.device})"

    def ask(self, clip: Clip, question: str, *, shots: Sequence[Shot] = (), **options: Any) -> str:
        """The answer to a question, after any number of examples. See `answer` for its score and the options."""
        return self.answer(clip, question, shots=shots, **options).text

    def caption(self, clip: Clip, *, shots: Sequence[Shot] = (), **options: Any) -> str:
        """One description of the clip. See `answer` for the options."""
        return self.answer(clip, None, shots=shots, **options).text

    def answer(self, clip: Clip, question: str | None, *, shots: Sequence[Shot] = (), **options: Any) -> Answer:
        """Answer a question, or caption where it is None.

        Args:
            clip: what is asked about.
            shots: examples put before it, in this order.
            options: fields of `videoflamingo.decoding.Decoding`, such as `max_new_tokens` (30 if not given) or
                `temperature`. `num_beams` is 3, as in the paper, or 1 where options of sampling are given. Stop words
                are added to the template's: the answer ends as soon as it contains one, and is cut there.

        Raises:
            UsageError: if an option is out of range, or two exclude each other.
        """
        if options.get("num_samples", 1) > 1:
            raise UsageError(f"num_samples is {options['num_samples']}, but this gives one answer; call answers")
        (answer,) = self.answers(clip, question, shots=shots, **options)
        return answer

    def answers(self, clip: Clip, question: str | None, *, shots: Sequence[Shot] = (), **options: Any) -> list[Answer]:
        """Several answers, drawn independently: `answers(clip, "What?", temperature=1.0, num_samples=5)`.

        Args:
            clip, question, shots, options: as in `answer`. Clip and prompt are encoded once.
        """
        decoding = self.decoding(options)
        visual_tokens = self.encode_clips([*(shot.clip for shot in shots), clip])
        drawn = generate(self.model, [self.encode_prompt(question, shots)], visual_tokens, decoding)
        return [self.read(generated, decoding) for generated in drawn]

    def stream(self, clip: Clip, question: str | None, *, shots: Sequence[Shot] = (), **options: Any) -> Iterator[str]:
        """The answer in pieces, each as soon as it is sure to stay; together they are what `ask` gives without beams.

        Args:
            clip, question, shots, options: as in `answer`, but greedy unless options of sampling are given.

        Raises:
            UsageError: at once, if an option is wrong, or beams are asked for.
        """
        decoding = self.decoding({"num_beams": 1, **options})
        visual_tokens = self.encode_clips([*(shot.clip for shot in shots), clip])
        tokens = stream(self.model, self.encode_prompt(question, shots), visual_tokens, decoding)
        return self._pieces(tokens, self._template(decoding))

    def _pieces(self, tokens: Iterator[int], template: PromptTemplate) -> Iterator[str]:
        token_ids: list[int] = []
        text, shown = "", 0
        for token in tokens:
            token_ids.append(token)
            text = answer_text(self.model, token_ids)
            piece = template.trim(settled_text(text, template.stop_words))[shown:]
            if piece:
                yield piece
            shown += len(piece)
        if rest := template.trim(text)[shown:]:
            yield rest

    def decoding(self, options: dict[str, Any]) -> Decoding:
        """The options of `answer` with its defaults: three beams, the template's stop words."""
        decoding = Decoding(**options)
        num_beams = options.get("num_beams", 1 if decoding.samples else 3)
        return replace(decoding, num_beams=num_beams, stop_words=[*self.template.stop_words, *decoding.stop_words])

    def _template(self, decoding: Decoding) -> PromptTemplate:
        """The template, which also trims at the stop words of this call."""
        return replace(self.template, stop_words=tuple(decoding.stop_words))

    def rank(
        self,
        clip: Clip,
        question: str | None,
        choices: Sequence[str],
        *,
        shots: Sequence[Shot] = (),
        by: Literal["sum", "mean"] = "sum",
    ) -> list[Answer]:
        """The given choices, most likely first.

        Args:
            by: compare summed log-probabilities (the paper's literal reading, v1 3.3) or means per token.

        Raises:
            UsageError: if there are no choices, or one is empty or given twice.
        """
        refuse_wrong_choices(choices)
        visual_tokens = self.encode_clips([*(shot.clip for shot in shots), clip])
        continuations = [self.encode_choice(choice) for choice in choices]
        (scored,) = score_choices(self.model, [self.encode_prompt(question, shots)], [continuations], visual_tokens)
        answers = [as_answer(one, choice) for one, choice in zip(scored, choices, strict=True)]
        return ranked(answers, by)

    def encode_prompt(self, question: str | None, shots: Sequence[Shot] = ()) -> EncodedPrompt:
        """Tokens of the shots and of the question, or of a caption's beginning where it is None."""
        segments: list[Segment] = []
        for shot in shots:
            segments += self.template.ask(shot.question, shot.answer)
        segments += self.template.ask(question)
        return encode_segments(self.model, segments)

    def encode_choice(self, choice: str) -> list[int]:
        """Tokens of an answer with its end of chunk, as they stand in training."""
        return [*self.model.tokenize(f"{self.template.answer_space}{choice.strip()}"), self.model.end_of_chunk_id]

    @torch.inference_mode()
    def encode_clips(self, clips: Sequence[Clip]) -> Tensor:
        """Visual tokens `[1, M, N, D]` of M clips of any lengths; each distinct frame is encoded once."""
        frames, frame_index = distinct_frames(clips)
        vision = self.model.vision
        pixels = torch.cat([vision.preprocess(own) for own in frames])  # [F, 3, size, size]
        return self.model.encode(pixels.to(self.model.device), torch.from_numpy(frame_index)[None])

    def read(self, generated: Generated, decoding: Decoding) -> Answer:
        """Tokens as an answer, cut where these options stop."""
        trim = self._template(decoding).trim
        return as_answer(generated, trim(answer_text(self.model, generated.token_ids)))


def refuse_wrong_choices(choices: Sequence[str]) -> None:
    """Choices can be ranked if there are any, all different, none empty.

    Raises:
        UsageError: otherwise.
    """
    if not choices or len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
        raise UsageError(f"choices {list(choices)} must be one or more different, non-empty texts")


def ranked(answers: Sequence[Answer], by: Literal["sum", "mean"]) -> list[Answer]:
    """Most likely first; of equally likely ones the first stays first."""
    return sorted(answers, key=lambda answer: answer.sum if by == "sum" else answer.score, reverse=True)


def as_answer(generated: Generated, text: str) -> Answer:
    """The text with what its tokens say of it."""
    return Answer(text, generated.score, len(generated.token_ids), generated.lowest)


def distinct_frames(clips: Sequence[Clip]) -> tuple[list[np.ndarray], np.ndarray]:
    """The frames to encode, and where each clip finds its own among them.

    A clip given twice is encoded once, and so is a frame that a short video shows at several of the asked times.

    Returns:
        frames uint8 `[T', 3, height, width]`, one array for each distinct clip, F frames in all; and frame_index
        `[M, T]`, int64 into F, -1 = padding.

    Example:
        >>> clip = Clip(np.zeros((3, 3, 8, 8), np.uint8), np.array([0.0, 0.0, 1.0]))
        >>> frames, index = distinct_frames([clip, clip])
        >>> len(frames), frames[0].shape, index.tolist()
        (1, (2, 3, 8, 8), [[0, 0, 1], [0, 0, 1]])
    """
    frames: list[np.ndarray] = []
    places: dict[int, np.ndarray] = {}
    num_frames = 0
    for clip in clips:
        if id(clip) not in places:
            _, first, inverse = np.unique(clip.pts_seconds, return_index=True, return_inverse=True)
            frames.append(clip.frames[first])
            places[id(clip)] = num_frames + inverse
            num_frames += len(first)
    frame_index = np.full((len(clips), max(len(clip) for clip in clips)), -1, np.int64)
    for row, clip in enumerate(clips):
        frame_index[row, : len(clip)] = places[id(clip)]
    return frames, frame_index


def choose_device(name: str = "auto") -> torch.device:
    """`auto` = CUDA where there is one, else the CPU; or `cpu`, `cuda`, `cuda:1`.

    Raises:
        ModelError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is unknown; give auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported; give auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` = bfloat16 where it is the faster one, else float32.

    It is on CUDA, on CPUs with AMX, and on AMD's with AVX512-BF16, but not on Intel's (docs/decisions/0008).

    Raises:
        ModelError: if the name is unknown.
    """
    if name == "auto":
        ask: Any = getattr(torch.cpu, "get_capabilities", dict)  # newer than PyTorch 2.10
        capabilities = {} if device.type == "cuda" else ask()
        is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
        is_faster = capabilities.get("amx_bf16") or (is_amd and capabilities.get("avx512_bf16"))
        return torch.bfloat16 if device.type == "cuda" or is_faster else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is unknown; give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load(
    name: str | os.PathLike[str] = "tiny",
    *,
    device: str = "auto",
    dtype: DTypeName = "auto",
    attention: Backend = "auto",
    quantize: Quantization = "none",
) -> VideoFlamingo:
    """A bundled model by name, or a checkpoint folder, ready to be asked.

    Args:
        name: `tiny`, or the folder of a checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        quantize: `int8` keeps the language model's weights in 8 bits: less memory, close answers; needs torchao.
        attention: kernel of gated blocks and resampler: `auto`, or one by name (`math`, `sdpa`, `xformers`).

    Raises:
        ModelError: if there is no such model or device, or the checkpoint does not fit.
    """
    chosen = choose_device(device)
    with collection_paused():
        model = load_checkpoint(name, choose_dtype(dtype, chosen), quantize).to(chosen)
    if attention != "auto":
        model.force_attention(attention)
    return VideoFlamingo(model, str(name))
