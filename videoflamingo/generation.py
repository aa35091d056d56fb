"""Answers over the language model's cache: greedy, drawn or searched with beams, streamed, or given (Flamingo v1 3.3).

A prompt is computed once for all its beams, draws or choices, and the media tag can never be generated.
`videoflamingo.decoding` has the options, `videoflamingo.continuation` the caches.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoflamingo.continuation import Decoder, Prefix
from videoflamingo.decoding import Decoding, Rules, warped
from videoflamingo.errors import UsageError
from videoflamingo.models.flamingo import Flamingo, MediaKeysValues
from videoflamingo.prompt import EncodedPrompt, MediaOfText, Segment, encode_prompt


def encode_segments(
    model: Flamingo, segments: Sequence[Segment], media_of_text: MediaOfText = "previous"
) -> EncodedPrompt:
    """A prompt in the model's tokens, with its tag at each medium: how every prompt is encoded, trained on or asked."""
    return encode_prompt(
        segments,
        model.tokenize,
        end_of_chunk_id=model.end_of_chunk_id,
        media_tag_ids=model.media_tag_ids,
        begin_id=model.tokenizer.bos_token_id,
        media_of_text=media_of_text,
    )


@dataclass(frozen=True)
class Generated:
    """Tokens that followed a prompt, and the log-probability of each.

    The token that ended the answer, where one did, is the last. Log-probabilities are the model's own, as
    `score_choices` gives them: without temperature, and not shared out anew after what was cut or banned.
    """

    token_ids: list[int]
    log_probabilities: list[float]

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens."""
        return sum(self.log_probabilities) / len(self.log_probabilities)

    @property
    def lowest(self) -> float:
        """Log-probability of the least likely token."""
        return min(self.log_probabilities)


@torch.inference_mode()
def generate(
    model: Flamingo,
    prompts: Sequence[EncodedPrompt],
    visual_tokens: Tensor | None = None,
    decoding: Decoding | None = None,
    *,
    media: MediaKeysValues | None = None,
    prefix: Prefix | None = None,
    use_cache: bool = True,
    **options: Any,
) -> list[Generated]:
    """Continue each prompt until it ends, or until `max_new_tokens`.

    Args:
        prompts: B prompts; what one gets does not depend on the others.
        visual_tokens: `[B, M, N, D]`; or
        media: their keys and values, `[B, M, N, H, d]` a block.
        decoding: how; greedy if not given.
        prefix: a text that all prompts continue, see `videoflamingo.continuation.Prefix`; media are the prompts' own.
        use_cache: off recomputes everything at each token.
        options: fields of `Decoding`, in its place or on top of it.

    Returns:
        an answer for each prompt; with `num_samples`, that many of the first prompt, then those of the second, ...

    Raises:
        UsageError: if an option is out of range or two exclude each other, if a prompt is empty, or if everything that
            could follow one is banned.
    """
    decoding = replace(decoding or Decoding(), **options)
    if not prompts:
        return []
    decoder = Decoder(model, prompts, visual_tokens, use_cache, media=media, prefix=prefix)
    rules = Rules(model, decoding)
    if decoding.num_beams > 1:
        return _beam_search(decoder, rules, decoding)
    *_, answers = _one_by_one(decoder, rules, decoding)
    return answers


def stream(
    model: Flamingo,
    prompt: EncodedPrompt,
    visual_tokens: Tensor | None = None,
    decoding: Decoding | None = None,
    **options: Any,
) -> Iterator[int]:
    """The tokens that `generate` gives one prompt, each as soon as it is known; greedy or drawn.

    It may be left at any token, and other calls may come between two of them.

    Args:
        visual_tokens: `[1, M, N, D]`.
        decoding, options: as in `generate`.

    Raises:
        UsageError: at once, as in `generate`, or if beams or several answers are asked for: they are not known before
            the end.
    """
    decoding = replace(decoding or Decoding(), **options)
    for name, value in (("num_beams", decoding.num_beams), ("num_samples", decoding.num_samples)):
        if value > 1:
            raise UsageError(f"{name} is {value}, but only one answer written once can be streamed; give {name} 1")
    with torch.inference_mode():
        decoder, rules = Decoder(model, [prompt], visual_tokens), Rules(model, decoding)
    return _stream(_one_by_one(decoder, rules, decoding))


def _stream(steps: Iterator[list[Generated]]) -> Iterator[int]:
    while True:
        with torch.inference_mode():  # for one step: around the `yield` it would be the consumer's mode, too
            answers = next(steps, None)
        if answers is None:
            return
        yield answers[0].token_ids[-1]


class _Sampler:
    """Draws tokens; each answer has random numbers of its own, so that it does not depend on the others."""

    def __init__(self, decoding: Decoding, num_prompts: int) -> None:
        self.decoding = decoding
        self.generators = [
            torch.Generator().manual_seed(int(own.generate_state(1)[0]))
            for seed in decoding.seeds(num_prompts)
            for own in np.random.SeedSequence(seed).spawn(decoding.num_samples)
        ]

    def __call__(self, log_probabilities: Tensor, answers: Sequence[int]) -> Tensor:
        """A token `[R]` for each row of `[R, V]`, which belong to these answers. One number is used for each."""
        cumulative = warped(log_probabilities, self.decoding).double().cumsum(-1)  # [R, V]
        # 24 bits on the CPU whatever the device: below 1 by so much that rounding cannot lift it to the total.
        drawn = torch.stack([torch.rand((), generator=self.generators[answer]) for answer in answers])  # [R]
        height = drawn.to(cumulative.device).double() * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, height[:, None], right=True).squeeze(1)  # [R]
        return tokens.clamp(max=cumulative.shape[1] - 1)


def _likeliest(log_probabilities: Tensor, answers: Sequence[int]) -> Tensor:
    return log_probabilities.argmax(-1)


def _one_by_one(decoder: Decoder, rules: Rules, decoding: Decoding) -> Iterator[list[Generated]]:
    """Greedy or drawn: all answers so far, after each further token."""
    num_prompts = len(decoder.input_ids)
    choose = _Sampler(decoding, num_prompts) if decoding.samples else _likeliest
    log_probabilities = decoder.next_log_probabilities()  # [R, V]
    fork = [row for row in range(num_prompts) for _ in range(decoding.num_samples)]
    decoder.select(fork)
    log_probabilities = log_probabilities[fork]
    answers = [Generated([], []) for _ in fork]
    unfinished = list(range(len(answers)))  # answer of each row the decoder still holds
    for step in range(decoding.max_new_tokens):
        allowed = rules.forbid(log_probabilities, [answers[answer].token_ids for answer in unfinished])
        chosen = choose(allowed, unfinished)  # [R]
        values = allowed.gather(1, chosen[:, None]).squeeze(1).tolist()
        tokens: list[int] = chosen.tolist()
        going_on = []
        for row, answer in enumerate(unfinished):
            so_far = answers[answer].token_ids
            while values[row] > -math.inf and rules.is_banned([*so_far, tokens[row]]):  # choose again without it
                allowed[row, tokens[row]] = -torch.inf
                tokens[row] = int(choose(allowed[row : row + 1], [answer]))
                values[row] = float(allowed[row, tokens[row]])
            _refuse_if(values[row] == -math.inf)
            so_far.append(tokens[row])
            answers[answer].log_probabilities.append(values[row])
            if not rules.is_finished(so_far):
                going_on.append(row)
        yield answers
        if not going_on or step == decoding.max_new_tokens - 1:
            return
        decoder.append(torch.tensor(tokens)[:, None])
        decoder.select(going_on)  # finished rows cost nothing more
        unfinished = [unfinished[row] for row in going_on]
        log_probabilities = decoder.next_log_probabilities()


def _beam_search(decoder: Decoder, rules: Rules, decoding: Decoding) -> list[Generated]:
    """The search of transformers' `generate`, so that a checkpoint gives the tokens that it gives there.

    Of all one-token continuations of a prompt's beams, those among the first `num_beams` that end are finished, and the
    first `num_beams` that do not end go on. A prompt's search is over when `num_beams` answers are finished and the
    best continuation of this step, ended or not, is not better than the worst of them: the rule of transformers 4, with
    which OpenFlamingo works. Version 5 compares with the best that did not end, and so may stop earlier. At the limit
    beams end as they are.
    """
    width, last_step = decoding.num_beams, decoding.max_new_tokens - 1
    num_prompts, device = len(decoder.input_ids), decoder.input_ids.device

    def score(answer: Generated) -> float:
        return sum(answer.log_probabilities) / len(answer.token_ids) ** decoding.length_penalty

    finished: list[list[Generated]] = [[] for _ in range(num_prompts)]
    beams = [[Generated([], [])] for _ in range(num_prompts)]  # W = 1: equal beams would stay equal; then `width`
    sums = torch.zeros(num_prompts, 1, device=device)  # [P, W], of the prompts still searched
    searched = list(range(num_prompts))
    for step in range(decoding.max_new_tokens):
        begun = [beam.token_ids for prompt in searched for beam in beams[prompt]]
        own = rules.forbid(decoder.next_log_probabilities(), begun).unflatten(0, sums.shape)  # [P, W, V]
        candidates = _best_first(own, sums, width * max(2, len(rules.stops) + 1))  # enough if every beam could end
        rows: list[int] = []
        tokens: list[int] = []
        new_sums: list[list[float]] = []
        still_searched = []
        for place, prompt in enumerate(searched):
            going_on: list[tuple[float, int, Generated]] = []
            rank, best = 0, -math.inf
            for total, source, token, value in candidates[place]:
                if total == -math.inf or (len(going_on) == width and rank >= width):
                    break
                parent = beams[prompt][source]
                token_ids = [*parent.token_ids, token]
                if rules.is_banned(token_ids):
                    continue
                best = max(best, total / len(token_ids) ** decoding.length_penalty)
                longer = Generated(token_ids, [*parent.log_probabilities, value])
                if step == last_step or rules.is_finished(token_ids):
                    finished[prompt] += [longer] if rank < width else []
                elif len(going_on) < width:
                    going_on.append((total, source, longer))
                rank += 1
                if step == last_step and rank == width:
                    break
            finished[prompt] = sorted(finished[prompt], key=score, reverse=True)[:width]
            _refuse_if(not going_on and not finished[prompt])
            is_full = len(finished[prompt]) == width
            if not going_on or (is_full and score(finished[prompt][-1]) >= best):
                continue
            new_sums.append([total for total, _, _ in going_on] + [-math.inf] * (width - len(going_on)))
            going_on += going_on[:1] * (width - len(going_on))  # idle beams, where next to nothing is allowed
            rows += [place * sums.shape[1] + source for _, source, _ in going_on]
            beams[prompt] = [longer for _, _, longer in going_on]
            tokens += [beam.token_ids[-1] for beam in beams[prompt]]
            still_searched.append(prompt)
        if not still_searched:
            break
        decoder.select(rows, same_media=sums.shape[1] == width and len(still_searched) == len(searched))
        decoder.append(torch.tensor(tokens)[:, None])
        sums, searched = torch.tensor(new_sums, device=device), still_searched
    return [answers[0] for answers in finished]


def _best_first(own: Tensor, sums: Tensor, enough: int) -> list[Iterator[tuple[float, int, int, float]]]:
    """For each prompt its beams' continuations, likeliest first: summed log-probability, beam, token, its own.

    Args:
        own: log-probabilities of the next token `[P, W, V]`.
        sums: `[P, W]`, of the beams.
        enough: how many are likely to be used; the others are only sorted if they are come to.
    """
    size, own = own.shape[-1], own.flatten(1)
    totals = (sums[..., None] + own.unflatten(1, (sums.shape[1], size))).flatten(1)  # [P, W * V]
    best = totals.topk(min(enough, totals.shape[1]))
    own_of_best = own.gather(1, best.indices)  # [P, enough]

    def of_prompt(place: int, *best_lists: list[Any]) -> Iterator[tuple[float, int, int, float]]:
        for total, candidate, value in zip(*best_lists, strict=True):
            yield total, *divmod(candidate, size), value
        rest = totals[place].index_fill(0, best.indices[place], -torch.inf).sort(descending=True)
        rest_lists = (rest.values.tolist(), rest.indices.tolist(), own[place, rest.indices].tolist())
        for total, candidate, value in zip(*rest_lists, strict=True):
            yield total, *divmod(candidate, size), value

    lists = zip(best.values.tolist(), best.indices.tolist(), own_of_best.tolist(), strict=True)
    return [of_prompt(place, *best_lists) for place, best_lists in enumerate(lists)]


def _refuse_if(nothing_is_left: bool) -> None:
    if nothing_is_left:
        raise UsageError("no token may come next: all are banned, or end an answer before min_new_tokens; ban less")


@torch.inference_mode()
def score_choices(
    model: Flamingo,
    prompts: Sequence[EncodedPrompt],
    choices: Sequence[Sequence[list[int]]],
    visual_tokens: Tensor | None = None,
    *,
    media: MediaKeysValues | None = None,
    prefix: Prefix | None = None,
) -> list[list[Generated]]:
    """Log-probability of every token of every given continuation, in one batched pass over shared prompts.

    Args:
        prompts: B prompts, each computed once and forked to its choices.
        choices: for each prompt, the token ids of each choice (with the end of chunk, if it shall count).
        visual_tokens, media, prefix: as in `generate`.

    Raises:
        UsageError: if a prompt has no choices, or a choice no tokens.
    """
    if len(choices) != len(prompts) or not all(choices) or not all(choice for own in choices for choice in own):
        raise UsageError("every prompt needs at least one choice, and every choice at least one token")
    if not prompts:
        return []
    decoder = Decoder(model, prompts, visual_tokens, media=media, prefix=prefix)
    flat = [choice for own in choices for choice in own]
    rows = [row for row, own in enumerate(choices) for _ in own]
    first = decoder.next_log_probabilities()[rows, [choice[0] for choice in flat]]  # [K]
    values = [[value] for value in first.tolist()]
    longest = max(len(choice) for choice in flat) - 1  # the last token predicts nothing, and the first is scored
    if longest > 0:
        decoder.select(rows)
        continued = torch.tensor([choice[:-1] + [0] * (longest - len(choice) + 1) for choice in flat])
        is_real = torch.tensor([[place < len(choice) - 1 for place in range(longest)] for choice in flat])
        decoder.append(continued, is_real)
        logits = decoder.run(is_real.to(model.device))
        targets = torch.tensor([token for choice in flat for token in choice[1:]], device=model.device)
        later = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1).tolist()  # [K]
        taken = iter(later)
        for place, choice in enumerate(flat):
            values[place] += [next(taken) for _ in choice[1:]]
    scored = iter([Generated(list(choice), value) for choice, value in zip(flat, values, strict=True)])
    return [[next(scored) for _ in own] for own in choices]
