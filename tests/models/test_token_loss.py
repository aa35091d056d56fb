"""The loss without logits, against torch's cross-entropy of all logits in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videoflamingo.models.token_loss import ROWS_AT_A_TIME, vocabulary_loss

WIDTH, VOCABULARY, NEW = 16, 50, 2


def parts(num_rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    hidden = torch.randn(num_rows, WIDTH, generator=generator).to(dtype).requires_grad_()
    new_rows = torch.randn(NEW, WIDTH, generator=generator).requires_grad_()
    vocabulary = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    targets = torch.randint(0, VOCABULARY + NEW, (num_rows,), generator=generator)
    return hidden, new_rows, vocabulary, targets


def exact(hidden: Tensor, new_rows: Tensor, vocabulary: Tensor, targets: Tensor) -> list[Tensor]:
    """The loss and its gradients in hidden states and new rows."""
    hidden, new_rows = (tensor.detach().double().requires_grad_() for tensor in (hidden, new_rows))
    logits = hidden @ torch.cat([vocabulary.double(), new_rows]).T
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return [loss.detach(), *torch.autograd.grad(loss, [hidden, new_rows])]


@pytest.mark.parametrize("num_rows", [1, ROWS_AT_A_TIME, ROWS_AT_A_TIME + 1, 3 * ROWS_AT_A_TIME - 5])
def test_it_is_the_cross_entropy_of_all_logits(num_rows: int) -> None:
    inputs = parts(num_rows)
    loss = vocabulary_loss(*inputs)
    found = [loss.detach(), *torch.autograd.grad(loss * 3, inputs[:2])]
    expected = exact(*inputs)
    for one, other, factor in zip(found, expected, (1, 3, 3), strict=True):
        torch.testing.assert_close(one.double(), other * factor, rtol=1e-5, atol=1e-5)


def test_of_no_labels_it_is_zero_and_so_are_its_gradients() -> None:
    inputs = parts(0)
    loss = vocabulary_loss(*inputs)
    assert float(loss) == 0.0
    assert torch.equal(torch.autograd.grad(loss, inputs[1])[0], torch.zeros(NEW, WIDTH))


def test_large_logits_do_not_overflow() -> None:
    hidden, new_rows, vocabulary, targets = parts(5)
    inputs = ((hidden.detach() * 1e4).requires_grad_(), new_rows, vocabulary, targets)
    loss = vocabulary_loss(*inputs)
    torch.testing.assert_close(loss.double(), exact(*inputs)[0], rtol=1e-5, atol=0)
    assert torch.isfinite(torch.autograd.grad(loss, inputs[0])[0]).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_it_is_as_close_as_its_rounding_and_autocast_changes_nothing(autocast: bool) -> None:
    inputs = parts(40, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = vocabulary_loss(*inputs)
    found = [loss.detach(), *torch.autograd.grad(loss, inputs[:2])]
    for one, other in zip(found, exact(*inputs), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


def test_float32_under_autocast_stays_exact() -> None:
    inputs = parts(40)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary_loss(*inputs)
    found = [loss.detach(), *torch.autograd.grad(loss, inputs[:2])]
    for one, other in zip(found, exact(*inputs), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_the_frozen_vocabulary_gets_no_gradient() -> None:
    hidden, new_rows, vocabulary, targets = parts(3)
    vocabulary.requires_grad_()
    vocabulary_loss(hidden, new_rows, vocabulary, targets).backward()
    assert vocabulary.grad is None
    assert hidden.grad is not None and new_rows.grad is not None


def test_without_gradients_it_is_the_same_number() -> None:
    inputs = parts(70)
    with torch.no_grad():
        assert torch.equal(vocabulary_loss(*inputs), vocabulary_loss(*parts(70)).detach())
