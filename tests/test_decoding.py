"""Options that make no sense are refused, and what is drawn from is what Hugging Face draws from."""

import itertools
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_flamingo
from videoflamingo.decoding import Decoding, Rules, settled_text, warped
from videoflamingo.errors import UsageError
from videoflamingo.torchvision_operators import declare_missing_operators


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give 1 or more"),
        ({"num_beams": -1}, "num_beams is -1; give 1 or more"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; give 0 to 30, which is max_new_tokens"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9; give 0 to 8, which is max_new_tokens"),
        ({"length_penalty": math.nan}, "length_penalty is nan; give a finite number"),
        ({"temperature": 0}, "temperature is 0; give more than 0, or leave it out for the likeliest tokens"),
        ({"temperature": -0.5}, "temperature is -0.5; give more than 0"),
        ({"temperature": math.nan}, "temperature is nan; give more than 0"),
        ({"temperature": math.inf}, "temperature is inf; give more than 0"),
        ({"top_k": 0}, "top_k is 0; give 1 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; give more than 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1; give more than 0 and at most 1"),
        ({"top_p": math.nan}, "top_p is nan; give more than 0 and at most 1"),
        ({"seed": 3}, "seed is 3, but nothing is drawn; add temperature, top_k or top_p, or leave out seed"),
        ({"seed": -1, "top_k": 2}, "seed is -1; give 0 or more"),
        ({"seed": [1, -2], "top_k": 2}, "seed is -2; give 0 or more"),
        ({"num_samples": 0, "top_k": 2}, "num_samples is 0; give 1 or more"),
        ({"num_samples": 2}, "num_samples is 2, but nothing is drawn; add temperature, top_k or top_p, or leave out"),
        ({"num_beams": 3, "top_p": 0.9}, "num_beams is 3, but temperature, top_k and top_p draw tokens instead"),
        ({"stop_words": "end"}, "stop_words is 'end'; give a list of texts, none of them empty"),
        ({"stop_words": ["end", ""]}, "stop_words is ['end', '']; give a list of texts, none of them empty"),
        ({"banned": [""]}, "banned is ['']; give a list of texts, none of them empty"),
    ],
)
def test_a_wrong_option_is_named_with_its_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Decoding(**options)
    assert str(caught.value).startswith(message)


def test_a_stop_token_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(UsageError, match=r"stop_token_ids holds \[-1, 99\], but the model's tokens are 0 to 98"):
        Rules(tiny_flamingo(), Decoding(stop_token_ids=[3, 99, -1]))


def test_there_is_a_seed_for_each_prompt_or_one_for_all() -> None:
    assert Decoding(top_k=2).seeds(2) == [None, None]
    assert Decoding(top_k=2, seed=0).seeds(2) == [0, 0]
    assert Decoding(top_k=2, seed=(4, 5)).seeds(2) == [4, 5]
    with pytest.raises(UsageError, match="seed holds 2 numbers for 3 prompts; give one for each, or one for all"):
        Decoding(top_k=2, seed=(4, 5)).seeds(3)


def test_options_are_checked_without_torch() -> None:
    """So that the command line can say at once what is wrong."""
    code = "import sys; from videoflamingo.decoding import Decoding; Decoding(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def hugging_face(scores: Tensor, temperature: float | None, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities after transformers' own warpers, in the order in which its `generate` uses them."""
    declare_missing_operators()
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    ids = torch.zeros(len(scores), 1, dtype=torch.long)
    if temperature is not None:
        scores = TemperatureLogitsWarper(temperature)(ids, scores)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    list(itertools.product([None, 0.3, 1.0, 2.5], [None, 1, 7, 10_000], [None, 0.05, 0.9, 1.0]))[1:],  # not all None
)
def test_tokens_are_drawn_from_hugging_faces_distribution(
    temperature: float | None, top_k: int | None, top_p: float | None
) -> None:
    scores = 3 * torch.randn(20, 200, generator=torch.Generator().manual_seed(1))
    scores[:, 50:60] = -math.inf  # banned
    found = warped(scores.log_softmax(-1), Decoding(temperature=temperature, top_k=top_k, top_p=top_p))
    expected = hugging_face(scores, temperature, top_k, top_p)
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_tokens_as_likely_as_the_last_of_top_k_are_drawn_too() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    found = warped(scores.log_softmax(-1), Decoding(top_k=2))
    torch.testing.assert_close(found, hugging_face(scores, None, 2, None))
    assert found.count_nonzero() == 3


@pytest.mark.parametrize("temperature", [1e-30, 1e-300])
def test_a_temperature_near_zero_leaves_the_likeliest_token(temperature: float) -> None:
    log_probabilities = torch.tensor([[0.2, 0.5, 0.3]]).log()
    assert warped(log_probabilities, Decoding(temperature=temperature)).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("a dog", "a dog"),
        ("a dog ", "a dog"),
        ("a dog. Q", "a dog."),
        ("a dog. Question", "a dog."),
        ("a dog. Questions", "a dog. Questions"),
        ("Quest", ""),
        ("a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", "a"),
        ("a\N{REPLACEMENT CHARACTER}b", "a\N{REPLACEMENT CHARACTER}b"),
        ("one\n", "one"),
        ("say #", "say"),
        ("", ""),
    ],
)
def test_what_may_still_change_is_held_back(text: str, settled: str) -> None:
    assert settled_text(text, ["Question:", "##", "\n\n"]) == settled
