"""A trainer's state: taken between two steps, put back into a new trainer of the same configuration and data."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora import processes
from lora.errors import InputError
from lora.memory import random_state, restore_random_state
from lora.training.checkpoints import TrainingState

if TYPE_CHECKING:
    from lora.training.loop import Trainer

# Each process has its own of these: its clips and its memory are others.
_OWN = "process"


def capture(trainer: "Trainer") -> TrainingState:
    """Return the trainer's state; every process of a job must call it."""
    own = processes.gather((trainer.num_pieces, _host(random_state(trainer.bundle.device))))
    tensors = {f"weights/{name}": _copy(parameter) for name, parameter in trainer.named.items()}
    tensors |= {f"best/{name}": value for name, value in trainer.best_state.items()}
    if trainer.average.decay:
        averages = zip(trainer.named, trainer.average.averages, strict=True)
        tensors |= {f"average/{name}": _copy(value) for name, value in averages}
    tensors |= {f"base/{name}": _copy(value) for name, value in trainer.moved_weights().items()}
    tensors |= {f"lengths/{kind}": torch.tensor(values) for kind, values in trainer.lengths.items()}
    for index, name in enumerate(trainer.named):
        moments = trainer.optimizer.state_dict()["state"].get(index, {})
        tensors |= {f"optimizer/{name}/{key}": _copy(value) for key, value in moments.items()}
    for index, (_, states) in enumerate(own):
        tensors |= {f"{_OWN}-{index}/random-{number}": state for number, state in enumerate(states)}
    scaler = trainer.accelerator.scaler
    numbers = {
        "schema_version": 1,
        "result": asdict(trainer.result),
        "num_pieces": [pieces for pieces, _ in own],
        "skipped": trainer.skipped,
        "average_steps": trainer.average.steps,
        "loss_scale": None if scaler is None else scaler.state_dict(),
    }
    return TrainingState(trainer.result.steps, tensors, numbers)


@torch.no_grad()
def restore_(trainer: "Trainer", state: TrainingState) -> None:
    """Put `state` into a trainer that has not begun; every process of a job must call it.

    Raises:
        InputError: the state has other tensors than the trainer.
    """
    numbers, tensors = state.numbers, state.tensors
    if len(numbers["num_pieces"]) != processes.count():
        raise InputError(
            f"the training state is of {len(numbers['num_pieces'])} process(es), and {processes.count()} are at work. "
            "Launch as many as before."
        )
    trainer.result = type(trainer.result)(**numbers["result"])
    _fill_(trainer.named, _part(tensors, "weights/"))
    _fill_(trainer.moved_weights(), _part(tensors, "base/"))
    if trainer.average.decay:
        _fill_(dict(zip(trainer.named, trainer.average.averages, strict=True)), _part(tensors, "average/"))
    trainer.average.steps = numbers["average_steps"]
    trainer.best_state = _part(tensors, "best/")
    trainer.lengths = {kind: values.tolist() for kind, values in _part(tensors, "lengths/").items()}
    _restore_optimizer_(trainer, _part(tensors, "optimizer/"))
    own = processes.index()
    trainer.num_pieces, trainer.skipped = numbers["num_pieces"][own], numbers["skipped"]
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(numbers["loss_scale"])
    states = _part(tensors, f"{_OWN}-{own}/random-")
    restore_random_state(trainer.bundle.device, (states["0"], states.get("1")))


def _restore_optimizer_(trainer: "Trainer", moments: dict[str, Tensor]) -> None:
    kept: dict[int, dict[str, Tensor]] = {}
    numbers = {name: index for index, name in enumerate(trainer.named)}
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        kept.setdefault(numbers[name], {})[moment] = value
    trainer.optimizer.load_state_dict({"state": kept, "param_groups": trainer.optimizer.state_dict()["param_groups"]})


def _fill_(places: dict[str, Any], values: dict[str, Tensor]) -> None:
    different = sorted(places.keys() ^ values.keys())
    different += [name for name in places.keys() & values.keys() if places[name].shape != values[name].shape]
    if different:
        raise InputError("the training state is of another adapter or model. Use its own, or --restart", different)
    for name, place in places.items():
        place.copy_(values[name])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _host(states: tuple[Tensor, Tensor | None]) -> list[Tensor]:
    return [state.cpu() for state in states if state is not None]
