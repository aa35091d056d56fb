"""The invariants of the design, one after the other, for every family of language models, with open gates."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import (
    FAMILIES,
    TINY_CONFIG,
    close_gates,
    encode,
    random_pixels,
    random_visual_tokens,
    run,
    tiny_flamingo,
    tiny_language_model,
)
from videoflamingo.errors import ModelError
from videoflamingo.generation import generate, score_choices
from videoflamingo.models.attention import backends_that_ran
from videoflamingo.models.flamingo import Flamingo, _visual_state
from videoflamingo.models.language import decoder_layers
from videoflamingo.prompt import EncodedPrompt, EndOfChunk, Medium, Text, pad_prompts

TOKENS = torch.tensor([[0, 40, 8, 77, 31, 12, 60, 5]])
MEDIA_INDEX = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]])
TWO_MEDIA = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2]])
NO_MEDIA = torch.zeros_like(MEDIA_INDEX)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Flamingo:
    return tiny_flamingo(family=family)


def logits(model: Flamingo, visual_tokens: Tensor | None, media_index: Tensor = MEDIA_INDEX) -> Tensor:
    """Of TOKENS, `[L, vocabulary + 1]`."""
    with torch.no_grad():
        return model(TOKENS, media_index, visual_tokens=visual_tokens).logits[0]


def bare(model: Flamingo) -> Tensor:
    with torch.no_grad():
        return model.language_model(input_ids=TOKENS).logits[0]


def changed_positions(one: Tensor, other: Tensor) -> list[int]:
    return (one - other).abs().amax(-1).gt(1e-4).nonzero().flatten().tolist()


# 1. Gates at zero: the bare language model.


def test_with_closed_gates_the_logits_are_the_bare_language_models(model: Flamingo) -> None:
    visual_tokens = random_visual_tokens(model, 1, 3)
    assert changed_positions(logits(model, visual_tokens)[:, :-1], bare(model)) == list(range(8))  # as long as open
    close_gates(model)
    assert torch.equal(logits(model, visual_tokens)[:, :-1], bare(model))


def test_a_new_model_starts_as_the_bare_language_model(model: Flamingo) -> None:
    new = Flamingo(TINY_CONFIG, model.language_model, model.tokenizer)
    assert torch.equal(logits(new, random_visual_tokens(new, 1, 3))[:, :-1], bare(new))


# 2. Text before any medium gets exactly zero from cross-attention; the gated feed-forward still applies.


def test_text_before_any_medium_gets_the_feed_forward_and_nothing_else(model: Flamingo) -> None:
    with_media = logits(model, random_visual_tokens(model, 1, 3))
    without = logits(model, None, NO_MEDIA)
    assert torch.equal(with_media[:2], without[:2])
    assert changed_positions(without, bare_with_end_of_chunk(model)) == list(range(8))


def bare_with_end_of_chunk(model: Flamingo) -> Tensor:
    """What the model says without its gated blocks."""
    blocks = [parameter for block in model.blocks for parameter in (block.attention_gate, block.feed_forward_gate)]
    values = [gate.detach().clone() for gate in blocks]
    found = logits(close_gates(model), None, NO_MEDIA)
    with torch.no_grad():
        for gate, value in zip(blocks, values, strict=True):
            gate.copy_(value)
    return found


def test_a_batch_without_media_says_what_text_before_media_says(model: Flamingo) -> None:
    empty = random_visual_tokens(model, 1, 0)
    assert torch.equal(logits(model, empty, NO_MEDIA), logits(model, None, NO_MEDIA))


# 3. Padding frames do not vote.


def test_padding_frames_change_nothing(model: Flamingo) -> None:
    features = model.vision(random_pixels(3))
    frame_index = torch.tensor([[[0, 1, 2], [1, -1, -1]]])
    padded = torch.nn.functional.pad(frame_index, (0, 4), value=-1)
    assert torch.equal(model.resample(features, frame_index), model.resample(features, padded))


def test_frames_that_no_medium_uses_change_nothing(model: Flamingo) -> None:
    features = model.vision(random_pixels(5))
    frame_index = torch.tensor([[[0, 1, 2], [1, -1, -1]]])
    assert torch.equal(model.resample(features[:3], frame_index), model.resample(features, frame_index))


def test_media_of_different_lengths_get_what_each_gets_alone(model: Flamingo) -> None:
    features = model.vision(random_pixels(5))
    together = model.resample(features, torch.tensor([[[0, 1, 2, 3], [4, -1, -1, -1], [2, 1, -1, -1]]]))
    for number, frames in enumerate(([0, 1, 2, 3], [4], [2, 1])):
        alone = model.resample(features, torch.tensor([[frames]]))
        assert alone.std() > 0.1
        torch.testing.assert_close(together[:, number], alone[:, 0], rtol=1e-5, atol=1e-5)


def test_a_medium_that_does_not_exist_has_zeros_for_tokens(model: Flamingo) -> None:
    tokens = model.resample(model.vision(random_pixels(1)), torch.tensor([[[0, -1], [-1, -1]]]))
    assert tokens[0].abs().amax((1, 2)).ne(0).tolist() == [True, False]


@pytest.mark.parametrize("frame_index", [[[[-1, 0]]], [[[0, -1, 1]]], [[[3]]]])
def test_padding_before_a_frame_or_a_frame_that_is_not_there_is_refused(
    model: Flamingo, frame_index: list[list[list[int]]]
) -> None:
    with pytest.raises(ModelError, match=r"frame_index must hold frames 0 to 2 first and padding \(-1\) after them"):
        model.resample(torch.zeros(3, 4, model.vision.width), torch.tensor(frame_index))


# 4. A medium that no text refers to changes nothing; the order of media counts.


def test_appending_a_medium_that_no_text_refers_to_changes_nothing(model: Flamingo) -> None:
    tokens = random_visual_tokens(model, 1, 4)
    # Rounding only: the oldest supported PyTorch differs by 2.2e-6, and what can be seen changes logits by 1e-2.
    torch.testing.assert_close(logits(model, tokens), logits(model, tokens[:, :3]), rtol=1e-6, atol=5e-6)


def test_permuting_media_changes_all_text_that_sees_them(model: Flamingo) -> None:
    tokens = random_visual_tokens(model, 1, 3)
    permuted = logits(model, tokens[:, [1, 2, 0]])
    assert changed_positions(logits(model, tokens), permuted) == [2, 3, 4, 5, 6, 7]


# 5. A medium changes what comes after it, directly only the text that belongs to it.


@pytest.mark.parametrize("medium", [0, 1, 2])
def test_changing_a_medium_changes_the_logits_after_it_only(model: Flamingo, medium: int) -> None:
    tokens = random_visual_tokens(model, 1, 3)
    other = tokens.clone()
    other[:, medium] = random_visual_tokens(model, 1, 1, seed=1)[:, 0]
    before, after = logits(model, tokens), logits(model, other)
    first = 2 + 2 * medium
    assert torch.equal(before[:first], after[:first])
    assert changed_positions(before, after) == list(range(first, 8))


@pytest.mark.parametrize("medium", [0, 1, 2])
def test_changing_a_medium_changes_directly_only_the_text_that_belongs_to_it(
    model: Flamingo, family: str, medium: int
) -> None:
    """With the attention of every layer cut, so that nothing is passed on."""
    for layer in decoder_layers(model.language_model):
        torch.nn.init.zeros_(layer.get_submodule(FAMILIES[family][2]).weight)
    tokens = random_visual_tokens(model, 1, 3)
    other = tokens.clone()
    other[:, medium] = random_visual_tokens(model, 1, 1, seed=1)[:, 0]
    first = 2 + 2 * medium
    assert changed_positions(logits(model, tokens), logits(model, other)) == [first, first + 1]


# 6. Caches, padding and batches change nothing.

SEGMENTS = {
    "no medium": [Text("A plain text of some length")],
    "one medium": [Medium(), Text("Output:")],
    "a shot": [Medium(), Text("Output:"), Text(" a dog", is_answer=True), EndOfChunk(), Medium(), Text("Output:")],
}


def prompts_and_media(model: Flamingo) -> tuple[list[EncodedPrompt], Tensor]:
    prompts = [encode(model, segments) for segments in SEGMENTS.values()]
    assert len({len(prompt) for prompt in prompts}) == 3
    return prompts, random_visual_tokens(model, 3, 2)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_cached_and_uncached_generation_give_the_same_tokens(model: Flamingo, num_beams: int) -> None:
    prompts, media = prompts_and_media(model)
    cached, uncached = (
        generate(model, prompts, media, max_new_tokens=8, num_beams=num_beams, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert [one.token_ids for one in cached] == [one.token_ids for one in uncached]
    for one, other in zip(cached, uncached, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


def test_greedy_generation_is_the_best_next_token_of_a_plain_pass_each_time(model: Flamingo) -> None:
    prompts, media = prompts_and_media(model)
    generated = generate(model, prompts, media, max_new_tokens=6)
    for prompt, tokens, found in zip(prompts, media, generated, strict=True):
        ids, index = list(prompt.token_ids), list(prompt.media_index)
        for token in found.token_ids:
            grown = EncodedPrompt(ids, index, [False] * len(ids), 2)
            assert token == int(run(model, grown, tokens[None])[-1].argmax())
            ids, index = [*ids, token], [*index, index[-1]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_gives_each_prompt_what_it_gets_alone(num_beams: int) -> None:
    model = tiny_flamingo(seed=2)
    with torch.no_grad():
        model.new_tokens.weight *= 1.5  # so that answers end
    prompts, media = prompts_and_media(model)
    together = generate(model, prompts, media, max_new_tokens=30, num_beams=num_beams)
    assert len({len(one.token_ids) for one in together}) == 3  # rows leave the batch one after the other
    for number, prompt in enumerate(prompts):
        (alone,) = generate(model, [prompt], media[number : number + 1], max_new_tokens=30, num_beams=num_beams)
        assert together[number].token_ids == alone.token_ids
        assert together[number].log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logits(model: Flamingo, side: str) -> None:
    prompts, media = prompts_and_media(model)
    padded = pad_prompts(prompts, side=side)
    mask = torch.from_numpy(padded.attention_mask)
    with torch.no_grad():
        found = model(
            torch.from_numpy(padded.input_ids),
            torch.from_numpy(padded.media_index),
            visual_tokens=media,
            attention_mask=mask,
            position_ids=torch.from_numpy(padded.position_ids),
        ).logits
    for row, prompt in enumerate(prompts):
        alone = run(model, prompt, media[row : row + 1])
        torch.testing.assert_close(found[row][mask[row] == 1], alone, rtol=1e-4, atol=1e-4)


def test_scored_choices_equal_a_plain_pass_for_each_of_them(model: Flamingo) -> None:
    prompts, media = prompts_and_media(model)
    end = model.end_of_chunk_id
    choices = [[[10, 11, 12, end], [20, end]], [[30]], [[40, 41, end], [end], [50, 51, 52, 53, 54]]]
    scored = score_choices(model, prompts, choices, media)
    assert [[one.token_ids for one in own] for own in scored] == choices
    for row, prompt in enumerate(prompts):
        for choice, found in zip(choices[row], scored[row], strict=True):
            ids = [*prompt.token_ids, *choice]
            index = [*prompt.media_index, *[prompt.media_index[-1]] * len(choice)]
            whole = run(model, EncodedPrompt(ids, index, [False] * len(ids), 2), media[row : row + 1]).log_softmax(-1)
            expected = [float(whole[len(prompt) - 1 + place, token]) for place, token in enumerate(choice)]
            assert found.log_probabilities == pytest.approx(expected, abs=1e-5)


def test_logits_at_chosen_places_are_those_of_all_places(model: Flamingo) -> None:
    media, chosen = (
        random_visual_tokens(model, 1, 3),
        torch.tensor([[False, True, False, True, False, False, True, False]]),
    )
    with torch.no_grad():
        found = model(TOKENS, MEDIA_INDEX, visual_tokens=media, logits_at=chosen).logits
    torch.testing.assert_close(found, logits(model, media)[chosen[0]], rtol=1e-5, atol=1e-5)


# 8. Only what is trained gets gradients; what is frozen stays as it is.

TRAINED = ("resampler.", "blocks.", "new_tokens.")


def test_exactly_the_trained_parameters_get_gradients(model: Flamingo) -> None:
    model.train()
    ids = torch.tensor([[0, 40, model.end_of_chunk_id, 77]])
    visual_tokens = model.encode(random_pixels(2), torch.tensor([[[0, 1]]]))
    model(ids, torch.tensor([[0, 1, 1, 1]]), visual_tokens=visual_tokens).logits.square().mean().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in model.named_parameters() if name.startswith(TRAINED)}
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters() if parameter.grad is not None)


def test_frozen_parts_stay_in_eval_mode(model: Flamingo) -> None:
    torch.nn.Sequential(model).train()
    assert model.resampler.training and model.blocks.training
    assert not any(part.training for part in (*model.vision.modules(), *model.language_model.modules()))


def test_batch_statistics_of_the_tower_never_change(model: Flamingo) -> None:
    statistics = {
        name: value.clone() for name, value in model.vision.backbone.state_dict().items() if "running" in name
    }
    assert statistics
    model.train()
    model.encode(random_pixels(4) * 3 + 1, torch.tensor([[[0, 1, 2, 3]]]))
    now = model.vision.backbone.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in statistics.items())


@pytest.mark.parametrize("has_no_place", [True, False])
def test_a_batch_without_media_gives_everything_trained_a_gradient(model: Flamingo, has_no_place: bool) -> None:
    nothing = torch.zeros(0, model.vision.num_patches, model.vision.width)
    visual_tokens = model.resample(nothing, torch.zeros(2, 0, 0, dtype=torch.long)) if has_no_place else None
    model.train()
    output = model(torch.tensor([[5], [6]]), torch.zeros(2, 1, dtype=torch.long), visual_tokens=visual_tokens)
    output.logits.sum().backward()
    assert all(block.feed_forward_gate.grad.abs() > 0 for block in model.blocks)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert not model.resampler.latents.grad.any()


# 9. Nothing is left behind, even by an error, and threads do not meet.


class Broken(Exception):
    """What a layer may raise."""


def break_layer(model: Flamingo, index: int) -> Any:
    def fail(*_: object) -> None:
        raise Broken

    return decoder_layers(model.language_model)[index].register_forward_pre_hook(fail)


def forward_once(model: Flamingo) -> None:
    logits(model, random_visual_tokens(model, 1, 3))


def generate_once(model: Flamingo) -> None:
    prompts, media = prompts_and_media(model)
    generate(model, prompts, media, max_new_tokens=3, num_beams=2)


def backward_once(model: Flamingo) -> None:
    model.train()
    model(TOKENS, MEDIA_INDEX, visual_tokens=random_visual_tokens(model, 1, 3)).logits.sum().backward()


@pytest.mark.parametrize("use", [forward_once, generate_once, backward_once])
def test_an_error_in_a_middle_layer_leaves_the_model_as_it_was(
    model: Flamingo, use: Callable[[Flamingo], None]
) -> None:
    visual_tokens = random_visual_tokens(model, 1, 3)
    alone, together = bare(model), logits(model, visual_tokens)
    hook = break_layer(model, 2)
    with pytest.raises(Broken):
        use(model)
    hook.remove()
    assert _visual_state.get() is None
    assert torch.equal(bare(model), alone)
    assert torch.equal(logits(model, visual_tokens), together)


def test_the_bare_language_model_is_untouched_between_calls(model: Flamingo, family: str) -> None:
    untouched = bare(tiny_flamingo(family=family))
    forward_once(model)
    assert torch.equal(bare(model), untouched)
    assert not torch.equal(bare(model), logits(model, random_visual_tokens(model, 1, 3))[:, :-1])


def test_the_language_model_keeps_its_own_names(model: Flamingo, family: str) -> None:
    names = set(tiny_language_model(len(model.tokenizer), family=family).state_dict())
    assert set(model.language_model.state_dict()) == names


def test_two_flamingos_on_one_language_model_do_not_meet(model: Flamingo) -> None:
    visual_tokens = random_visual_tokens(model, 1, 3)
    before = logits(model, visual_tokens)
    other = tiny_flamingo(5, language_model=model.language_model)
    assert torch.equal(logits(model, visual_tokens), before)
    assert changed_positions(logits(other, visual_tokens), before) == list(range(8))


def test_two_threads_get_what_each_gets_alone(model: Flamingo) -> None:
    """Each waits for the other in the middle of its forward, so that both scopes are open at once."""
    media = [random_visual_tokens(model, 1, 3, seed) for seed in (0, 1)]
    alone = [logits(model, tokens) for tokens in media]
    meeting = threading.Barrier(2, timeout=30)

    def meet(*_: object) -> None:
        meeting.wait()

    layers = decoder_layers(model.language_model)
    hooks = [layers[index].register_forward_hook(meet) for index in (0, 2)]
    found: list[Tensor | None] = [None, None]

    def work(number: int) -> None:
        found[number] = logits(model, media[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hook in hooks:
        hook.remove()
    assert found[0] is not None and torch.equal(found[0], alone[0])
    assert found[1] is not None and torch.equal(found[1], alone[1])


# 10. Activation checkpointing changes no gradient. (Training without media on two processes: tests/training.)


def gradients(model: Flamingo, **settings: bool) -> tuple[dict[str, Tensor], int]:
    """Of every trained parameter; and how many bytes were kept for the backward pass, weights apart."""
    model.train()
    model.activation_checkpointing = settings.get("activation_checkpointing", False)
    weights = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.tensor([[0, 40, model.end_of_chunk_id, 77, 31, 12], [7, 8, 9, 10, 11, 12]])
    index = torch.tensor([[0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1]])
    features = model.vision(random_pixels(5))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        visual_tokens = model.resample(features, torch.tensor([[[0, 1, 2], [3, -1, -1]], [[4, 0, -1], [-1, -1, -1]]]))
        total, count = model.loss(ids, index, ids.clone(), visual_tokens=visual_tokens)
    (total / count).backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found, sum(kept.values())


def test_activation_checkpointing_changes_no_gradient_and_keeps_less(model: Flamingo) -> None:
    plain, kept = gradients(model)
    found, kept_less = gradients(model, activation_checkpointing=True)
    assert found.keys() == plain.keys()
    assert {name.split(".")[0] for name in found} == {"resampler", "blocks", "new_tokens"}
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(found[name], gradient), name
    assert kept_less < 0.6 * kept


def test_activation_checkpointing_recomputes_with_the_media_of_its_own_forward(model: Flamingo) -> None:
    """Two passes before one backward: the scope of each has closed, and they saw different media."""
    expected = [gradients_of_media(model, seed, False) for seed in (0, 1)]
    model.activation_checkpointing = True
    model.train()
    media = [random_visual_tokens(model, 1, 3, seed).requires_grad_() for seed in (0, 1)]
    outputs = [model(TOKENS, MEDIA_INDEX, visual_tokens=own).logits.square().mean() for own in media]
    sum(outputs).backward()
    for own, gradient in zip(media, expected, strict=True):
        assert own.grad is not None
        torch.testing.assert_close(own.grad, gradient, rtol=1e-5, atol=1e-9)


def gradients_of_media(model: Flamingo, seed: int, activation_checkpointing: bool) -> Tensor:
    model.train()
    model.activation_checkpointing = activation_checkpointing
    media = random_visual_tokens(model, 1, 3, seed).requires_grad_()
    model(TOKENS, MEDIA_INDEX, visual_tokens=media).logits.square().mean().backward()
    assert media.grad is not None and media.grad.abs().max() > 0
    return media.grad


def test_without_gradients_nothing_is_checkpointed(model: Flamingo) -> None:
    visual_tokens = random_visual_tokens(model, 1, 3)
    plain = logits(model, visual_tokens)
    model.activation_checkpointing = True
    assert torch.equal(logits(model, visual_tokens), plain)


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("c++") is None, reason="needs a C++ compiler")
def test_compiled_blocks_have_the_same_gradients_and_names() -> None:
    model = tiny_flamingo()
    names = list(model.state_dict())
    plain, _ = gradients(model)
    found, _ = gradients(model.compile_blocks())
    assert list(model.state_dict()) == names
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


# The loss is the likelihood of the logits, without them in memory.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_and_its_gradients_are_those_of_the_logits(model: Flamingo, dtype: torch.dtype) -> None:
    model.language_model.to(dtype)
    labels = TOKENS.clone()
    labels[0, [1, 4]] = -100
    results = []
    for way in ("logits", "loss"):
        media = random_visual_tokens(model, 1, 3).requires_grad_()
        if way == "loss":
            total, count = model.loss(TOKENS, MEDIA_INDEX, labels, visual_tokens=media)
            assert count == 5  # of positions 1 to 7, two have no label
        else:
            predicted = model(TOKENS, MEDIA_INDEX, visual_tokens=media).logits[:, :-1]
            total = torch.nn.functional.cross_entropy(predicted[0], labels[0, 1:], reduction="sum")
        model.zero_grad()
        total.backward()
        gradient = model.new_tokens.weight.grad
        results.append((total.detach(), media.grad, gradient))
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


# In bfloat16 as well: what is exact must be exact there, too.


@pytest.fixture
def half(model: Flamingo) -> Flamingo:
    """The language model in bfloat16, the trained parts in float32, as in training."""
    model.language_model.to(torch.bfloat16)
    return model


def test_in_bfloat16_closed_gates_give_the_bare_language_models_logits(half: Flamingo) -> None:
    close_gates(half)
    with torch.no_grad():
        expected = half.language_model(input_ids=TOKENS).logits[0].float()
    assert torch.equal(logits(half, random_visual_tokens(half, 1, 3))[:, :-1], expected)


def test_in_bfloat16_a_medium_changes_what_comes_after_it_only(half: Flamingo) -> None:
    tokens = random_visual_tokens(half, 1, 3)
    other = tokens.clone()
    other[:, 1] = random_visual_tokens(half, 1, 1, seed=1)[:, 0]
    before, after = logits(half, tokens), logits(half, other)
    assert torch.equal(before[:4], after[:4])
    assert (before - after)[4:].abs().amax(-1).gt(1e-2).all()


def test_in_bfloat16_text_before_any_medium_sees_nothing_of_it(half: Flamingo) -> None:
    with_media, without = logits(half, random_visual_tokens(half, 1, 3)), logits(half, None, NO_MEDIA)
    assert torch.equal(with_media[:2], without[:2])


def test_in_bfloat16_all_trained_parts_get_gradients_and_checkpointing_changes_none(half: Flamingo) -> None:
    plain, _ = gradients(half)
    found, _ = gradients(half, activation_checkpointing=True)
    assert {name for name, value in half.named_parameters() if value.requires_grad} == set(plain) == set(found)
    for name, gradient in plain.items():
        assert gradient.dtype == torch.float32 and gradient.abs().max() > 0, name
        assert torch.equal(found[name], gradient), name


def test_in_bfloat16_choices_scored_over_a_cache_have_the_probabilities_of_a_plain_pass(half: Flamingo) -> None:
    prompts, media = prompts_and_media(half)
    choices = [[[10, 11, 12], [20, 9]], [[30, 31]], [[40, 41, 8, 7]]]
    scored = score_choices(half, prompts, choices, media)
    for row, prompt in enumerate(prompts):
        for choice, found in zip(choices[row], scored[row], strict=True):
            ids = [*prompt.token_ids, *choice]
            index = [*prompt.media_index, *[prompt.media_index[-1]] * len(choice)]
            whole = run(half, EncodedPrompt(ids, index, [False] * len(ids), 2), media[row : row + 1]).log_softmax(-1)
            expected = [float(whole[len(prompt) - 1 + place, token]) for place, token in enumerate(choice)]
            assert found.log_probabilities == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_a_forced_kernel_runs_everywhere_and_changes_nothing(backend: Any) -> None:
    model = tiny_flamingo()
    features, frames = model.vision(random_pixels(2)), torch.tensor([[[0], [1]]])
    expected = logits(model, model.resample(features, frames), TWO_MEDIA)
    model.force_attention(backend)
    with backends_that_ran() as ran:
        found = logits(model, model.resample(features, frames), TWO_MEDIA)
    assert ran == {backend: len(model.resampler.layers) + len(model.blocks)}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_kernel_cannot_be_forced() -> None:
    with pytest.raises(ModelError, match="attention backend 'flash' is unknown; choose one of auto, math, sdpa"):
        tiny_flamingo().force_attention("flash")  # type: ignore[arg-type]


# And what the constructor and forward refuse.


def test_text_that_refers_to_a_medium_that_was_not_given_is_refused(model: Flamingo) -> None:
    with pytest.raises(ModelError, match="token 6 of row 0 refers to medium 3, but 2 media were given"):
        logits(model, random_visual_tokens(model, 1, 2))
    with pytest.raises(ModelError, match="token 2 of row 0 refers to medium 1, but 0 media were given"):
        logits(model, None)


def test_visual_tokens_and_their_keys_are_not_taken_together(model: Flamingo) -> None:
    tokens = random_visual_tokens(model, 1, 3)
    with pytest.raises(ModelError, match="visual_tokens or media, not both"):
        model(TOKENS, MEDIA_INDEX, visual_tokens=tokens, media=model.media_keys_values(tokens))


def test_a_tokenizer_without_a_language_model_is_refused(model: Flamingo) -> None:
    with pytest.raises(ModelError, match="a tokenizer was given without its language_model"):
        Flamingo(TINY_CONFIG, tokenizer=model.tokenizer)


def test_a_schedule_without_a_block_is_refused() -> None:
    cross_attention = replace(TINY_CONFIG.cross_attention, first=4)
    with pytest.raises(ModelError, match=r"cross_attention\.first is 4, but the language model has 4 layers"):
        tiny_flamingo(cross_attention=cross_attention)


@pytest.mark.parametrize(
    ("first", "every", "layers"), [(0, 1, (0, 1, 2, 3)), (0, 2, (0, 2)), (1, 2, (1, 3)), (3, 9, (3,))]
)
def test_blocks_sit_where_the_schedule_says(first: int, every: int, layers: tuple[int, ...]) -> None:
    cross_attention = replace(TINY_CONFIG.cross_attention, first=first, every=every)
    model = tiny_flamingo(cross_attention=cross_attention)
    assert model.block_layers == layers
    assert len(model.blocks) == len(layers)
