"""What was asked for, or an error."""

import os
import subprocess
import sys

import pytest
import torch

from lora.errors import DeviceError
from lora.model.device import bound_kept_shapes, resolve_device, resolve_precision, round_up_rows

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
SHAPES = """
import sys
from lora.model.device import bound_kept_shapes
if sys.argv[1] == "True":
    bound_kept_shapes()
import torch
from torch.nn import functional as F

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

weight = torch.randn(64, 32, 7)
for length in range(400, 800):
    if length == 440:
        start = resident()
    F.conv1d(torch.randn(2, 32, length), weight, stride=3)
print(resident() - start)
"""
"""Prints by how many pages a process grows over 360 lengths of a convolution's input."""


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


def test_what_onednn_keeps_is_bounded_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    bound_kept_shapes()
    assert (os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"]) == ("7", "32")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    grown = []
    for bounded in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", SHAPES, str(bounded)], capture_output=True, text=True, check=True, env=environment
        )
        grown.append(int(done.stdout))
    assert grown[0] < 0.6 * grown[1]


def test_the_counts_of_rows_are_few_and_near() -> None:
    rounded = [round_up_rows(count) for count in range(1, 20_000)]
    assert all(count <= near <= max(count + 63, count * 9 / 8) for count, near in enumerate(rounded, start=1))
    assert len(set(rounded)) < 90
