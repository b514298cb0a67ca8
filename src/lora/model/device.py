"""Devices and number formats: what was asked for, or an error; never a quiet change."""

import os
from typing import Literal

import torch

from lora.config import DeviceName, Precision
from lora.errors import DeviceError

# oneDNN and PyTorch's wrapper of it keep what they prepared for each new shape of a product or convolution, 1024 of
# each, and nearly every batch of speech has a shape of its own: hundreds of MB in a run (docs/performance.md). Few are
# used again, so keeping these many is hardly slower. Both are read once, when oneDNN is first used.
_KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "32"}

MIN_STEP = 64
"""The step between counts of up to 1,023 rows; between a power of two and the next there are eight steps."""


def bound_kept_shapes() -> None:
    """Keep a CPU's memory flat over batches of ever new shapes, unless the environment says otherwise.

    Call it before the first computation.
    """
    for name, value in _KEPT_SHAPES.items():
        os.environ.setdefault(name, value)


def round_up_rows(count: int) -> int:
    """Return the next of few counts of rows: at most an eighth more, or the next multiple of `MIN_STEP`.

    oneDNN takes longer to prepare a bf16 product of a new shape than to compute it, and nearly every batch of speech
    has a shape of its own.
    """
    step = max(MIN_STEP, 2 ** max(count.bit_length() - 4, 0))
    return -(-count // step) * step


def resolve_device(name: DeviceName) -> torch.device:
    """Return the device; `auto` takes CUDA, then MPS, then the CPU, and the run's record says which.

    Raises:
        DeviceError: the device is not available, or MPS would fall back to the CPU operation by operation.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: this PyTorch finds no CUDA GPU. Use --device cpu, or install a CUDA build.")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("--device mps: MPS exists on Apple Silicon only. Use --device cpu or cuda.")
        if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0") not in ("", "0"):
            raise DeviceError(
                "PYTORCH_ENABLE_MPS_FALLBACK is set: operations would move to the CPU unseen. Unset it for MPS runs."
            )
    return torch.device(name)


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 matrices itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Return the training precision on `device`.

    `auto` is bf16 on CUDA GPUs that have it and fp32 elsewhere: on a CPU bf16 gains where large matrix
    products dominate, as with stored encoder states of a model of tiny size, and loses elsewhere (docs/performance.md).

    Raises:
        DeviceError: fp16 on a CPU (80 times slower than fp32 there), or bf16 where the GPU or the CPU lacks it.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("--precision fp16 on a CPU is far slower than fp32. Use fp32 or bf16.")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("--precision bf16: this GPU has no bf16. Use fp16 or fp32.")
    if precision == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        raise DeviceError(
            "--precision bf16: this CPU has no bf16 instructions (AVX512-BF16, AMX or Arm bf16), so it would be slower "
            "than fp32. Use fp32."
        )
    if precision == "bf16" and device.type == "mps":
        raise DeviceError("--precision bf16 is not offered on MPS. Use fp32 or fp16.")
    return precision
