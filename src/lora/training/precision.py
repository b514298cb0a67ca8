"""What training in bf16 leaves in fp32 on a CPU, and how a layer comes by its bf16 weight."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def keep_fp32_parts_(core: Any) -> None:
    """Make a model's bf16 autocast on a CPU exact enough; outside autocast nothing changes.

    The decoder's self-attention stays in fp32. It is a tenth of the decoder's weights, and its rounding moves the loss
    most: on a random model of streaming-tiny size with the official recipe, 12 steps in bf16 differ from fp32 by up to
    4.2e-3 in the loss, and by 3.5e-4 so. Converting its many small tensors also costs more than its products gain.
    """
    for layer in core.model.decoder.layers:
        _keep_fp32_(layer.self_attn)


def autocast_weight(layer: nn.Linear) -> Tensor:
    """Return a frozen layer's weight in autocast's format, converted again only where it was changed since.

    Autocast itself keeps the copies of trained weights alone, and converts frozen ones in every step.
    """
    weight, device = layer.weight, layer.weight.device.type
    if not torch.is_autocast_enabled(device):
        return weight
    key = (torch.get_autocast_dtype(device), weight._version, weight.data_ptr())
    kept = layer.__dict__.get("autocast_copy")
    if kept is None or kept[0] != key:
        kept = (key, weight.detach().to(key[0]))
        layer.__dict__["autocast_copy"] = kept
    return kept[1]


def _keep_fp32_(module: nn.Module) -> None:
    forward: Callable[..., Any] = module.forward

    def in_fp32(*values: Any, **named: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return forward(*map(_widen, values), **{name: _widen(value) for name, value in named.items()})

    module.forward = in_fp32


def _widen(value: Any) -> Any:
    """Return bf16 tensors, also those in a tuple, as fp32."""
    if isinstance(value, tuple):
        return tuple(map(_widen, value))
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.bfloat16 else value
