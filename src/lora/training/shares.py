"""One process's share of a training step: computed in pieces that fit into memory, then added to the others'."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lora import processes
from lora.errors import SetupError
from lora.files import sha256_bytes
from lora.memory import REMEDIES, attempt, random_state, restore_random_state
from lora.training.examples import Example
from lora.units import Seconds

Parts = Mapping[str, Sequence[Example]]
"""The examples of a step by kind: domain, replay."""


@dataclass(frozen=True)
class StepShare:
    """What one process computed of a step.

    Attributes:
        losses: summed over tokens, by kind.
        ran_out: memory ran out, and the share was computed again in `num_pieces`.
    """

    losses: dict[str, float]
    audio_seconds: Seconds
    num_pieces: int
    ran_out: bool


def compute_share(
    step: int,
    parts: Parts,
    num_pieces: int,
    backward: Callable[[str, list[Example]], Tensor],
    optimizer: Any,
    device: torch.device,
) -> StepShare:
    """Leave the gradients of `parts` in the parameters.

    Where memory runs out, all of it is done again in twice as many pieces, with the same random draws: the
    gradients are those of that `--gradient-accumulation` from the start. No process waits for another here, so
    each may need another number of pieces.

    Args:
        num_pieces: pieces in which each kind is computed at first.
        backward: (kind, examples) -> loss of each utterance, its gradients added.

    Raises:
        SetupError: one utterance at a time does not fit.
    """
    state, pieces = random_state(device), num_pieces
    while (losses := attempt(lambda: _accumulate(parts, pieces, backward), device)) is None:  # noqa: B023
        optimizer.zero_grad(set_to_none=True)
        if pieces >= max(map(len, parts.values())):
            longest = max((item for part in parts.values() for item in part), key=lambda item: item.num_samples)
            raise SetupError(
                f"step {step}: one utterance at a time does not fit into the memory of {device}; the longest is "
                f"{longest.id}, {longest.seconds:.1f} s. To go on, {REMEDIES}."
            )
        pieces *= 2
        restore_random_state(device, state)
    seconds = sum(example.seconds for part in parts.values() for example in part)
    return StepShare(losses, seconds, pieces, pieces > num_pieces)


def _accumulate(parts: Parts, num_pieces: int, backward: Callable[[str, list[Example]], Tensor]) -> dict[str, float]:
    losses: dict[str, float] = {}
    for kind, part in parts.items():
        for piece in split_pieces(part, num_pieces):
            losses[kind] = losses.get(kind, 0.0) + float(backward(kind, piece).sum())
    return losses


def split_pieces(examples: Sequence[Example], count: int) -> Iterator[list[Example]]:
    """Yield at most `count` pieces of nearly one size, none of them empty."""
    size = math.ceil(len(examples) / count) if examples else 1
    for start in range(0, len(examples), size):
        yield list(examples[start : start + size])


def count_tokens(examples: Sequence[Example]) -> int:
    """Return the number of scored positions, end tokens included."""
    return sum(len(example.token_ids) + 1 for example in examples)


def add_up_gradients_(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the sum of all gradients; one whose share was empty adds nothing."""
    if processes.count() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.add_up_([parameter.grad for parameter in parameters if parameter.grad is not None])


def require_same_weights(step: int, parameters: Sequence[nn.Parameter]) -> None:
    """Stop if the processes' trainable weights have drifted apart, by one bit.

    Raises:
        CheckFailed: on every process.
    """
    if processes.count() > 1:
        weights = torch.cat([parameter.detach().flatten().cpu() for parameter in parameters])
        processes.require_equal(f"trained weights at step {step}", sha256_bytes(weights.numpy().tobytes()))


def checkpoint_layers_(core: nn.Module) -> None:
    """Keep only each encoder and decoder layer's input for the backward pass, which computes the rest again.

    What Transformers' own switch does (its name changes with version 6), without reentrance: frozen inputs
    need no gradient then, and dropout draws the same when a layer is computed again. It acts in training only.
    """
    for module in core.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
