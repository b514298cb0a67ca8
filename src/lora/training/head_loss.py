"""Cross-entropy of a frozen output layer, without the logits of all positions in memory.

The output layer is the widest of the model: 32,768 columns, so the logits of a batch, their logarithms and their
gradient are the largest tensors of a training step. Adapters never touch that layer. So the loss and its gradient for
the states below are computed together, some positions at a time, and only the latter is kept. Same idea as Liger
Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor

POSITIONS = 64
"""Positions at a time: 8 MB of logits at a vocabulary of 32,768, and rows enough for fast matrix products."""


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
        inputs = hidden.detach().to(weight.dtype)
        # Memory that every piece uses again: what is new each time costs a page fault for each 4 KiB.
        products = torch.empty(min(POSITIONS, len(labels)), len(weight), dtype=weight.dtype, device=hidden.device)
        values = products if weight.dtype is torch.float32 else torch.empty_like(products, dtype=torch.float32)
        for start in range(0, len(labels), POSITIONS):
            part = slice(start, start + POSITIONS)
            chosen = labels[part].unsqueeze(1)
            product, scores = products[: len(chosen)], values[: len(chosen)]
            torch.mm(inputs[part], weight.T, out=product)
            scores.copy_(product).sub_(product.amax(dim=1, keepdim=True))
            right = scores.gather(1, chosen)
            total = scores.exp_().sum(dim=1, keepdim=True)
            losses[part] = (total.log() - right).squeeze(1)
            if gradient is not None:
                slope = scores.div_(total)
                slope.scatter_add_(1, chosen, torch.full_like(right, -1))
                gradient[part] = product.copy_(slope) @ weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0].unsqueeze(1).to(gradient.dtype), None, None
