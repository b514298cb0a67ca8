"""Linear layers of training on a CPU compute what PEFT's layers and autocast compute, value and gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora.model.adapters import AdapterConfig
from lora.model.load import Bundle
from lora.model.methods import Adaptation, start_adaptation
from lora.training.linear import fuse_linear_layers_

Computed = tuple[Tensor, dict[str, Tensor]]


def adapt(bundle: Bundle, *, method: str = "lora", dropout: float = 0.0) -> Adaptation:
    """Inject an adapter whose B is not zero, so that it changes something."""
    adaptation = start_adaptation(bundle, AdapterConfig(method, 4, 8.0, dropout, "all-linear"), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adaptation.module.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return adaptation


def compute(layer: Any, adaptation: Adaptation, *, dtype: torch.dtype, inputs: Tensor) -> Computed:
    """Return the output, and the gradients for the input and for everything that is trained in the layer."""
    values = inputs.clone().requires_grad_()
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = layer(values)
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    adaptation.module.zero_grad()
    (output * slope).sum().backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    assert values.grad is not None
    return output.detach(), {"input": values.grad, **gradients}


def assert_same(ours: Computed, peft: Computed, tolerance: float) -> None:
    torch.testing.assert_close(ours[0].float(), peft[0].float(), rtol=tolerance, atol=tolerance)
    assert ours[1].keys() == peft[1].keys()
    for name, gradient in peft[1].items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(ours[1][name], gradient, rtol=tolerance, atol=tolerance * largest, msg=name)


def some_inputs(bundle: Bundle) -> Tensor:
    return torch.randn(3, 7, bundle.core.config.hidden_size, generator=torch.Generator().manual_seed(0))


LAYERS: dict[str, Callable[[Any], Any]] = {
    "without bias": lambda core: core.model.decoder.layers[0].encoder_attn.q_proj,
    "with bias": lambda core: core.model.decoder.layers[0].mlp.fc1,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_an_adapted_layer_is_pefts(
    bundle: Bundle, layer: str, dropout: float, dtype: torch.dtype, tolerance: float
) -> None:
    adaptation = adapt(bundle, dropout=dropout)
    adaptation.module.train()
    chosen, inputs = LAYERS[layer](bundle.core), some_inputs(bundle)
    assert isinstance(chosen, LoraLayer)
    peft = compute(chosen, adaptation, dtype=dtype, inputs=inputs)
    fuse_linear_layers_(bundle.core)
    assert_same(compute(chosen, adaptation, dtype=dtype, inputs=inputs), peft, tolerance)
    assert any("lora_A" in name for name in peft[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_frozen_layer_is_pytorchs(bundle: Bundle, dtype: torch.dtype, tolerance: float) -> None:
    adaptation = adapt(bundle)
    layer, inputs = bundle.core.proj_out, some_inputs(bundle)
    before = compute(layer, adaptation, dtype=dtype, inputs=inputs)
    fuse_linear_layers_(bundle.core)
    assert_same(compute(layer, adaptation, dtype=dtype, inputs=inputs), before, tolerance)


def test_without_a_gradient_and_with_the_adapter_off_the_layer_is_pefts_to_the_bit(bundle: Bundle) -> None:
    adaptation = adapt(bundle)
    layer, inputs = LAYERS["with bias"](bundle.core), some_inputs(bundle)
    with torch.no_grad():
        before = layer(inputs)
    adaptation.module.disable_adapter_layers()  # type: ignore[operator]
    off = layer(inputs)
    fuse_linear_layers_(bundle.core)
    assert torch.equal(layer(inputs), off)
    adaptation.module.enable_adapter_layers()  # type: ignore[operator]
    with torch.no_grad():
        assert torch.equal(layer(inputs), before)
    assert not torch.equal(off, before)


def test_an_input_that_was_changed_in_place_is_read_again(bundle: Bundle) -> None:
    adapt(bundle)
    fuse_linear_layers_(bundle.core)
    layer, inputs = LAYERS["without bias"](bundle.core), some_inputs(bundle)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = layer(inputs)
        inputs.mul_(2)
        torch.testing.assert_close(layer(inputs).float(), 2 * first.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", ["dora", "full"])
def test_what_is_not_a_frozen_weight_with_plain_lora_is_left_alone(bundle: Bundle, method: str) -> None:
    adapt(bundle, method=method)
    layer = LAYERS["with bias"](bundle.core)
    fuse_linear_layers_(bundle.core)
    assert "forward" not in vars(layer)
    embedding: nn.Module = bundle.core.model.decoder.embed_tokens
    assert "forward" not in vars(embedding)
