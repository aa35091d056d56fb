"""Clips and words in, words out: a model with its prompts and its decoding. What `videoflamingo.load` returns."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videoflamingo.clip import Clip
from videoflamingo.errors import ModelError, UsageError
from videoflamingo.generation import Generated, generate, score_choices
from videoflamingo.models.checkpoint import load_checkpoint
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.prompt import EncodedPrompt, PromptTemplate, Segment, Shot, encode_prompt
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
    """

    text: str
    score: float
    num_tokens: int

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

    def __repr__(self) -> str:
        weight = self.model.new_tokens.weight
        return f"VideoFlamingo({self.name}, {str(weight.dtype).removeprefix('torch.')} on {weight.device})"

    def ask(
        self,
        clip: Clip,
        question: str,
        *,
        shots: Sequence[Shot] = (),
        max_new_tokens: int = 30,
        num_beams: int = 3,
    ) -> str:
        """The answer to a question, after any number of examples. See `answer` for its score."""
        return self.answer(clip, question, shots=shots, max_new_tokens=max_new_tokens, num_beams=num_beams).text

    def caption(self, clip: Clip, *, shots: Sequence[Shot] = (), max_new_tokens: int = 30, num_beams: int = 3) -> str:
        """One description of the clip."""
        return self.answer(clip, None, shots=shots, max_new_tokens=max_new_tokens, num_beams=num_beams).text

    def answer(
        self,
        clip: Clip,
        question: str | None,
        *,
        shots: Sequence[Shot] = (),
        max_new_tokens: int = 30,
        num_beams: int = 3,
    ) -> Answer:
        """Answer a question, or caption where it is None.

        Args:
            clip: what is asked about.
            shots: examples put before it, in this order.
            max_new_tokens: bound on the answer's length.
            num_beams: 3 in the paper; 1 = greedy.
        """
        prompt = self.encode_prompt(question, shots)
        visual_tokens = self.encode_clips([*(shot.clip for shot in shots), clip])
        (generated,) = generate(self.model, [prompt], visual_tokens, max_new_tokens=max_new_tokens, num_beams=num_beams)
        return self._answer(generated, self.template.trim(self._decode(generated)))

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
        if not choices or len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
            raise UsageError(f"choices {list(choices)} must be one or more different, non-empty texts")
        visual_tokens = self.encode_clips([*(shot.clip for shot in shots), clip])
        continuations = [self.encode_choice(choice) for choice in choices]
        (scored,) = score_choices(self.model, [self.encode_prompt(question, shots)], [continuations], visual_tokens)
        answers = [self._answer(one, choice) for one, choice in zip(scored, choices, strict=True)]
        return sorted(answers, key=lambda answer: answer.sum if by == "sum" else answer.score, reverse=True)

    def encode_prompt(self, question: str | None, shots: Sequence[Shot] = ()) -> EncodedPrompt:
        """Tokens of the shots and of the question, or of a caption's beginning where it is None."""
        segments: list[Segment] = []
        for shot in shots:
            segments += self.template.ask(shot.question, shot.answer)
        segments += self.template.ask(question)
        return encode_prompt(
            segments,
            self._tokenize,
            end_of_chunk_id=self.model.end_of_chunk_id,
            media_tag=self.model.config.media_tag,
            begin_id=self.model.tokenizer.bos_token_id,
        )

    def encode_choice(self, choice: str) -> list[int]:
        """Tokens of an answer with its end of chunk, as they stand in training."""
        return [*self._tokenize(f" {choice.strip()}"), self.model.end_of_chunk_id]

    @torch.inference_mode()
    def encode_clips(self, clips: Sequence[Clip]) -> Tensor:
        """Visual tokens `[1, M, N, D]` of M clips of any lengths; each distinct frame is encoded once."""
        frames, frame_index = distinct_frames(clips)
        vision = self.model.vision
        pixels = torch.cat([vision.preprocess(own) for own in frames])  # [F, 3, size, size]
        return self.model.encode(pixels.to(self.model.device), torch.from_numpy(frame_index)[None])

    def _tokenize(self, text: str) -> list[int]:
        return self.model.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _decode(self, generated: Generated) -> str:
        kept = [token for token in generated.token_ids if token < self.model.end_of_chunk_id]
        return self.model.tokenizer.decode(kept, skip_special_tokens=True)

    @staticmethod
    def _answer(generated: Generated, text: str) -> Answer:
        return Answer(text, generated.score, len(generated.token_ids))


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
    """`auto` = bfloat16 where it is the faster one (CUDA; CPUs with AMX, docs/decisions/0008), else float32.

    Raises:
        ModelError: if the name is unknown.
    """
    if name == "auto":
        capabilities = {} if device.type == "cuda" else torch.cpu.get_capabilities()
        return torch.bfloat16 if device.type == "cuda" or capabilities.get("amx_bf16") else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is unknown; give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load(name: str | os.PathLike[str] = "tiny", *, device: str = "auto", dtype: DTypeName = "auto") -> VideoFlamingo:
    """A bundled model by name, or a checkpoint folder, ready to be asked.

    Args:
        name: `tiny`, or the folder of a checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.

    Raises:
        ModelError: if there is no such model or device, or the checkpoint does not fit.
    """
    chosen = choose_device(device)
    with collection_paused():
        model = load_checkpoint(name, choose_dtype(dtype, chosen)).to(chosen)
    return VideoFlamingo(model, str(name))
