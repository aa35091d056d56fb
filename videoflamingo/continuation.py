"""Prompts being continued: the text computed so far, its caches, and how they fork.

What many prompts begin with, such as the examples of a few-shot evaluation, is a `Prefix`: computed once, then
continued by any number of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videoflamingo.errors import UsageError
from videoflamingo.models.flamingo import Flamingo, MediaKeysValues
from videoflamingo.models.shared_prefix import (
    LayersKeysValues,
    PrefixReuse,
    SharedPrefixCache,
    attending_to,
    cache_contents,
    copied_cache,
    prefix_reuse,
)
from videoflamingo.prompt import EncodedPrompt, Segment, encode_prompt, pad_prompts


@dataclass(frozen=True, eq=False)
class Prefix:
    """The computed beginning of prompts. Made by `compute_prefix`; any number of threads may continue it.

    Args:
        prompt: its text.
        contents: keys and values of the language model's layers, `[1, H, P, d]`.
        media: keys and values `[1, m, N, H, d]` of the last m media, those that later text may look at: the last one,
            or all of them where text attends to all previous media.
        reuse: whether the rows that continue it share it, or copy it (and must then have texts of one length).
    """

    prompt: EncodedPrompt
    contents: LayersKeysValues
    media: MediaKeysValues | None
    reuse: PrefixReuse

    @property
    def num_bytes(self) -> int:
        tensors = [tensor for pair in (*self.contents, *(self.media or ())) for tensor in pair]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.inference_mode()
def compute_prefix(model: Flamingo, prompt: EncodedPrompt, media: MediaKeysValues | None = None) -> Prefix:
    """Run the text that prompts begin with.

    Args:
        media: keys and values of its media, `[1, M, N, H, d]` a block.

    Raises:
        UsageError: if the text is empty, or the language model's layers keep no keys and values to continue.
    """
    reuse = prefix_reuse(model.language_model)
    if reuse == "none":
        kind = type(model.language_model).__name__
        raise UsageError(f"{kind} has layers with a window or a running state; give it whole prompts, without a prefix")
    decoder = Decoder(model, [prompt], media=media)
    decoder.run(torch.zeros(1, len(prompt), dtype=torch.bool, device=model.device))
    if media is not None and model.config.cross_attention.attend_to == "own":
        media = tuple((keys[:, -1:].clone(), values[:, -1:].clone()) for keys, values in media)
    return Prefix(prompt, cache_contents(decoder.cache), media, reuse)


def continue_prompt(model: Flamingo, start: EncodedPrompt, segments: Sequence[Segment]) -> EncodedPrompt:
    """The text that follows a prompt's start, alone; its media are numbered on from the start's.

    Together the two are what `encode_segments` makes of all segments, because each is tokenised by itself.
    """
    own = encode_prompt(
        segments, model.tokenize, end_of_chunk_id=model.end_of_chunk_id, media_tag_ids=model.media_tag_ids
    )
    media_index = [medium + start.num_media for medium in own.media_index]
    return EncodedPrompt(own.token_ids, media_index, own.is_answer, start.num_media + own.num_media)


class Decoder:
    """A batch of prompts being continued, row by row; changes in place, and leaves the model as it was.

    Media keys and values are computed once per prompt, the prompt once for all rows that continue it.

    Args:
        prompts: B prompts, of any lengths; with a prefix, what follows it (`continue_prompt`).
        visual_tokens: `[B, M, N, D]`, None if no prompt has media; or
        media: their keys and values, `[B, M, N, H, d]` a block. With a prefix, those of the prompts' own media. Without
            one also `[1, M, N, H, d]`: media that all prompts number alike, held once.
        use_cache: off runs the whole text again for every token (slow; for tests).
        prefix: what all prompts continue.

    Raises:
        UsageError: if a prompt has no tokens, the media are not those of B prompts, or the prompts have different
            lengths and must copy their prefix.
    """

    def __init__(
        self,
        model: Flamingo,
        prompts: Sequence[EncodedPrompt],
        visual_tokens: Tensor | None = None,
        use_cache: bool = True,
        *,
        media: MediaKeysValues | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        if empty := [number for number, prompt in enumerate(prompts) if not len(prompt)]:
            raise UsageError(f"prompts {empty} (counted from 0) have no tokens; put some text before the answer")
        given = visual_tokens if media is None else media[0][0]
        held_once = media is not None and prefix is None and len(media[0][0]) == 1
        if given is not None and len(given) != len(prompts) and not held_once:
            raise UsageError(
                f"visual_tokens {tuple(given.shape)} are of {len(given)} prompts, but {len(prompts)} "
                "were given; their first dimension is the prompts'"
            )
        if prefix is not None and not use_cache:
            raise UsageError("use_cache is off, but a prefix is a cache; give whole prompts")
        if visual_tokens is not None:
            if media is not None:
                raise UsageError("give visual_tokens or media, not both")
            media = model.media_keys_values(visual_tokens)
        padded = pad_prompts(prompts, side="left")
        self.model, self.use_cache = model, use_cache
        self.input_ids = torch.from_numpy(padded.input_ids).to(model.device)  # [R, L]
        self.attention_mask = torch.from_numpy(padded.attention_mask).to(model.device)  # [R, P + L]
        self.media_index = torch.from_numpy(padded.media_index)  # [R, L]; stays on the host, where runs are cut
        self.media = media
        self.cache: Any = None
        self.num_run = 0  # tokens of each row that are in the cache, those of the prefix not counted
        if prefix is not None:
            self._continue(prefix, len(prompts))

    def _continue(self, prefix: Prefix, num_rows: int) -> None:
        if prefix.reuse == "shared":
            self.cache = SharedPrefixCache(prefix.contents)
        elif bool(self.attention_mask.all()):
            self.cache = copied_cache(prefix.contents, num_rows)
        else:
            lengths = sorted(set(self.attention_mask.sum(1).tolist()))
            raise UsageError(
                f"prompts of {lengths[0]} to {lengths[-1]} tokens continue one prefix, but this language model counts "
                "places from the end; give prompts of one length together"
            )
        shared = self.attention_mask.new_ones(num_rows, len(prefix.prompt))
        self.attention_mask = torch.cat([shared, self.attention_mask], dim=1)
        before = prefix.prompt.num_media
        seen = self.media_index[self.media_index > 0]
        looks_back = bool((seen <= before).any()) or self.model.config.cross_attention.attend_to == "all_previous"
        if prefix.media is not None and looks_back:
            before -= prefix.media[0][0].shape[1]
            own = self.media or ((),) * len(prefix.media)
            self.media = tuple(
                (
                    torch.cat([keys.expand(num_rows, -1, -1, -1, -1), *given[:1]], dim=1),  # [R, m + M, N, H, d]
                    torch.cat([values.expand(num_rows, -1, -1, -1, -1), *given[1:]], dim=1),
                )
                for (keys, values), given in zip(prefix.media, own, strict=True)
            )
        self.media_index = (self.media_index - before).clamp(min=0)

    def run(self, logits_at: Tensor) -> Tensor:
        """Run what has not been run yet, L' tokens a row.

        Args:
            logits_at: bool `[R, L']`.

        Returns:
            logits `[K, vocabulary + new]`, float32, of those tokens.
        """
        done = self.num_run
        positions = (self.attention_mask.cumsum(1) - 1).clamp(min=0)[
            :, self.attention_mask.shape[1] - logits_at.shape[1] :
        ]
        with attending_to(self.model.language_model, self.cache):
            output = self.model(
                self.input_ids[:, done:],
                self.media_index[:, done:],
                media=self.media,
                attention_mask=self.attention_mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=self.use_cache,
                logits_at=logits_at,
            )
        self.cache = output.past_key_values
        if self.use_cache:
            if done == 0:
                self._keep_last_media()
            self.num_run = self.input_ids.shape[1]
        return output.logits

    def next_log_probabilities(self) -> Tensor:
        """Run what has not been run yet; log-probabilities of the next token `[R, vocabulary + new]`, float32."""
        last = torch.zeros_like(self.input_ids[:, self.num_run :], dtype=torch.bool)
        last[:, -1] = True
        return self.run(last).log_softmax(-1)

    def _keep_last_media(self) -> None:
        """What follows belongs to each row's last medium, so only that one goes with a row from now on."""
        if self.media is None or self.model.config.cross_attention.attend_to == "all_previous":
            return
        last = self.media_index[:, -1]
        self.media_index = self.media_index.clamp(max=1)
        if not bool(last.any()):
            self.media = None
        elif self.media[0][0].shape[1] > 1 or len(self.media[0][0]) < len(last):
            place = (last - 1).clamp(min=0).to(self.input_ids.device)
            rows = torch.arange(len(place), device=place.device).clamp(max=len(self.media[0][0]) - 1)
            self.media = tuple(
                (keys[rows, place][:, None], values[rows, place][:, None]) for keys, values in self.media
            )

    def append(self, token_ids: Tensor, is_real: Tensor | None = None) -> None:
        """More tokens `[R, n]` for each row; they belong to the medium of the token before them.

        Args:
            is_real: bool `[R, n]`, False = padding after the row's end.
        """
        real = torch.ones_like(token_ids) if is_real is None else is_real.to(token_ids)
        self.input_ids = torch.cat([self.input_ids, token_ids.to(self.input_ids)], dim=1)
        self.attention_mask = torch.cat([self.attention_mask, real.to(self.attention_mask)], dim=1)
        self.media_index = torch.cat([self.media_index, self.media_index[:, -1:] * real.to(self.media_index)], dim=1)

    def select(self, rows: Sequence[int], same_media: bool = False) -> None:
        """Continue with these R' of the present rows; one may be taken several times or not at all.

        Args:
            same_media: whether every row's media stay what they are, so that they need not be copied.
        """
        num_rows = len(self.input_ids)
        if list(rows) == list(range(num_rows)):
            return  # copying the cache costs more than anything else here
        self._select_cache(rows, num_rows)
        taken = torch.tensor(rows)
        self.media_index = self.media_index[taken]
        taken = taken.to(self.input_ids.device)
        self.input_ids, self.attention_mask = self.input_ids[taken], self.attention_mask[taken]
        if self.media is not None and not same_media:
            self.media = tuple((keys[taken], values[taken]) for keys, values in self.media)

    def _select_cache(self, rows: Sequence[int], num_rows: int) -> None:
        if self.cache is None:
            return
        forks = len(set(rows)) < len(rows) and not isinstance(self.cache, SharedPrefixCache)
        if forks and prefix_reuse(self.model.language_model) == "shared":
            is_text = self.attention_mask.bool()
            self.cache = SharedPrefixCache(cache_contents(self.cache), None if bool(is_text.all()) else is_text)
        if isinstance(self.cache, SharedPrefixCache):
            self.cache.select(rows, num_rows)
        else:
            self.cache.batch_select_indices(torch.tensor(rows, device=self.input_ids.device))
