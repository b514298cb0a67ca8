"""What a folder of weights may hold: safetensors with a header of usual size and finite numbers, and no pickle."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_HEADER_BYTES = 2**24
"""A hundred thousand tensors; a Moonshine model has a few hundred."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header cannot be one.

    The format: https://huggingface.co/docs/safetensors, eight bytes of length, then that much JSON.

    Raises:
        ValueError: in one sentence, without the path.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(1)
    if size < 10 or length > size - 8:
        raise ValueError(f"{size} bytes with a header of {length}: cut short, or no safetensors file")
    if length > MAX_HEADER_BYTES or start != b"{":
        raise ValueError(f"a header of {length} bytes that starts with {start!r}; not a safetensors file of weights")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: the file is damaged; in one sentence, without the path.
    """
    check_header(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"damaged safetensors ({error})") from error


def unusable_numbers(weights: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor that holds NaN, infinity or no real numbers."""
    problems = []
    for name, tensor in sorted(weights.items()):
        if not tensor.is_floating_point():
            problems.append(f"{name}: numbers of type {str(tensor.dtype).removeprefix('torch.')}; expected floats")
        elif not (is_finite := torch.isfinite(tensor)).all():
            problems.append(f"{name}: {int((~is_finite).sum())} of {tensor.numel()} numbers are NaN or infinite")
    return problems


def pickles_in(folder: Path) -> list[str]:
    """Return the names of the files that only unpickling could read, which runs code that is in them."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
