"""Decoding over the language model's cache: greedy, beam search, and scoring of given choices (Flamingo v1 3.3).

Media keys and values are computed once per prompt, the prompt once for all its beams or choices, and the media tag can
never be generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videoflamingo.errors import UsageError
from videoflamingo.models.flamingo import Flamingo, MediaKeysValues
from videoflamingo.prompt import EncodedPrompt, pad_prompts


@dataclass(frozen=True)
class Generated:
    """Tokens that followed a prompt, and the log-probability of each.

    The end of chunk, where the model came to it, is the last token.
    """

    token_ids: list[int]
    log_probabilities: list[float]

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens."""
        return sum(self.log_probabilities) / len(self.log_probabilities)


class Decoder:
    """A batch of prompts being continued, row by row; changes in place, and leaves the model as it was.

    Args:
        prompts: B prompts, of any lengths.
        visual_tokens: `[B, M, N, D]`, None if no prompt has media.
        use_cache: off runs the whole text again for every token (slow; for tests).
    """

    def __init__(
        self, model: Flamingo, prompts: Sequence[EncodedPrompt], visual_tokens: Tensor | None, use_cache: bool = True
    ) -> None:
        padded = pad_prompts(prompts, side="left")
        self.model, self.use_cache = model, use_cache
        self.input_ids = torch.from_numpy(padded.input_ids).to(model.device)  # [R, L]
        self.attention_mask = torch.from_numpy(padded.attention_mask).to(model.device)
        self.media_index = torch.from_numpy(padded.media_index)  # stays on the host, where runs are cut
        self.media: MediaKeysValues | None = None if visual_tokens is None else model.media_keys_values(visual_tokens)
        self.cache: Any = None

    def next_log_probabilities(self) -> Tensor:
        """Run what has not been run yet; log-probabilities of the next token `[R, vocabulary + new]`, float32."""
        done = self.input_ids.shape[1] - 1 if self.cache is not None else 0
        positions = (self.attention_mask.cumsum(1) - 1).clamp(min=0)
        last = torch.zeros_like(self.input_ids[:, done:], dtype=torch.bool)
        last[:, -1] = True
        output = self.model(
            self.input_ids[:, done:],
            self.media_index[:, done:],
            media=self.media,
            attention_mask=self.attention_mask,
            position_ids=positions[:, done:],
            past_key_values=self.cache,
            use_cache=self.use_cache,
            logits_at=last,
        )
        self.cache = output.past_key_values
        return output.logits.log_softmax(-1)

    def append(self, token_ids: Tensor) -> None:
        """One more token `[R]` a row; it belongs to the medium of the token before it."""
        ones = self.attention_mask.new_ones(len(token_ids), 1)
        self.input_ids = torch.cat([self.input_ids, token_ids[:, None]], dim=1)
        self.attention_mask = torch.cat([self.attention_mask, ones], dim=1)
        self.media_index = torch.cat([self.media_index, self.media_index[:, -1:]], dim=1)

    def select(self, rows: Tensor, same_media: bool = False) -> None:
        """Continue with these rows `[R']` of the present ones; a row may be taken several times or not at all.

        Args:
            same_media: whether every row's media stay what they are, so that they need not be copied.
        """
        self.input_ids, self.attention_mask = self.input_ids[rows], self.attention_mask[rows]
        self.media_index = self.media_index[rows.cpu()]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)
        if self.media is not None and not same_media:
            self.media = tuple((keys[rows], values[rows]) for keys, values in self.media)


