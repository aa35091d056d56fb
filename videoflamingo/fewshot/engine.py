"""Many questions after examples, answered together: shots that questions share are computed once, media encoded once.

What one question gets does not depend on the others, nor on how they are batched.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from videoflamingo.continuation import Prefix, compute_prefix, continue_prompt
from videoflamingo.decoding import Decoding
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.fewshot.media_store import MediaStore
from videoflamingo.generation import encode_segments, generate, score_choices
from videoflamingo.models.flamingo import MediaKeysValues
from videoflamingo.models.shared_prefix import prefix_reuse
from videoflamingo.pipeline import Answer, VideoFlamingo, as_answer
from videoflamingo.prompt import EncodedPrompt, Segment

# Text of all rows of a batch, padding and beams among them: enough for matrix products to be large, and what its keys,
# values and scores take stays in hundreds of megabytes for a language model of 1B parameters.
MAX_TOKENS_TOGETHER = 4096
# Whole prompts of one batch differ in length by less than this factor: the rest would be padding.
LENGTHS_WITHIN = 1.25


@dataclass(frozen=True)
class Shown:
    """An example of a prompt.

    Args:
        medium: key of a media store; None = text only, as the paper's two examples of a zero-shot prompt.
        question: None = a caption.
    """

    medium: Hashable | None
    question: str | None
    answer: str


@dataclass(frozen=True)
class Asked:
    """A question, or a caption asked for where it is None, after its shots in the order of the prompt.

    Args:
        medium: key of a media store; None = text only.
    """

    shots: tuple[Shown, ...]
    medium: Hashable | None
    question: str | None


@dataclass(frozen=True, eq=False)
class _Prompt:
    """One asked question in tokens; `number` is its place among those asked."""

    number: int
    encoded: EncodedPrompt
    media: tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Prompts that are computed together, after a prefix or whole."""

    prompts: list[_Prompt]
    prefix: Prefix | None

    @property
    def numbers(self) -> list[int]:
        return [prompt.number for prompt in self.prompts]

    @property
    def encoded(self) -> list[EncodedPrompt]:
        return [prompt.encoded for prompt in self.prompts]


