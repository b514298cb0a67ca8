"""In bf16 on a CPU the decoder's self-attention is the one of fp32, and the rest is not."""

import torch
from torch import Tensor

from lora.model.load import Bundle
from lora.training.precision import keep_self_attention_fp32_


def self_attention(bundle: Bundle, hidden: Tensor) -> Tensor:
    decoder = bundle.core.model.decoder
    rotary = decoder.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1]).unsqueeze(0))
    output: Tensor = decoder.layers[0].self_attn(hidden, position_embeddings=rotary)[0]
    return output


def test_autocast_leaves_the_decoders_self_attention_in_fp32(bundle: Bundle) -> None:
    hidden = torch.randn(1, 5, bundle.core.config.hidden_size, generator=torch.Generator().manual_seed(0))
    exact = self_attention(bundle, hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert self_attention(bundle, hidden).dtype is torch.bfloat16
    keep_self_attention_fp32_(bundle.core)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = self_attention(bundle, hidden)
        assert bundle.core.model.decoder.layers[0].encoder_attn.q_proj(hidden).dtype is torch.bfloat16
    torch.testing.assert_close(kept, exact, rtol=0, atol=0)


def test_without_autocast_nothing_changes(bundle: Bundle) -> None:
    hidden = torch.randn(1, 5, bundle.core.config.hidden_size, generator=torch.Generator().manual_seed(0))
    before = self_attention(bundle, hidden)
    keep_self_attention_fp32_(bundle.core)
    torch.testing.assert_close(self_attention(bundle, hidden), before, rtol=0, atol=0)
