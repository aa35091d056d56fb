"""Frozen language models in 8 bits, compared with twins that keep the same weights in float."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tiny import (
    encode,
    random_visual_tokens,
    run,
    tiny_flamingo,
    tiny_language_model,
    tiny_tokenizer,
)
from videoflamingo.errors import ModelError
from videoflamingo.generation import generate, score_choices
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.models.language import decoder_layers, load_language_model, quantize_layers
from videoflamingo.prompt import EndOfChunk, Medium, Text

SEGMENTS = [Medium(), Text("Output:"), Text(" a dog"), EndOfChunk(), Medium(), Text("Output:")]
QUANTISED_FAMILIES = ["llama", "mistral", "qwen2", "gpt_neox", "opt", "mpt"]

needs_torchao = pytest.mark.usefixtures("torchao")


@pytest.fixture
def torchao() -> None:
    """transformers and torchao both want torchvision's operators declared, which the tiny models do."""
    tiny_tokenizer()
    pytest.importorskip("torchao", reason="needs torchao: pip install torchao")


def test_a_language_model_that_was_given_is_not_quantised_behind_its_owners_back() -> None:
    model = tiny_flamingo()
    with pytest.raises(ModelError, match="quantize is 'int8', but a language_model was given, which stays as it is"):
        Flamingo(model.config, model.language_model, model.tokenizer, quantize="int8")


def linear_maps(language_model: Any) -> dict[str, nn.Linear]:
    return {name: one for name, one in decoder_layers(language_model).named_modules() if type(one) is nn.Linear}


def quantised_and_twin(family: str = "llama") -> tuple[Flamingo, Flamingo]:
    """A Flamingo with 8-bit layers, and one of ordinary float weights that are what those 8 bits stand for."""
    quantised, twin = (tiny_language_model(len(tiny_tokenizer()), family=family) for _ in range(2))
    quantize_layers(quantised)
    packed = linear_maps(quantised)
    with torch.no_grad():
        for name, linear in linear_maps(twin).items():
            linear.weight.copy_(packed[name].weight.dequantize())
    return tiny_flamingo(language_model=quantised), tiny_flamingo(language_model=twin)


def num_bytes(model: nn.Module) -> int:
    """Of all parameters; a packed one counts what it is made of."""
    total = 0
    for parameter in model.parameters():
        names = parameter.__tensor_flatten__()[0] if hasattr(parameter, "__tensor_flatten__") else []
        total += sum(getattr(parameter, name).nbytes for name in names) if names else parameter.nbytes
    return total


@needs_torchao
@pytest.mark.parametrize("family", QUANTISED_FAMILIES)
def test_the_weights_of_layers_are_8_bit_numbers_and_no_others_are(family: str) -> None:
    model = tiny_language_model(len(tiny_tokenizer()), family=family)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    in_layers = {id(linear) for linear in linear_maps(model).values()}
    packed = {f"{name}.weight" for name, module in model.named_modules() if id(module) in in_layers}
    assert len(packed) >= 4 * 4  # in each of four layers at least two of attention and two of the feed-forward
    quantize_layers(model)
    for name, parameter in model.named_parameters():
        if name in packed:
            assert parameter.qdata.dtype == torch.int8
            half_a_step = 0.5 * before[name].abs().amax(1, keepdim=True) / 127
            assert ((parameter.dequantize() - before[name]).abs() <= 1.001 * half_a_step).all()
        else:
            assert torch.equal(parameter, before[name])


@needs_torchao
def test_the_output_layer_and_what_is_trained_stay_float() -> None:
    model, _ = quantised_and_twin()
    head = model.language_model.get_output_embeddings()
    assert model.new_tokens.vocabulary_rows(head) is not None  # so that the loss keeps no logits
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert {type(parameter) for parameter in trained} == {nn.Parameter}


@needs_torchao
@pytest.mark.parametrize("family", QUANTISED_FAMILIES)
def test_logits_are_those_of_a_float_model_with_the_same_weights(family: str) -> None:
    model, twin = quantised_and_twin(family)
    prompt, media = encode(model, SEGMENTS), random_visual_tokens(model, 1, 2)
    torch.testing.assert_close(run(model, prompt, media), run(twin, prompt, media), rtol=1e-4, atol=1e-4)
    exact = tiny_flamingo(language_model=tiny_language_model(len(tiny_tokenizer()), family=family))
    assert (run(exact, prompt, media) - run(twin, prompt, media)).abs().max() > 1e-3  # rounding shows


