"""Several processes of one job, as `torchrun` and `accelerate launch` start them; alone, each call is the plain case.

A job shares its data and adds up its results; nothing else is spread. Every exchange first asks whether any
process has failed: a process that meets an error joins the others' next exchange with it (`one_fate`), so that
all of them end with its message and its exit code, and none waits for one that is gone. What ends a process
without an exception (a kill, a crash of the driver) ends the others through their launcher.

Importing this module loads no torch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from lora.config import DeviceName
from lora.errors import CheckFailed, DeviceError, LoraError, SetupError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others; loading may take some of them longer."""

# What torchrun and the MPI launchers set, in the order in which Accelerate looks.
_COUNT_VARIABLES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_INDEX_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_VARIABLES = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")

Value = TypeVar("Value")


@dataclass
class _Group:
    """The processes that have joined; `failed` once their errors were exchanged."""

    index: int = 0
    count: int = 1
    failed: bool = False


_group = _Group()


def launched() -> int:
    """Return the number of processes that the launcher started."""
    return _from_environment(_COUNT_VARIABLES, 1)


def count() -> int:
    """Return the number of processes that have joined; 1 for a process alone."""
    return _group.count


def index() -> int:
    """Return this process's number among those that have joined; 0 for a process alone."""
    return _group.index


def is_main() -> bool:
    """Tell whether this process prints, draws bars and writes files."""
    return _from_environment(_INDEX_VARIABLES, 0) == 0


def prints_errors() -> bool:
    """Tell whether this process prints the error that ends it.

    Once they have joined, the processes end with one error, and the first of each host prints it. Before that
    each has its own.
    """
    return _group.count == 1 or _from_environment(_LOCAL_VARIABLES, 0) == 0


def _from_environment(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def join(device_name: DeviceName) -> None:
    """Connect the processes that were launched: gloo on CPUs, NCCL on CUDA GPUs, one GPU each.

    Raises:
        DeviceError: several processes on MPS, or more on this host than it has GPUs.
        SetupError: Accelerate finds fewer processes than were launched.
    """
    if launched() == 1 or _group.count > 1:
        return
    import torch
    from accelerate import PartialState

    from lora.model.device import resolve_device

    device = resolve_device(device_name)
    if device.type == "mps":
        raise DeviceError(f"{launched()} processes were launched on MPS, which has one device. Launch one.")
    local = _from_environment(("LOCAL_WORLD_SIZE",), 1)
    if device.type == "cuda" and local > torch.cuda.device_count():
        raise DeviceError(
            f"{local} processes were launched on a host with {torch.cuda.device_count()} visible CUDA GPU(s). Launch "
            "one process a GPU (--nproc-per-node, --num_processes), or use --device cpu."
        )
    state = PartialState(cpu=device.type == "cpu", timeout=TIMEOUT)
    if state.num_processes != launched():
        raise SetupError(
            f"{launched()} processes were launched, but Accelerate connects {state.num_processes}. Launch them with "
            "torchrun or `accelerate launch`, which set LOCAL_RANK."
        )
    _group.index, _group.count = state.process_index, state.num_processes


@contextmanager
def one_fate(device_name: DeviceName) -> Iterator[None]:
    """Join the processes, and let none leave the block before all of them, or with another outcome.

    Raises:
        LoraError: of another process, as it was there; a defect there is a SetupError here.
    """
    join(device_name)
    try:
        yield
        _agree(None)
    except Exception as error:
        if not _group.failed:
            _agree(error)
        raise


def leave() -> None:
    """Wait for the others and disconnect; a launcher ends them all as soon as one has ended with an error."""
    if _group.count == 1:
        return
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    _group.index, _group.count = 0, 1


def share_of(items: Sequence[Value]) -> list[Value]:
    """Return this process's share: every n-th item, so that items sorted by length are spread evenly."""
    return list(items[_group.index :: _group.count])


def gather(value: Value) -> list[Value]:
    """Return every process's value, in the order of the processes."""
    if _group.count == 1:
        return [value]
    from accelerate.utils import gather_object

    _agree(None)
    gathered: list[Value] = gather_object([value])
    return gathered


def from_main(make: Callable[[], Value]) -> Value:
    """Call `make` on the main process alone and return its value on all."""
    if _group.count == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    values = [make() if is_main() else None]
    _agree(None)
    result: Value = broadcast_object_list(values)[0]
    return result


def add_up_(tensors: Sequence["Tensor"]) -> None:
    """Replace each tensor by its sum over the processes, in one exchange; the sums are equal to the bit on all.

    Args:
        tensors: floats of one type on one device, of the same shapes on every process.
    """
    if _group.count == 1:
        return
    import torch
    from accelerate.utils import reduce

    _agree(None)
    total = reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def require_equal(what: str, value: object) -> None:
    """Stop if the processes do not have the same value: from here on they would do different work.

    Raises:
        CheckFailed: with every process's value.
    """
    values = gather(value)
    if any(other != values[0] for other in values):
        raise CheckFailed(
            f"{what} differ between the processes. Use the same hardware, library versions and files for all of them",
            [f"process {index}: {other}" for index, other in enumerate(values)],
        )


def _agree(error: Exception | None) -> None:
    """Return if no process has failed, or if this one has; raise the first failure where another has."""
    if _group.count == 1:
        return
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object, reduce

    failures = reduce(torch.tensor([float(error is not None)], device=PartialState().device), reduction="sum")
    if not failures.item():
        return
    _group.failed = True
    told = gather_object([None if error is None else _portable(error)])
    if error is None:
        raise next(other for other in told if other is not None)


def _portable(error: Exception) -> LoraError:
    if isinstance(error, LoraError):
        return error
    return SetupError(
        f"process {_group.index} of {_group.count} failed: {type(error).__name__}: {error}. Its own output has the "
        "traceback."
    )
