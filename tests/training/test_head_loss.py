"""The loss of the frozen output layer is the ordinary cross-entropy, value and gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lora.training import head_loss as module
from lora.training.head_loss import head_loss

COUNT, WIDTH, VOCABULARY = 133, 16, 50


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(COUNT, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    return hidden, weight, torch.randint(VOCABULARY, (COUNT,), generator=generator)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three pieces of the positions and four tiles of the vocabulary, the last of each smaller than the others."""
    monkeypatch.setattr(module, "POSITIONS", 64)
    monkeypatch.setattr(module, "COLUMNS", 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_value_and_gradient_are_those_of_cross_entropy(inputs: tuple[Tensor, Tensor, Tensor], precision: str) -> None:
    hidden, weight, labels = inputs
    importance = torch.linspace(0.1, 2.0, COUNT)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        expected = F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="none")
        got = head_loss(hidden, weight.to(torch.bfloat16) if precision == "bf16" else weight, labels)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if precision == "fp32" else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(got, expected, **tolerance)
    [wanted] = torch.autograd.grad((importance * expected).sum(), hidden)
    [gradient] = torch.autograd.grad((importance * got).sum(), hidden)
    torch.testing.assert_close(gradient, wanted, **tolerance)


def test_a_token_that_is_all_but_impossible_has_a_finite_loss() -> None:
    hidden = torch.tensor([[200.0]], requires_grad=True)
    loss = head_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(400.0)
    loss.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(2.0)


def test_the_likeliest_token_may_stand_in_any_tile(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    _, weight, _ = inputs
    hidden = 30 * weight  # each row's highest score is its own, far above those of the tiles before and after
    expected = F.cross_entropy(hidden @ weight.T, torch.zeros(VOCABULARY, dtype=torch.int64), reduction="none")
    got = head_loss(hidden, weight, torch.zeros(VOCABULARY, dtype=torch.int64))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_an_output_layer_that_is_to_be_trained_is_refused() -> None:
    weight = torch.zeros(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="Freeze it"):
        head_loss(torch.zeros(1, 2), weight, torch.tensor([0]))
