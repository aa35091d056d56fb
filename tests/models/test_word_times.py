"""Times of words: each text token is told when the latents of its medium say it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny import TINY_CONFIG, encode, random_pixels, random_visual_tokens, run, tiny_flamingo
from videoflamingo.continuation import compute_prefix, continue_prompt
from videoflamingo.generation import generate
from videoflamingo.models.attention import media_runs
from videoflamingo.models.cross_attention import INITIAL_TIMES, initial_times
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.prompt import EndOfChunk, Medium, Segment, Text

WITH = replace(TINY_CONFIG.cross_attention, word_times=True)
LATENTS = TINY_CONFIG.resampler.num_latents
SHOT: list[Segment] = [Medium(), Text("a fox"), EndOfChunk()]
ASKED: list[Segment] = [Medium(), Text("a bell and")]


@pytest.fixture
def model() -> Flamingo:
    return tiny_flamingo(cross_attention=WITH)


def without_times(model: Flamingo) -> Flamingo:
    plain = tiny_flamingo(cross_attention=replace(WITH, word_times=False))
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain


def test_a_word_is_seen_at_the_latent_that_says_it(model: Flamingo) -> None:
    words = torch.nn.functional.pad(torch.eye(LATENTS), (0, 32 - LATENTS))  # one for each latent of the first medium
    keys = torch.stack([words, words.flip(0)])[None, :, :, None]
    each = torch.eye(LATENTS)[:, None].expand(1, 2, -1, 1, -1)
    nothing = torch.ones(32) - words.sum(0)
    runs = media_runs([[0, 1, 2, 2]], 2, torch.device("cpu"))
    text = torch.stack([words[1], words[1] * 7, words[1] * 0.1, nothing])[None]
    (found,) = model._seen_at(text, ((keys, each),), runs)
    expected = torch.zeros(4, LATENTS)
    expected[1, 1] = expected[2, LATENTS - 2] = 1
    expected[3] = 1 / LATENTS
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_latents_say_what_blocks_would_write_for_them(model: Flamingo) -> None:
    tokens = random_visual_tokens(model, 1, 2)
    with torch.no_grad():  # the second block would write the opposite of the first, and half of something else
        first, second = model.blocks
        second.load_state_dict(first.state_dict())
        second.to_output.weight.neg_()
        second.to_output.weight[:16].zero_()
    keys, each = model.media_keys_values(tokens)[-1]
    expected = torch.nn.functional.normalize(first.written(tokens), dim=-1)
    expected = expected + torch.nn.functional.normalize(second.written(tokens), dim=-1)
    torch.testing.assert_close(keys.squeeze(3), torch.nn.functional.normalize(expected, dim=-1))
    assert torch.equal(each[0, 1, :, 0], torch.eye(LATENTS))


def test_times_are_told_where_text_has_a_medium_and_relative_to_it_if_gates_are(model: Flamingo) -> None:
    prompt, visual_tokens = encode(model, [Text("so"), *SHOT]), random_visual_tokens(model, 1, 1)
    plain = run(without_times(model), prompt, visual_tokens)
    changed = (run(model, prompt, visual_tokens) - plain).abs().amax(-1) > 1e-4
    assert torch.equal(changed, torch.tensor(prompt.media_index) > 0)
    for block in model.blocks:
        torch.nn.init.zeros_(block.word_times)
    assert torch.equal(run(model, prompt, visual_tokens), plain)
    block = tiny_flamingo(cross_attention=replace(WITH, relative_to_text=True)).blocks[0]
    torch.nn.init.zeros_(block.attention_gate)
    torch.nn.init.zeros_(block.feed_forward_gate)
    text = torch.randn(1, 2, 32)
    share = torch.nn.functional.one_hot(torch.tensor([[2, 0]]), LATENTS).float()
    runs = media_runs([[1, 1]], 1, torch.device("cpu"))
    told = block(text, block.keys_values(random_visual_tokens(model, 1, 1)), runs, share) - text
    length = text.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(told, block.word_times[[2, 0]][None] * length)


def test_pooled_tokens_are_no_words() -> None:
    model = tiny_flamingo(cross_attention=WITH, resampler=replace(TINY_CONFIG.resampler, pooled_side=2))
    tokens = model.encode(random_pixels(2), torch.tensor([[[0, 1]]]))
    assert tokens.shape[2] == LATENTS + 4
    assert [tensor.shape for tensor in model.media_keys_values(tokens)[-1]] == [
        (1, 1, LATENTS, 1, 32),
        (1, 1, LATENTS, 1, LATENTS),
    ]


def test_prompts_continue_a_prefix_and_their_cache_as_if_computed_whole(model: Flamingo) -> None:
    media = random_visual_tokens(model, 1, 2)
    whole = encode(model, [*SHOT, *ASKED])

    def said(**options: object) -> tuple[list[int], Tensor]:
        (found,) = generate(model, options.pop("prompts", [whole]), max_new_tokens=6, num_beams=1, **options)
        return found.token_ids, torch.tensor(found.log_probabilities)

    ids, expected = said(visual_tokens=media, use_cache=False)
    shot = encode(model, SHOT)
    prefix = compute_prefix(model, shot, model.media_keys_values(media[:, :1]))
    own = model.media_keys_values(media[:, 1:])
    for other in (
        said(visual_tokens=media),
        said(media=model.media_keys_values(media)),
        said(prompts=[continue_prompt(model, shot, ASKED)], media=own, prefix=prefix),
    ):
        assert other[0] == ids
        torch.testing.assert_close(other[1], expected, atol=1e-4, rtol=1e-4)


def test_prompts_that_number_media_alike_may_hold_them_once(model: Flamingo) -> None:
    media = random_visual_tokens(model, 1, 2)
    prompts = [encode(model, [*SHOT, *ASKED]), encode(model, [*ASKED, *SHOT, Text("a")])]
    once = generate(model, prompts, media=model.media_keys_values(media), max_new_tokens=4, num_beams=1)
    each = generate(model, prompts, media.expand(2, -1, -1, -1), max_new_tokens=4, num_beams=1)
    assert [one.token_ids for one in once] == [one.token_ids for one in each]
    for one, other in zip(once, each, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_times_learn_and_a_batch_without_media_gives_them_zeros(model: Flamingo, checkpointing: bool) -> None:
    model.activation_checkpointing = checkpointing
    model.train()
    prompt = encode(model, SHOT)
    ids = torch.tensor([prompt.token_ids])
    for index, tokens in ((prompt.media_index, random_visual_tokens(model, 1, 1)), ([0] * len(prompt), None)):
        model.zero_grad()
        model.loss(ids, torch.tensor([index]), ids, visual_tokens=tokens)[0].backward()
        moved = {bool(block.word_times.grad.abs().max() > 0) for block in model.blocks}
        assert moved == {tokens is not None}


def test_times_begin_smooth_and_with_a_mean_of_zero() -> None:
    times = initial_times(24, 4096)
    assert float(times.mean(0).abs().max()) < 1e-5
    assert float(times.square().mean().sqrt()) == pytest.approx(INITIAL_TIMES, rel=0.1)
    likeness = torch.nn.functional.cosine_similarity(times[0], times, dim=-1)
    assert float(likeness[1]) > 0.95
    assert float(likeness[12:].max()) < 0.5
