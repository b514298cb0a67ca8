"""Out of memory: how it is recognised, and how an attempt is given up so that a smaller one can follow."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

# CUDA raises torch.OutOfMemoryError; MPS and the CPU's allocator raise a plain RuntimeError with these words.
_MESSAGES = (
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
REMEDIES = "lower --max-seconds, use --gradient-checkpointing or --precision bf16, or take a smaller model or rank"

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def attempt(work: Callable[[], Result], device: torch.device) -> Result | None:
    """Return what `work` returns, or `None` where memory ran out; then what it had allocated is free again."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the `except` block: the error's traceback held the tensors of the attempt.
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    return None


def random_state(device: torch.device) -> tuple[Any, Any]:
    """Return the random states that a step on `device` draws from, dropout's among them."""
    return torch.get_rng_state(), None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()


def restore_random_state(device: torch.device, state: tuple[Any, Any]) -> None:
    """Put back what `random_state` returned, so that work done again draws the same."""
    torch.set_rng_state(state[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[1])