@torch.inference_mode()
def generate(
    model: Flamingo,
    prompts: Sequence[EncodedPrompt],
    visual_tokens: Tensor | None = None,
    *,
    max_new_tokens: int = 30,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    use_cache: bool = True,
) -> list[Generated]:
    """Continue each prompt until the end of chunk, the end of text, or `max_new_tokens`.

    Args:
        prompts: B prompts; what one gets does not depend on the others.
        visual_tokens: `[B, M, N, D]`.
        num_beams: 1 = greedy; the paper searches with 3.
        length_penalty: finished beams are compared by their summed log-probability divided by their number of tokens to
            this power. The paper names none; 1 compares means, 0 sums.
        use_cache: off recomputes everything at each token.

    Raises:
        UsageError: if `max_new_tokens` or `num_beams` is less than 1.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("num_beams", num_beams)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give 1 or more")
    decoder = Decoder(model, prompts, visual_tokens, use_cache)
    rules = _Rules(model)
    if num_beams == 1:
        return _greedy(decoder, rules, max_new_tokens)
    return _beam_search(decoder, rules, max_new_tokens, num_beams, length_penalty)


class _Rules:
    """Which tokens end an answer, and which may not come next."""

    def __init__(self, model: Flamingo) -> None:
        end_of_text = model.tokenizer.eos_token_id
        self.stops = {model.end_of_chunk_id} | ({end_of_text} if end_of_text is not None else set())
        tag = model.config.media_tag
        spellings = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (tag, f" {tag}") if tag]
        self.banned = [spelling for spelling in spellings if spelling]

    def forbid(self, log_probabilities: Tensor, generated: Sequence[Sequence[int]]) -> Tensor:
        """Rows `[R, V]` with the tokens that would complete a media tag at minus infinity."""
        for row, tokens in enumerate(generated):
            for *start, final in self.banned:
                if list(tokens[len(tokens) - len(start) :]) == start:
                    log_probabilities[row, final] = -torch.inf
        return log_probabilities


def _greedy(decoder: Decoder, rules: _Rules, max_new_tokens: int) -> list[Generated]:
    answers = [Generated([], []) for _ in range(len(decoder.input_ids))]
    open_rows = list(range(len(answers)))  # answer of each row the decoder still holds
    for _ in range(max_new_tokens):
        allowed = rules.forbid(decoder.next_log_probabilities(), [answers[row].token_ids for row in open_rows])
        best = allowed.max(dim=-1)
        going_on = []
        for place, (token, value) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            answers[open_rows[place]].token_ids.append(token)
            answers[open_rows[place]].log_probabilities.append(value)
            if token not in rules.stops:
                going_on.append(place)
        if not going_on:
            break
        decoder.append(best.indices)
        if len(going_on) < len(open_rows):  # finished rows cost nothing more
            decoder.select(torch.tensor(going_on, device=best.indices.device))
            open_rows = [open_rows[place] for place in going_on]
    return answers


def _beam_search(
    decoder: Decoder, rules: _Rules, max_new_tokens: int, num_beams: int, length_penalty: float
) -> list[Generated]:
    num_prompts, device = len(decoder.input_ids), decoder.input_ids.device

    def rank(beam: Generated) -> float:
        return sum(beam.log_probabilities) / len(beam.token_ids) ** length_penalty

    log_probabilities = decoder.next_log_probabilities().repeat_interleave(num_beams, 0)  # one pass for all beams
    decoder.select(torch.arange(num_prompts, device=device).repeat_interleave(num_beams))
    beams = [[Generated([], [])] for _ in range(num_prompts)]  # one at first: equal beams would stay equal
    finished: list[list[Generated]] = [[] for _ in range(num_prompts)]
    settled = [False] * num_prompts  # its search is over, whatever the other prompts of the batch still do
    for step in range(max_new_tokens):
        rows: list[int] = []
        tokens: list[int] = []
        for prompt in range(num_prompts):
            first = prompt * num_beams
            if settled[prompt]:
                rows += range(first, first + num_beams)
                tokens += [0] * num_beams
                continue
            own = log_probabilities[first : first + len(beams[prompt])]
            own = rules.forbid(own, [beam.token_ids for beam in beams[prompt]])
            totals = own + torch.tensor([[sum(beam.log_probabilities)] for beam in beams[prompt]], device=device)
            enough = num_beams * (len(rules.stops) + 1)  # even if every beam's best tokens all end it
            enough = min(enough, totals.numel())
            candidates = totals.flatten().topk(enough).indices.tolist()
            going_on: list[tuple[int, Generated]] = []
            for candidate in candidates:
                source, token = divmod(candidate, own.shape[1])
                parent = beams[prompt][source]
                longer = Generated([*parent.token_ids, token], [*parent.log_probabilities, float(own[source, token])])
                if token in rules.stops:
                    finished[prompt].append(longer)
                elif len(going_on) < num_beams:
                    going_on.append((first + source, longer))
            finished[prompt] = sorted(finished[prompt], key=rank, reverse=True)[:num_beams]
            beams[prompt] = [beam for _, beam in going_on]
            rows += [row for row, _ in going_on]
            tokens += [beam.token_ids[-1] for beam in beams[prompt]]
            best_going_on = max(map(rank, beams[prompt]))
            settled[prompt] = len(finished[prompt]) == num_beams and rank(finished[prompt][-1]) >= best_going_on
            if not settled[prompt] and step == max_new_tokens - 1:  # cut off here, beams compete with those that ended
                finished[prompt] += beams[prompt]
        if all(settled) or step == max_new_tokens - 1:
            break
        decoder.select(torch.tensor(rows, device=device), same_media=True)
        decoder.append(torch.tensor(tokens, device=device))
        log_probabilities = decoder.next_log_probabilities()
    return [max(ended, key=rank) for ended in finished]


@torch.inference_mode()
def score_choices(
    model: Flamingo,
    prompts: Sequence[EncodedPrompt],
    choices: Sequence[Sequence[list[int]]],
    visual_tokens: Tensor | None = None,
) -> list[list[Generated]]:
    """Log-probability of every token of every given continuation, in one batched pass over shared prompts.

    Args:
        prompts: B prompts, each computed once and forked to its choices.
        choices: for each prompt, the token ids of each choice (with the end of chunk, if it shall count).
        visual_tokens: `[B, M, N, D]`.

    Raises:
        UsageError: if a prompt has no choices, or a choice no tokens.
    """
    if len(choices) != len(prompts) or not all(choices) or not all(choice for own in choices for choice in own):
        raise UsageError("every prompt needs at least one choice, and every choice at least one token")
    decoder = Decoder(model, prompts, visual_tokens)
    first = decoder.next_log_probabilities()  # [B, V]
    flat = [choice for own in choices for choice in own]
    rows = torch.tensor([row for row, own in enumerate(choices) for _ in own], device=model.device)
    values = [[float(first[row, choice[0]])] for row, choice in zip(rows.tolist(), flat, strict=True)]
    longest = max(len(choice) for choice in flat) - 1  # the last token predicts nothing, and the first is scored
    if longest > 0:
        decoder.select(rows)
        continued = [choice[:-1] + [0] * (longest - len(choice) + 1) for choice in flat]
        is_real = torch.tensor([[place < len(choice) - 1 for place in range(longest)] for choice in flat])
        past = decoder.attention_mask
        mask = torch.cat([past, is_real.to(past)], dim=1)
        output = model(
            torch.tensor(continued, device=model.device),
            decoder.media_index[:, -1:] * is_real,
            media=decoder.media,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1)[:, past.shape[1] :],
            past_key_values=decoder.cache,
            use_cache=True,
            logits_at=is_real.to(model.device),
        )
        targets = torch.tensor([token for choice in flat for token in choice[1:]], device=model.device)
        later = output.logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1).tolist()  # [K]
        taken = iter(later)
        for place, choice in enumerate(flat):
            values[place] += [next(taken) for _ in choice[1:]]
    scored = iter([Generated(list(choice), value) for choice, value in zip(flat, values, strict=True)])
    return [[next(scored) for _ in own] for own in choices]
