"""How an answer is written: the options, checked as they are given, what ends an answer and what may come next.

Its import needs no torch, so that options can be checked before anything is loaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videoflamingo.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from videoflamingo.models.flamingo import Flamingo


@dataclass(frozen=True)
class Decoding:
    """Options of one generation. As they stand: greedy. The paper's open-ended answers use `num_beams=3` (v1 3.3).

    There are three ways, and they exclude each other: greedy; beam search, with `num_beams` above 1; and sampling, with
    any of `temperature`, `top_k` and `top_p`.

    Args:
        max_new_tokens: bound on an answer's length in tokens, its end included. The paper names none.
        min_new_tokens: no stop token comes before this many tokens. Stop words end an answer at any length.
        num_beams: width of the beam search.
        length_penalty: finished beams are compared by their summed log-probability divided by their number of tokens (a
            stop token counts) to this power: 1 compares means, 0 sums. The paper names none; OpenFlamingo uses -2.
        temperature: logits are divided by it before a token is drawn; 1 if only another option of sampling is given.
        top_k: draw among this many likeliest tokens.
        top_p: draw among the likeliest tokens whose probabilities first reach this sum.
        seed: makes a draw repeatable; without it every call draws afresh. Each prompt starts from it, whatever its
            place in a batch: a prompt alone gets what it gets in a batch, but prompts share their random numbers. Where
            they shall be independent of each other, give a seed for each prompt.
        num_samples: answers drawn for each prompt, independent of each other; the prompt is computed once. The first
            few do not depend on how many follow.
        stop_token_ids: tokens that end an answer; None = end of chunk and end of text. OpenFlamingo stops at the
            former only.
        stop_words: texts that end an answer as soon as it contains one. They stay in its tokens; `PromptTemplate.trim`
            cuts them from its text.
        banned: texts that no answer may contain, however they are split into tokens. The media tag is always one.

    Raises:
        UsageError: if a value is out of range, or two exclude each other.

    Example:
        >>> Decoding(temperature=0.7, top_p=0.9, seed=1).samples
        True
    """

    max_new_tokens: int = 30
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | Sequence[int] | None = None
    num_samples: int = 1
    stop_token_ids: Sequence[int] | None = None
    stop_words: Sequence[str] = ()
    banned: Sequence[str] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return (self.temperature, self.top_k, self.top_p) != (None, None, None)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "num_samples", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give 1 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UsageError(
                f"min_new_tokens is {self.min_new_tokens}; give 0 to {self.max_new_tokens}, which is max_new_tokens"
            )
        if not math.isfinite(self.length_penalty):
            raise UsageError(f"length_penalty is {self.length_penalty}; give a finite number")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UsageError(
                f"temperature is {self.temperature}; give more than 0, or leave it out for the likeliest tokens"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; give more than 0 and at most 1")
        if self.samples and self.num_beams > 1:
            raise UsageError(
                f"num_beams is {self.num_beams}, but temperature, top_k and top_p draw tokens instead of searching; "
                "leave them out, or give num_beams 1"
            )
        for name in ("seed",) if self.num_samples == 1 else ("seed", "num_samples"):
            if getattr(self, name) is not None and not self.samples:
                raise UsageError(
                    f"{name} is {getattr(self, name)}, but nothing is drawn; add temperature, top_k or top_p, "
                    f"or leave out {name}"
                )
        for seed in self.seed if isinstance(self.seed, Sequence) else [self.seed]:
            if seed is not None and seed < 0:
                raise UsageError(f"seed is {seed}; give 0 or more")
        for name in ("stop_words", "banned"):
            texts = getattr(self, name)
            if isinstance(texts, str) or not all(texts):
                raise UsageError(f"{name} is {texts!r}; give a list of texts, none of them empty")

    def seeds(self, num_prompts: int) -> list[int | None]:
        """One for each prompt; None draws afresh.

        Raises:
            UsageError: if there are more or fewer seeds than prompts.
        """
        if not isinstance(self.seed, Sequence):
            return [self.seed] * num_prompts
        if len(self.seed) != num_prompts:
            raise UsageError(
                f"seed holds {len(self.seed)} numbers for {num_prompts} prompts; give one for each, or one for all"
            )
        return list(self.seed)


def answer_text(model: "Flamingo", token_ids: Sequence[int]) -> str:
    """What the tokens of an answer say, ends and other special tokens left out; no space is tidied away."""
    kept = [token for token in token_ids if token < model.end_of_chunk_id]
    return model.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Rules:
    """What ends an answer of this model, and what may not come next.

    Raises:
        UsageError: if a stop token is none of the model's.
    """

    def __init__(self, model: "Flamingo", decoding: Decoding) -> None:
        self.model, self.min_new_tokens = model, decoding.min_new_tokens
        ends = (model.end_of_chunk_id, getattr(model.tokenizer, "eos_token_id", None))
        stops = ends if decoding.stop_token_ids is None else decoding.stop_token_ids
        self.stops = sorted({token for token in stops if token is not None})
        size = model.new_tokens.first_id + len(model.new_tokens.weight)
        if wrong := [token for token in self.stops if not 0 <= token < size]:
            raise UsageError(f"stop_token_ids holds {wrong}, but the model's tokens are 0 to {size - 1}; correct it")
        self.tag_spellings = model.media_tag_spellings
        is_text = any(token < model.end_of_chunk_id for token in model.media_tag_ids)  # not one learnt token
        self.banned = ([model.config.media_tag] if is_text else []) + list(decoding.banned)
        self.stop_words = list(decoding.stop_words)
        self._last_characters = {text[-1] for text in (*self.banned, *self.stop_words)}
        self._may_complete: dict[int, bool] = {}

    def forbid(self, log_probabilities: "Tensor", begun: Sequence[Sequence[int]]) -> "Tensor":
        """Rows `[R, V]`, in place, with what must not come next at minus infinity.

        Args:
            begun: R answers so far, of one length.
        """
        if len(begun[0]) < self.min_new_tokens:
            log_probabilities[:, self.stops] = -math.inf
        for row, tokens in enumerate(begun):
            for *start, final in self.tag_spellings:
                if list(tokens[len(tokens) - len(start) :]) == start:
                    log_probabilities[row, final] = -math.inf
        return log_probabilities

    def is_banned(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token brought a banned text into the answer, in whatever way it is split into tokens."""
        return self._holds(token_ids, self.banned)

    def is_finished(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token ended the answer."""
        return token_ids[-1] in self.stops or self._holds(token_ids, self.stop_words)

    def _holds(self, token_ids: Sequence[int], texts: Sequence[str]) -> bool:
        if not texts or not self._could_complete(token_ids[-1]):
            return False
        answer = answer_text(self.model, token_ids)
        return any(text in answer for text in texts)

    def _could_complete(self, token: int) -> bool:
        """Whether a text could end within this token; most tokens spare us decoding the whole answer."""
        if token not in self._may_complete:
            own = answer_text(self.model, [token])
            alone = own.isascii() and not own.isspace() and own != ""  # not half a character, nor space that is trimmed
            ends = self._last_characters
            self._may_complete[token] = not alone or any(end in own or end.isspace() for end in ends)
        return self._may_complete[token]


def warped(log_probabilities: "Tensor", decoding: Decoding) -> "Tensor":
    """Probabilities `[R, V]` to draw from: tempered, then cut to `top_k`, then to `top_p`, as Hugging Face does.

    Args:
        log_probabilities: `[R, V]`, minus infinity where a token may not come.

    Example:
        >>> import torch
        >>> log_probabilities = torch.tensor([[0.1, 0.6, 0.3]]).log()
        >>> [[round(p, 3) for p in row] for row in warped(log_probabilities, Decoding(top_k=2)).tolist()]
        [[0.0, 0.667, 0.333]]
    """
    temperature = 1.0 if decoding.temperature is None else max(decoding.temperature, 1e-30)  # not 0 in float32
    highest = log_probabilities.amax(-1, keepdim=True)
    scores = (log_probabilities - highest) / temperature  # the likeliest is 0 at any temperature
    if decoding.top_k is not None:
        least = scores.topk(min(decoding.top_k, scores.shape[-1])).values[:, -1:]  # [R, 1]; all as likely stay
        scores = scores.masked_fill(scores < least, -math.inf)
    probabilities = scores.softmax(-1)
    if decoding.top_p is not None and decoding.top_p < 1:
        ordered, tokens = probabilities.sort(dim=-1, descending=True)
        is_tail = ordered.cumsum(-1) - ordered >= decoding.top_p  # what comes before is enough
        is_tail[:, 0] = False
        probabilities = probabilities.masked_fill(is_tail.scatter(-1, tokens, is_tail), 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def settled_text(text: str, stop_words: Sequence[str]) -> str:
    """The part of an unfinished answer that will stay, whatever follows: what can be shown already.

    Held back are half a character (tokens may split one), what may become a stop word, and space at the end, which is
    trimmed if nothing follows.

    Example:
        >>> settled_text(" left Ques", ["Question:"])
        ' left'
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    starts = (
        len(text) - size
        for word in stop_words
        for size in range(1, min(len(word), len(text) + 1))
        if text.endswith(word[:size])
    )
    return text[: min(starts, default=len(text))].rstrip()
