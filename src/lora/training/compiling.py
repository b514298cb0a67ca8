"""Layers as `torch.compile` makes them, for training alone."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

BACKEND = "inductor"


def compile_layers_(core: nn.Module) -> None:
    """Compile each encoder and decoder layer for batches of any shape; without a gradient nothing changes.

    Layer by layer, because the layers of a stack share one compilation. Evaluation stays as it is: a text must not
    depend on how the model was trained, and a growing key-value cache would be compiled again and again.
    """
    for layer in core.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            _compile_(layer)


def _compile_(layer: nn.Module) -> None:
    plain = layer.forward
    compiled = torch.compile(plain, dynamic=True, backend=BACKEND)

    def forward(*values: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*values, **named)

    layer.forward = forward
