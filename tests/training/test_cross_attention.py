"""Cross-attention without keys and values is cross-attention, value and gradient."""

import pytest
import torch
from torch import Tensor

from lora.model.adapters import AdapterConfig
from lora.model.load import Bundle
from lora.model.methods import start_adaptation
from lora.training import cross_attention
from lora.training.cross_attention import absorb_projections_

LENGTHS = (9, 6, 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often queries go to the states."""
    counted: list[int] = []
    attend = cross_attention._attend

    def spy(query: Tensor, *rest: Tensor) -> Tensor:
        counted.append(query.shape[1])
        return attend(query, *rest)

    monkeypatch.setattr(cross_attention, "_attend", spy)
    return counted


def compute(bundle: Bundle, *, padded: bool, tokens: int = 2) -> tuple[Tensor, Tensor]:
    """Return what the first layer's cross-attention hears, and the gradient for what asks."""
    width, generator = bundle.core.config.hidden_size, torch.Generator().manual_seed(0)
    states = torch.randn(len(LENGTHS), max(LENGTHS), width, generator=generator)
    asked = torch.randn(len(LENGTHS), tokens, width, generator=generator, requires_grad=True)
    mask = torch.arange(max(LENGTHS)).unsqueeze(0) < torch.tensor(LENGTHS).unsqueeze(1)
    seen = mask[:, None, None, :].expand(-1, 1, tokens, -1) if padded else None
    layer = bundle.core.model.decoder.layers[0].encoder_attn
    heard = layer(asked, key_value_states=states, attention_mask=seen)[0]
    slope = torch.randn(heard.shape, generator=generator)
    return heard.detach(), torch.autograd.grad((heard * slope).sum(), asked)[0]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_value_and_gradient_are_those_of_the_layer(
    bundle: Bundle, calls: list[int], padded: bool, precision: str, tolerance: float
) -> None:
    bundle.core.requires_grad_(False)
    heard, gradient = compute(bundle, padded=padded)
    absorb_projections_(bundle.core)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        absorbed, absorbed_gradient = compute(bundle, padded=padded)
    assert calls == [2]
    torch.testing.assert_close(absorbed.float(), heard, rtol=tolerance, atol=tolerance * heard.abs().max().item())
    torch.testing.assert_close(
        absorbed_gradient, gradient, rtol=tolerance, atol=tolerance * gradient.abs().max().item()
    )


def test_many_tokens_and_no_gradient_are_left_to_the_layer(bundle: Bundle, calls: list[int]) -> None:
    bundle.core.requires_grad_(False)
    absorb_projections_(bundle.core)
    compute(bundle, padded=False, tokens=500)
    with torch.no_grad():
        layer = bundle.core.model.decoder.layers[0].encoder_attn
        layer(*(torch.zeros(1, 2, bundle.core.config.hidden_size),) * 2)
    assert not calls


def test_dropout_is_drawn_in_training_alone(bundle: Bundle) -> None:
    bundle.core.requires_grad_(False)
    layer = bundle.core.model.decoder.layers[0].encoder_attn
    absorb_projections_(bundle.core)
    layer.attention_dropout = 0.5
    expected = compute(bundle, padded=False)[0]
    assert torch.equal(compute(bundle, padded=False)[0], expected)
    layer.train()
    assert not torch.equal(compute(bundle, padded=False)[0], expected)


def test_adapted_keys_and_values_are_left_alone(bundle: Bundle) -> None:
    start_adaptation(bundle, AdapterConfig("lora", 4, 8.0, 0.0, "decoder"), seed=0)
    absorb_projections_(bundle.core)
    assert "forward" not in vars(bundle.core.model.decoder.layers[0].encoder_attn)
