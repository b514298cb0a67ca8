"""Softmax attention as every layer of a loaded model calls it, by Transformers' `AttentionInterface`.

It is `sdpa`, with two differences that change speed and not what is computed:

- A layer that sees a window of frames computes that window. A mask over all pairs of frames costs the products of all
  of them; of 10 s, 500 frames, a window of the streaming family is 20.
- Under autocast on a CPU, where PyTorch's bf16 kernel is far slower in the gradient than these few products are,
  windows and the few queries of cross-attention are two matrix products in bf16 with the softmax between them, and
  attention among all positions, whose weights would take memory, stays in fp32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "moonshine_lora"
Attention = Callable[..., Tensor]
"""What has the arguments of `scaled_dot_product_attention`."""

BLOCK = 32
"""Queries computed together; with the keys beside them that is the smallest work that fills a CPU's vector units."""


@dataclass(frozen=True)
class WindowMask:
    """Which keys each query sees, in blocks of `BLOCK` queries.

    Attributes:
        visible: bool (batch, blocks, BLOCK, before + BLOCK + after).
        before: keys before a block's first query.
        after: keys after a block's last query.
    """

    visible: Tensor
    before: int
    after: int


def window_mask(real: Tensor, window: tuple[int, int]) -> "WindowMask | Tensor":
    """Return what the frames of a layer with a sliding window see of each other.

    Frame i sees itself, the `window[0] - 1` before it and the `window[1] - 1` after it, as far as they are real. A
    padded frame sees itself too, so that no softmax is empty.

    Args:
        real: bool (batch, frames), False where a row is padded.

    Returns:
        A mask of blocks; where those would not be smaller than all pairs, or a window reaches beyond the block beside
        its own, bool (batch, 1, frames, frames).
    """
    before, after = max(window[0] - 1, 0), max(window[1] - 1, 0)
    frames, device = real.shape[1], real.device
    width = before + BLOCK + after
    all_pairs = width >= frames or max(before, after) > BLOCK
    if all_pairs:
        places = torch.arange(frames, device=device)
        distance = places.unsqueeze(1) - places.unsqueeze(0)
        keys = real.unsqueeze(1)
    else:
        distance = torch.arange(BLOCK, device=device).unsqueeze(1) + before - torch.arange(width, device=device)
        keys = _blocks(real.unsqueeze(-1), before, after).squeeze(-1).unsqueeze(2)
    seen = (distance >= 0) & (distance < window[0]) | (distance < 0) & (-distance < window[1])
    visible = seen & keys | (distance == 0)
    return visible.unsqueeze(1) if all_pairs else WindowMask(visible, before, after)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Return softmax attention, float (batch, queries, heads, channels), and no weights.

    Args:
        query, key, value: float (batch, heads, positions, channels).
        attention_mask: a mask as `sdpa` takes it, a `WindowMask`, or None.
    """
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _attend_in_autocast(module, query, key, value, attention_mask, **options), None
    if isinstance(attention_mask, WindowMask):
        return _attend_in_blocks(F.scaled_dot_product_attention, query, key, value, attention_mask, **options), None
    attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attended


def _attend_in_autocast(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> Tensor:
    """Return what `attend` does, on a CPU under autocast."""
    if query.shape[1:3] == key.shape[1:3] and not isinstance(mask, WindowMask):
        with torch.autocast("cpu", enabled=False):
            return attend(module, query.float(), key.float(), value.float(), mask, **options)[0]
    query, key, value = (values.to(torch.get_autocast_dtype("cpu")) for values in (query, key, value))
    if isinstance(mask, WindowMask):
        return _attend_in_blocks(_attend_by_products, query, key, value, mask, **options)
    attended = attend_by_products(query * options["scaling"], key, value, mask, options["dropout"])
    return attended.transpose(1, 2).contiguous()


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """Compute softmax attention as two matrix products, and keep the attention weights for the gradient.

    Args:
        query: (..., queries, channels), scaled.
        key, value: (..., positions, channels).
        seen: bool, of the shape of the weights or broadcast to it; None where every position is seen.
    """
    scores = torch.matmul(query, key.transpose(-1, -2))
    if seen is not None:
        scores = scores + torch.zeros(seen.shape, dtype=scores.dtype).masked_fill_(~seen, -math.inf)
    return torch.matmul(F.dropout(scores.softmax(dim=-1), dropout), value)


def _attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor, dropout_p: float, scale: float
) -> Tensor:
    """Take what `scaled_dot_product_attention` takes."""
    return attend_by_products(query * scale, key, value, attn_mask, dropout_p)


def _attend_in_blocks(
    softmax_attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: WindowMask,
    *,
    dropout: float,
    scaling: float,
    **_: Any,
) -> Tensor:
    batch, heads, frames, channels = query.shape
    blocks = mask.visible.shape[1]
    padded = F.pad(query, (0, 0, 0, blocks * BLOCK - frames))
    attended = softmax_attention(
        padded.reshape(batch, heads * blocks, BLOCK, channels),
        _blocks(key, mask.before, mask.after).reshape(batch, heads * blocks, -1, channels),
        _blocks(value, mask.before, mask.after).reshape(batch, heads * blocks, -1, channels),
        attn_mask=mask.visible.repeat(1, heads, 1, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return attended.reshape(batch, heads, -1, channels)[:, :, :frames].transpose(1, 2).contiguous()


def _blocks(values: Tensor, before: int, after: int) -> Tensor:
    """Return what lies in and beside each block, zeros beyond the ends.

    Args:
        values: (..., positions, channels).

    Returns:
        (..., blocks, before + BLOCK + after, channels).
    """
    missing = -values.shape[-2] % BLOCK
    blocks = F.pad(values, (0, 0, 0, missing)).unflatten(-2, (-1, BLOCK))
    # What lies beside a block is the end of the one before and the start of the one after; the outermost have zeros
    # there. Tensor.unfold() says the same, with a gradient that is three times slower on a CPU.
    left = F.pad(blocks[..., :-1, BLOCK - before :, :], (0, 0, 0, 0, 1, 0))
    right = F.pad(blocks[..., 1:, :after, :], (0, 0, 0, 0, 0, 1))
    return torch.cat([left, blocks, right], dim=-2)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