class FewShotEngine:
    """Answers questions of any number of shots in batches. Several threads may use one.

    Questions with equal shots continue one prefix, which is kept for later calls; others (RICES: own shots for each)
    are computed as whole prompts of similar length. A language model with a window or a running state always gets
    whole prompts.

    Args:
        model: what answers; its template puts the questions.
        media: encodes the media of shots and questions; of the same model.
        max_tokens_together: text tokens of one batch, all rows and beams together; a longer prompt is computed alone.
        share_prefixes: off computes every prompt whole (slow; for comparison).
        max_prefix_bytes: bound on the prefixes that are kept, least recently used go first; one that is in use may
            exceed it.

    Raises:
        UsageError: if a bound is out of range, or the media are another model's.
    """

    def __init__(
        self,
        model: VideoFlamingo,
        media: MediaStore,
        *,
        max_tokens_together: int = MAX_TOKENS_TOGETHER,
        share_prefixes: bool = True,
        max_prefix_bytes: int = 2**30,
    ) -> None:
        for name, value, least in (
            ("max_tokens_together", max_tokens_together, 1),
            ("max_prefix_bytes", max_prefix_bytes, 0),
        ):
            if value < least:
                raise UsageError(f"{name} is {value}; give {least} or more")
        if media.model.model is not model.model:
            raise UsageError("the media store encodes with another model; make it of the model that answers")
        self.model, self.media, self.max_tokens_together = model, media, max_tokens_together
        self.max_prefix_bytes = max_prefix_bytes
        self.reuse = prefix_reuse(model.model.language_model)
        self.share_prefixes = share_prefixes and self.reuse != "none"
        self.num_prefixes_computed = 0
        self._prefixes: OrderedDict[tuple[Shown, ...], Prefix] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def prefix_bytes(self) -> int:
        """Of the prefixes that are kept now."""
        with self._lock:
            return sum(prefix.num_bytes for prefix in self._prefixes.values())

    def answer(self, asked: Sequence[Asked], **options: Any) -> list[Answer]:
        """The answer to each question, in the given order.

        Args:
            options: as of `VideoFlamingo.answer`; `seed` may be a list, one for each question.

        Raises:
            UsageError: if an option is out of range, or several answers to each are asked for.
            VideoError: if a medium cannot be read; `MediaStore.prepare` says beforehand which.
        """
        decoding = self.model.decoding(options)
        if decoding.num_samples > 1:
            raise UsageError(
                f"num_samples is {decoding.num_samples}, but this gives one answer each; call it repeatedly"
            )
        seeds = decoding.seeds(len(asked))  # None for each, where nothing is to be repeated
        answers: dict[int, Answer] = {}
        for batch in self._batches(asked, decoding.num_beams):
            own_seeds = [seed for seed in (seeds[number] for number in batch.numbers) if seed is not None]
            own = replace(decoding, seed=own_seeds or None)
            found = self._generate(batch, own)
            answers.update(zip(batch.numbers, found, strict=True))
        return [answers[number] for number in range(len(asked))]

    def score(self, asked: Sequence[Asked], choices: Sequence[Sequence[str]]) -> list[list[Answer]]:
        """Every choice of every question with its log-likelihood, both in the given order.

        Args:
            choices: of each question.

        Raises:
            UsageError: if a question has no choices, or one is empty.
            VideoError: as in `answer`.
        """
        if len(choices) != len(asked) or not all(choices):
            raise UsageError(f"{len(choices)} lists of choices were given for {len(asked)} questions; give each some")
        if not all(choice.strip() for own in choices for choice in own):
            raise UsageError("a choice is empty; give texts to choose among")
        answers: dict[int, list[Answer]] = {}
        for batch in self._batches(asked, max((len(own) for own in choices), default=1)):
            texts = [choices[number] for number in batch.numbers]
            tokens = [[self.model.encode_choice(choice) for choice in own] for own in texts]
            encoded, media = self._with_media(batch)
            scored = score_choices(self.model.model, encoded, tokens, media=media, prefix=batch.prefix)
            for number, own_texts, own in zip(batch.numbers, texts, scored, strict=True):
                answers[number] = [as_answer(one, text) for one, text in zip(own, own_texts, strict=True)]
        return [answers[number] for number in range(len(asked))]

    def keep_prefix(self, shots: Sequence[Shown]) -> None:
        """Compute the prefix of these shots now, so that even single questions continue it. Nothing without shots."""
        if shots and self.share_prefixes:
            self._prefix(tuple(shots))

    def _generate(self, batch: _Batch, decoding: Decoding) -> list[Answer]:
        encoded, media = self._with_media(batch)
        generated = generate(self.model.model, encoded, decoding=decoding, media=media, prefix=batch.prefix)
        return [self.model.read(one, decoding) for one in generated]

    def _batches(self, asked: Sequence[Asked], num_forks: int) -> Iterator[_Batch]:
        """All that is asked, in batches; each is made when it is its turn, so that only its media are in use.

        Args:
            num_forks: rows that come of one prompt.
        """
        of_shots: dict[tuple[Shown, ...], list[int]] = {}
        for number, one in enumerate(asked):
            of_shots.setdefault(one.shots, []).append(number)
        whole: list[_Prompt] = []
        for shots, numbers in of_shots.items():
            if self._is_shared(shots, len(numbers)):
                prefix = self._prefix(shots)
                prompts = [self._after(prefix, number, asked[number]) for number in numbers]
                for part in self._parts(prompts, num_forks, prefix):
                    yield _Batch(part, prefix)
            else:
                whole += [self._whole(number, asked[number]) for number in numbers]
        for part in self._parts(whole, num_forks, None):
            yield _Batch(part, None)

    def _is_shared(self, shots: tuple[Shown, ...], count: int) -> bool:
        with self._lock:
            return bool(shots) and self.share_prefixes and (count > 1 or shots in self._prefixes)

    def _parts(self, prompts: list[_Prompt], num_forks: int, prefix: Prefix | None) -> Iterator[list[_Prompt]]:
        """Prompts of similar length together, as many as the bound on tokens lets.

        After a shared prefix each row and fork holds its own text; a whole prompt is held once for its forks; where the
        cache is copied, each row and fork holds everything.
        """
        copies = self.reuse != "shared"
        before = len(prefix.prompt) if prefix is not None and copies else 0
        forks = num_forks if prefix is not None or copies else 1
        part: list[_Prompt] = []
        for prompt in sorted(prompts, key=lambda prompt: len(prompt.encoded), reverse=True):
            if part:
                longest, own = len(part[0].encoded), len(prompt.encoded)
                alike = own == longest or (not copies if prefix is not None else own * LENGTHS_WITHIN > longest)
                if not alike or (len(part) + 1) * forks * (before + longest) > self.max_tokens_together:
                    yield part
                    part = []
            part.append(prompt)
        if part:
            yield part

    def _prefix(self, shots: tuple[Shown, ...]) -> Prefix:
        with self._lock:
            if shots not in self._prefixes:
                encoded = encode_segments(self.model.model, self._segments(shots))
                keys = _media_of(shots)
                media = self.media.keys_values(keys) if keys else None
                self._prefixes[shots] = compute_prefix(self.model.model, encoded, media)
                self.num_prefixes_computed += 1
            prefix = self._prefixes[shots]
            self._prefixes.move_to_end(shots)
            while self.prefix_bytes > self.max_prefix_bytes:
                self._prefixes.popitem(last=False)
            return prefix

    def _segments(self, parts: Iterable[Shown | Asked]) -> list[Segment]:
        return [segment for part in parts for segment in self._ask(part)]

    def _ask(self, part: Shown | Asked) -> list[Segment]:
        answer = part.answer if isinstance(part, Shown) else None
        return self.model.template.ask(part.question, answer, has_medium=part.medium is not None)

    def _after(self, prefix: Prefix, number: int, one: Asked) -> _Prompt:
        return _Prompt(number, continue_prompt(self.model.model, prefix.prompt, self._ask(one)), _media_of([one]))

    def _whole(self, number: int, one: Asked) -> _Prompt:
        parts: list[Shown | Asked] = [*one.shots, one]
        return _Prompt(number, encode_segments(self.model.model, self._segments(parts)), _media_of(parts))

    @torch.inference_mode()
    def _with_media(self, batch: _Batch) -> tuple[list[EncodedPrompt], MediaKeysValues | None]:
        """The prompts, and keys and values of their media for every gated block.

        Whole prompts whose text looks at its own medium only number all media of the batch alike, `[1, M, N, H, d]`:
        many share shots, and none is copied for each. Others have `[B, M, N, H, d]`; what is there where a prompt has
        fewer media is looked at by no text.
        """
        failed = self.media.prepare(key for prompt in batch.prompts for key in prompt.media)
        if failed:
            raise VideoError(next(iter(failed.values())))
        keys = list(dict.fromkeys(key for prompt in batch.prompts for key in prompt.media))
        if not keys:
            return batch.encoded, None
        held_once = self.media.keys_values(keys)
        places = [[keys.index(key) for key in prompt.media] for prompt in batch.prompts]
        if batch.prefix is None and self.model.model.config.cross_attention.attend_to == "own":
            renumbered = [
                replace(
                    one,
                    media_index=[own[medium - 1] + 1 if medium else 0 for medium in one.media_index],
                    num_media=len(keys),
                )
                for one, own in zip(batch.encoded, places, strict=True)
            ]
            return renumbered, held_once
        most = max(map(len, places))
        rows = torch.tensor([own + [0] * (most - len(own)) for own in places], device=self.model.model.device)
        return batch.encoded, tuple((own_keys[0][rows], values[0][rows]) for own_keys, values in held_once)


def _media_of(parts: Iterable[Shown | Asked]) -> tuple[Hashable, ...]:
    return tuple(part.medium for part in parts if part.medium is not None)