@needs_torchao
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_works_with_its_caches(num_beams: int) -> None:
    model, twin = quantised_and_twin()
    prompts, media = [encode(model, SEGMENTS), encode(model, SEGMENTS[-2:])], random_visual_tokens(model, 2, 2)
    found, expected = (generate(one, prompts, media, max_new_tokens=8, num_beams=num_beams) for one in (model, twin))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


@needs_torchao
def test_choices_are_scored() -> None:
    model, twin = quantised_and_twin()
    prompts, media = [encode(model, SEGMENTS)], random_visual_tokens(model, 1, 2)
    choices = [[[10, 11, model.end_of_chunk_id], [30]]]
    (found,), (expected,) = (score_choices(one, prompts, choices, media) for one in (model, twin))
    for one, other in zip(found, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@needs_torchao
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_gradients_reach_everything_trained_through_8_bit_layers(activation_checkpointing: bool) -> None:
    gradients = []
    for model in quantised_and_twin():
        model.activation_checkpointing = activation_checkpointing
        ids = torch.tensor([[0, 40, 8, 77, 31, 12, model.end_of_chunk_id]])
        media = random_visual_tokens(model, 1, 1).requires_grad_()
        model.train()
        loss, _ = model.loss(ids, torch.ones_like(ids), ids, visual_tokens=media)
        loss.backward()
        assert not any(parameter.grad is not None for parameter in model.language_model.parameters())
        parts = {**dict(model.blocks.named_parameters()), "new": model.new_tokens.weight, "media": media}
        gradients.append({name: part.grad for name, part in parts.items()})
    found, expected = gradients
    for name in expected:
        assert found[name] is not None, name
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
        assert expected[name].abs().max() > 1e-3, name


@needs_torchao
def test_a_checkpoint_knows_nothing_of_it() -> None:
    model, twin = quantised_and_twin()
    assert model.trainable_state().keys() == twin.trainable_state().keys()
    assert model.config == twin.config


@needs_torchao
def test_a_folder_is_loaded_in_8_bits_and_frozen(tmp_path: Path) -> None:
    plain = tiny_language_model(len(tiny_tokenizer()))
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_language_model(str(tmp_path), torch.float32, "int8")
    quantize_layers(plain)
    expected = linear_maps(plain)
    for name, linear in linear_maps(model).items():
        assert torch.equal(linear.weight.qdata, expected[name].weight.qdata)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


@needs_torchao
def test_the_packaged_model_takes_less_than_half_the_memory_and_answers_nearly_the_same() -> None:
    """Rounding to bfloat16 moves these probabilities half as far (docs/platforms.md)."""
    exact, tokenizer = load_language_model("package:smollm2-135m-instruct", torch.float32)
    model, _ = load_language_model("package:smollm2-135m-instruct", torch.float32, "int8")
    assert num_bytes(model) < 0.45 * num_bytes(exact)
    text = "Once upon a time there was a little girl who lived in a small house near the forest with her grandmother."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        known, found = (one(input_ids=ids).logits[0].log_softmax(-1) for one in (exact, model))
    divergence = F.kl_div(found, known, log_target=True, reduction="none").sum(1)
    assert 1e-4 < divergence.mean() < 0.02
    assert (known - found).gather(1, known.argmax(1, keepdim=True)).abs().max() < 0.3
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        following = model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax()
    assert tokenizer.decode([int(following)]) == " Paris"


def test_without_torchao_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModelError, match=r"quantize is 'int8', which needs torchao, .*: pip install torchao"):
        quantize_layers(tiny_language_model(len(tiny_tokenizer())))


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the decoder layers of GPT2LMHeadModel have no nn\.Linear to quantise"):
        quantize_layers(tiny_language_model(len(tiny_tokenizer()), family="gpt2"))


def test_another_word_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ModelError, match="quantize is 'int4'; give none or int8"):
        load_language_model("package:unknown", torch.float32, "int4")  # type: ignore[arg-type]
