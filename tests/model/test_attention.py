"""Attention in blocks is attention over all pairs under the same window; products are attention; value and gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.moonshine_streaming.modeling_moonshine_streaming import sliding_window_mask_function

from lora.model.attention import BLOCK, WindowMask, attend, window_mask

LENGTHS = (3 * BLOCK + 7, BLOCK, 2 * BLOCK - 1, 5)
WINDOWS = ((16, 4), (16, 0), (1, 1), (2, 9), (BLOCK + 1, BLOCK + 1))


def real_frames(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)


def all_pairs(real: Tensor, window: tuple[int, int]) -> Tensor:
    """Return Transformers' own window over real keys, and every frame's view of itself."""
    places = torch.arange(real.shape[1])
    seen: Tensor = sliding_window_mask_function(window)(0, 0, places.unsqueeze(1), places.unsqueeze(0))  # type: ignore[arg-type]
    return (seen & real.unsqueeze(1) | torch.eye(real.shape[1], dtype=torch.bool)).unsqueeze(1)


@pytest.mark.parametrize("window", WINDOWS)
def test_blocks_give_what_all_pairs_give(window: tuple[int, int]) -> None:
    real = real_frames(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, 2, real.shape[1], 8, generator=generator, requires_grad=True) for _ in range(3)]
    mask = window_mask(real, window)
    assert isinstance(mask, WindowMask)
    got, weights = attend(nn.Module(), *inputs, mask, dropout=0.0, scaling=0.3)
    assert weights is None
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=all_pairs(real, window), scale=0.3).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    slope = torch.randn(got.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((got * slope).sum(), inputs),
        torch.autograd.grad((expected * slope).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "window"), [((BLOCK, 9), (16, 4)), (LENGTHS, (3 * BLOCK, 1)), (LENGTHS, (BLOCK + 2, 4))]
)
def test_where_blocks_do_not_pay_the_mask_is_over_all_pairs(lengths: tuple[int, ...], window: tuple[int, int]) -> None:
    real = real_frames(lengths)
    mask = window_mask(real, window)
    assert isinstance(mask, Tensor)
    assert torch.equal(mask, all_pairs(real, window))


def test_autocast_on_a_cpu_leaves_attention_among_all_positions_in_fp32() -> None:
    inputs = [torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    exact, _ = attend(nn.Module(), *inputs, None, dropout=0.0, scaling=0.3, is_causal=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.scaled_dot_product_attention(*inputs).dtype is torch.bfloat16
        kept, _ = attend(nn.Module(), *inputs, None, dropout=0.0, scaling=0.3, is_causal=False)
    torch.testing.assert_close(kept, exact, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["cross", "masked", "window"])
def test_under_autocast_products_give_what_attention_gives(kind: str) -> None:
    real = real_frames(LENGTHS)
    generator = torch.Generator().manual_seed(0)
    queries = real.shape[1] if kind == "window" else 7
    query, key, value = (
        torch.randn(4, 2, count, 8, generator=generator, requires_grad=True) for count in (queries, *real.shape[1:] * 2)
    )
    keys_seen = None if kind == "cross" else real[:, None, None, :].expand(-1, 1, queries, -1)
    mask = window_mask(real, (16, 4)) if kind == "window" else keys_seen
    seen = all_pairs(real, (16, 4)) if kind == "window" else keys_seen
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3).transpose(1, 2)
    slope = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * slope).sum(), (query, key, value))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = attend(nn.Module(), query, key, value, mask, dropout=0.0, scaling=0.3, is_causal=False)
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)
    for ours, theirs in zip(torch.autograd.grad((got * slope).sum(), (query, key, value)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


def test_the_weights_of_products_are_dropped_out() -> None:
    query, key, value = torch.ones(1, 1, 500, 4), torch.zeros(1, 1, 10, 4), torch.ones(1, 1, 10, 4)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = attend(nn.Module(), query, key, value, None, dropout=0.5, scaling=1.0)
    assert got.float().mean() == pytest.approx(1.0, abs=0.1)  # what is kept is doubled
    assert got.float().std() > 0.1
