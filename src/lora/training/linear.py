"""Linear layers as training on a CPU computes them: a frozen weight, and an adapter beside it, in one step.

What PEFT's layer computes in a dozen operations is one node of the gradient's graph here, which keeps the layer's input
once and nothing else of its width. It is exact: the same products, up to the order of sums; in bf16 with fewer
roundings, because base and adapter are added before the sum is rounded.

In bf16 the rows of a product are padded to one of few counts (`lora.model.device.round_up_rows`).
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from lora.model.device import round_up_rows
from lora.training.precision import autocast_weight

ADAPTER = "default"

_rows_of: Any = WeakTensorKeyDictionary()
"""What `_as_rows` made of tensors that still live: queries, keys and values read one input, every decoder layer the
encoder's states."""


def fuse_linear_layers_(core: Any) -> None:
    """Make the frozen and the adapted linear layers of a model train as above; without a gradient nothing changes.

    Left as they are: layers that are trained themselves, and adapters that are more than B A (DoRA).
    """
    for layer in list(core.modules()):
        if isinstance(layer, LoraLayer):
            _fuse_adapted_(layer)
        elif isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            _fuse_frozen_(layer)


def _fuse_frozen_(layer: nn.Linear) -> None:
    def forward(values: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or not torch.is_autocast_enabled("cpu"):
            return F.linear(values, layer.weight, layer.bias)
        result: Tensor = _Linear.apply(values, None, autocast_weight(layer), layer.bias, None, None, 1.0)
        return result

    layer.forward = forward  # type: ignore[method-assign, assignment]


def _fuse_adapted_(layer: Any) -> None:
    base, by_peft = layer.base_layer, layer.forward
    if layer.lora_variant or layer.lora_bias[ADAPTER] or not isinstance(base, nn.Linear) or base.weight.requires_grad:
        return

    def forward(values: Tensor, *arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled() or layer.disable_adapters or layer.merged or arguments or named:
            return by_peft(values, *arguments, **named)
        dropout = layer.lora_dropout[ADAPTER]
        dropped = dropout(values) if isinstance(dropout, nn.Dropout) and dropout.training else None
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        return _Linear.apply(values, dropped, autocast_weight(base), base.bias, down, up, layer.scaling[ADAPTER])

    layer.forward = forward


def _as_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values, float (..., width), as a matrix in the format of the product; bf16 with rows of zeros below."""
    rows = values.detach().reshape(-1, values.shape[-1])
    count = len(rows)
    padded = count if dtype is torch.float32 else round_up_rows(count)
    if padded == count:
        return rows.to(dtype)
    result = rows.new_empty(padded, rows.shape[1], dtype=dtype)
    result[:count].copy_(rows)
    result[count:].zero_()
    return result


def _as_rows_once(values: Tensor, dtype: torch.dtype) -> Tensor:
    known = _rows_of.get(values)
    if known is None or known[0] != (dtype, values._version):
        known = (dtype, values._version), _as_rows(values, dtype)
        _rows_of[values] = known
    rows: Tensor = known[1]
    return rows


class _Linear(torch.autograd.Function):
    """x W^T + bias + scale d A^T B^T, in the format of `weight`.

    Args:
        values: x, float (..., in).
        dropped: d, x after the adapter's dropout; None where it is x.
        weight: W, (out, in), frozen, as is `bias`, (out,) or None.
        down, up: A, (rank, in), and B, (out, rank), both trained; None without an adapter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor | None,
        up: Tensor | None,
        scale: float,
    ) -> Tensor:
        rows = _as_rows_once(values, weight.dtype)
        output = rows @ weight.T if bias is None else torch.addmm(bias.to(weight.dtype), rows, weight.T)
        kept: tuple[Tensor, ...] = (weight,)
        if down is not None and up is not None:
            inputs = rows if dropped is None else _as_rows(dropped, weight.dtype)
            low, high = down.detach().to(weight.dtype), (scale * up.detach()).to(weight.dtype)
            middle = inputs @ low.T
            output.addmm_(middle, high.T)
            kept = (weight, inputs, middle, low, high)
        ctx.save_for_backward(*kept)
        ctx.shape, ctx.dtype, ctx.scale, ctx.has_dropout = values.shape, values.dtype, scale, dropped is not None
        return output[: values.shape[:-1].numel()].view(*values.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, *adapter = ctx.saved_tensors
        slope = _as_rows(slopes[0], weight.dtype)
        for_values = slope @ weight if ctx.needs_input_grad[0] else None
        for_dropped = for_down = for_up = None
        if adapter:
            inputs, middle, low, high = adapter
            through = slope @ high
            for_up = (slope.T @ middle).float().mul_(ctx.scale)
            for_down = (through.T @ inputs).float()
            if ctx.has_dropout:
                for_dropped = through @ low
            elif for_values is not None:
                for_values.addmm_(through, low)
        return _like_values(ctx, for_values), _like_values(ctx, for_dropped), None, None, for_down, for_up, None


def _like_values(ctx: Any, rows: Tensor | None) -> Tensor | None:
    return None if rows is None else rows[: ctx.shape[:-1].numel()].view(ctx.shape).to(ctx.dtype)
