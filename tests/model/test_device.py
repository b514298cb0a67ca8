"""What was asked for, or an error."""

import pytest
import torch

from lora.errors import DeviceError
from lora.model.device import resolve_device, resolve_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators, whatever the tests run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def test_mps_on_a_machine_without_it_is_refused(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"MPS exists on Apple Silicon only\. Use --device cpu or cuda"):
        resolve_device("mps")


def test_cuda_on_a_machine_without_it_is_refused(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="finds no CUDA GPU"):
        resolve_device("cuda")


def test_auto_takes_cuda_then_mps_then_the_cpu(machine: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == CPU
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == MPS
    machine.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == CUDA


@pytest.mark.parametrize("asked", ["mps", "auto"])
def test_mps_with_the_fallback_switched_on_is_refused(machine: pytest.MonkeyPatch, asked: str) -> None:
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    machine.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    assert resolve_device("mps") == MPS
    machine.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with pytest.raises(DeviceError, match="PYTORCH_ENABLE_MPS_FALLBACK"):
        resolve_device(asked)  # type: ignore[arg-type]


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="fp16 on a CPU"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("asked", "device", "has_bf16", "given"),
    [
        ("auto", CPU, True, "fp32"),
        ("auto", MPS, False, "fp32"),
        ("auto", CUDA, True, "bf16"),
        ("auto", CUDA, False, "fp32"),
        ("bf16", CPU, True, "bf16"),
        ("bf16", CUDA, True, "bf16"),
        ("fp16", CUDA, False, "fp16"),
        ("fp16", MPS, False, "fp16"),
        ("fp32", CUDA, True, "fp32"),
    ],
)
def test_the_precision_follows_from_the_device(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: torch.device, has_bf16: bool, given: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16, "architecture": "x86_64"})
    assert resolve_precision(asked, device) == given  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
def test_bf16_is_refused_where_the_hardware_lacks_it(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "architecture": "x86_64"})
    with pytest.raises(DeviceError, match="bf16"):
        resolve_precision("bf16", device)
