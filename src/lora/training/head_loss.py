"""Cross-entropy of a frozen output layer, without the logits of all positions in memory.

The output layer is the widest of the model: 32,768 columns, so the logits of a batch, their logarithms and their
gradient are the largest tensors of a training step. Adapters never touch that layer. So the loss and its gradient for
the states below are computed together, and only the latter is kept, as in Liger Kernel's fused linear cross-entropy
(Hsu et al., 2024, arXiv 2410.10989). Here the vocabulary is taken in tiles: with p = softmax(W h), the gradient
sum_j p_j W_j - W_label is an attention of h over the rows of W, so with the running maximum and sum of FlashAttention
(Dao et al., 2022, arXiv 2205.14135) W is read once for all positions.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lora.model.device import round_up_rows

POSITIONS, COLUMNS = 1024, 4096
"""The largest tile: 16 MB of logits in fp32."""


def head_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each position, float32 (positions,).

    Args:
        hidden: float (positions, width), what the output layer reads.
        weight: float (vocabulary, width), of an output layer without bias that is not trained; its format is that of
            the products.
        labels: int64 (positions,).

    Raises:
        ValueError: `weight` is to be trained; its gradient is not computed here.
    """
    if weight.requires_grad:
        raise ValueError("head_loss: the output layer is trainable; expected a frozen one. Freeze it.")
    losses: Tensor = _HeadLoss.apply(hidden, weight, labels)
    return losses


class _HeadLoss(torch.autograd.Function):
    """Keeps d loss / d hidden of each position from the forward pass; backward scales it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        losses = torch.empty(len(labels), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), POSITIONS):
            part = slice(start, start + POSITIONS)
            losses[part], slope = _over_tiles(hidden[part], weight, labels[part], gradient is not None)
            if gradient is not None:
                gradient[part] = slope
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0].unsqueeze(1).to(gradient.dtype), None, None


def _over_tiles(hidden: Tensor, weight: Tensor, labels: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Return the losses, float32 (positions,), and their gradient, float32 (positions, width)."""
    count, device = len(labels), hidden.device
    rows = round_up_rows(count)
    inputs = F.pad(hidden.detach().to(weight.dtype), (0, 0, 0, rows - count))
    # Memory that every tile uses again: what is new each time costs a page fault for each 4 KiB.
    products = torch.empty(rows * COLUMNS, dtype=weight.dtype, device=device)
    values = products if weight.dtype is torch.float32 else torch.empty_like(products, dtype=torch.float32)
    highest = torch.full((rows, 1), -math.inf, device=device)
    total = torch.zeros(rows, 1, device=device)
    mean_row = torch.zeros(rows, inputs.shape[1], device=device)
    for start in range(0, len(weight), COLUMNS):
        tile = weight[start : start + COLUMNS]
        product, scores = (memory[: rows * len(tile)].view(rows, len(tile)) for memory in (products, values))
        torch.mm(inputs, tile.T, out=product)
        scores.copy_(product)
        before, highest = highest, torch.maximum(highest, scores.amax(dim=1, keepdim=True))
        scores.sub_(highest).exp_()
        kept = (before - highest).exp_()
        total.mul_(kept).add_(scores.sum(dim=1, keepdim=True))
        if with_gradient:
            mean_row.mul_(kept).add_(product.copy_(scores) @ tile)
    right_row = weight[labels].float()
    right = (inputs[:count] * right_row).sum(dim=1)
    gradient = (mean_row / total)[:count] - right_row
    return (total.log_() + highest)[:count, 0] - right, gradient
