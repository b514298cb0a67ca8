"""Cross-attention without keys and values, where their projections are frozen.

For a head with the query q, the weights K and V and the encoder's states s,

    q . (K s) = (K^T q) . s        and        sum p (V s) = V (sum p s),

so the few queries go to the states, not the many states to the queries. With T tokens, H heads and the width W that is
H T products with each frame in place of W + T: less for up to some 45 tokens, and no keys and values of all layers in
memory. Multi-head latent attention decodes by the same identity (DeepSeek-AI, 2024, arXiv 2405.04434).
"""

from typing import Any

import torch
from torch import Tensor, nn

from lora.model.attention import attend_by_products
from lora.training.precision import autocast_weight


def absorb_projections_(core: Any) -> None:
    """Make training attend to the encoder's states as above, where that is less; without a gradient nothing changes.

    Left as it is: cross-attention with an adapter in its keys or values, with a bias in them, or with fewer heads for
    them than for queries.
    """
    for layer in core.model.decoder.layers:
        attention = layer.encoder_attn
        projections = (attention.k_proj, attention.v_proj)
        plain = all(type(one) is nn.Linear and one.bias is None and not one.weight.requires_grad for one in projections)
        if plain and attention.k_proj.out_features == attention.q_proj.out_features:
            _absorb_(attention)


def _absorb_(module: Any) -> None:
    plain, heads = module.forward, module.k_proj.out_features // module.head_dim

    def forward(
        hidden_states: Tensor, key_value_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, None]:
        tokens, width = hidden_states.shape[1], key_value_states.shape[2]
        if not torch.is_grad_enabled() or key_value_states.requires_grad or heads * tokens > width + tokens:
            result: tuple[Tensor, None] = plain(
                hidden_states, key_value_states=key_value_states, attention_mask=attention_mask, **options
            )
            return result
        dropout = module.attention_dropout if module.training else 0.0
        query = module.q_proj(hidden_states)
        keys, values = (autocast_weight(one).unflatten(0, (heads, -1)) for one in (module.k_proj, module.v_proj))
        states = key_value_states.to(keys.dtype)
        seen = None if attention_mask is None else attention_mask[:, 0, :1]
        return module.o_proj(_attend(query * module.scaling, keys, values, states, seen, dropout)), None

    module.forward = forward


def _attend(query: Tensor, keys: Tensor, values: Tensor, states: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """Return what every head hears, (batch, tokens, heads x channels).

    Args:
        query: (batch, tokens, heads x channels), scaled.
        keys, values: the projections' weights, (heads, channels, width).
        states: (batch, frames, width).
        seen: bool (batch, 1, frames); None where all frames are real.
    """
    (batch, tokens, _), heads = query.shape, len(keys)
    by_head = query.view(batch * tokens, heads, -1).transpose(0, 1)
    asked = torch.bmm(by_head, keys).view(heads, batch, tokens, -1).transpose(0, 1).flatten(1, 2)
    heard = attend_by_products(asked, states, states, seen, dropout)
    by_head = heard.view(batch, heads, tokens, -1).transpose(0, 1).flatten(1, 2)
    return torch.bmm(by_head, values.transpose(1, 2)).transpose(0, 1).reshape(batch, tokens, -1)
