"""Training states on disk: from one of them a run goes on as if it had never stopped.

Each is a folder `step-N/` that appears by one rename: the tensors (safetensors), the numbers (JSON), and last the
hashes of both. The two newest are kept. Importing this module loads no torch.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora.errors import ConfigError, InputError
from lora.files import read_object, remove, sha256_file, staged_directory, write_bytes, write_json
from lora.units import JsonObject, Seconds

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, NUMBERS, HASHES = "tensors.safetensors", "numbers.json", "hashes.json"
KEPT = 2
_INTERVAL = re.compile(r"([1-9][0-9]{0,8})(min)?")


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training run goes on from.

    Attributes:
        step: the last one that was taken.
        tensors: weights, their average, the best state so far, the optimizer's moments, random states, the clips'
            lengths, by name; on the CPU.
        numbers: history, best score, counters, loss scale.
    """

    step: int
    tensors: dict[str, "Tensor"]
    numbers: JsonObject


@dataclass(frozen=True)
class Interval:
    """How often a state is written between evaluations: after so many steps, or after so many seconds."""

    steps: int | None
    seconds: Seconds | None

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """Read `200` (steps) or `5min`.

        Raises:
            ConfigError: it is neither.
        """
        found = _INTERVAL.fullmatch(text)
        if found is None:
            raise ConfigError(f"checkpoint_interval: got {text!r}, expected steps such as 200 or minutes such as 5min.")
        number = int(found[1])
        return cls(None, 60.0 * number) if found[2] else cls(number, None)


class Checkpoints:
    """The training states of one run.

    Args:
        folder: where they are.
        tell: takes a line about a state that cannot be used.

    Attributes:
        seconds: spent on writing.
    """

    def __init__(self, folder: Path, interval: Interval, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.seconds: Seconds = 0.0
        self._interval = interval
        self._tell = tell
        self._last_step = 0
        self._last_time = time.monotonic()

    def due(self, step: int) -> bool:
        """Tell whether a state should be written after `step`."""
        if self._interval.steps is not None:
            return step - self._last_step >= self._interval.steps
        return time.monotonic() - self._last_time >= (self._interval.seconds or 0.0)

    def write(self, state: TrainingState) -> None:
        """Write a state and remove those before the one before it.

        Raises:
            SetupError: it cannot be written; what was there is as it was.
        """
        import safetensors.torch

        started = time.monotonic()
        target = self.folder / f"step-{state.step:08d}"
        remove(target)  # a state of this step without its evaluation, or a damaged one
        with staged_directory(target) as stage:
            write_bytes(stage / TENSORS, safetensors.torch.save(state.tensors))
            write_json(stage / NUMBERS, state.numbers)
            write_json(stage / HASHES, {name: sha256_file(stage / name) for name in (TENSORS, NUMBERS)})
        for old in steps_in(self.folder)[:-KEPT]:
            remove(old)
        self._last_step, self._last_time = state.step, time.monotonic()
        self.seconds += self._last_time - started

    def read(self) -> TrainingState | None:
        """Return the newest state that is whole, or `None` where there is none; tell of those that are not.

        Raises:
            InputError: there are states, and none of them is whole.
        """
        problems = []
        for folder in reversed(steps_in(self.folder)):
            try:
                state = _read(folder)
            except InputError as error:
                self._tell(f"warning: {error.message} The state before it is tried.")
                problems.append(error.message)
                continue
            self._last_step = state.step
            return state
        if problems:
            raise InputError(
                f"{self.folder}: no training state is whole. Restore one, or give --restart to train anew.", problems
            )
        return None


def steps_in(folder: Path) -> list[Path]:
    """Return the folders of training states, oldest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 8))


def _read(folder: Path) -> TrainingState:
    import safetensors.torch
    from safetensors import SafetensorError

    hashes = read_object(folder / HASHES)
    for name in (TENSORS, NUMBERS):
        if not (folder / name).is_file() or sha256_file(folder / name) != hashes.get(name):
            raise InputError(f"{folder / name}: missing or not as it was written.")
    try:
        tensors = safetensors.torch.load_file(folder / TENSORS)
    except SafetensorError as error:
        raise InputError(f"{folder / TENSORS}: cannot be read ({error}).") from error
    return TrainingState(int(folder.name.removeprefix("step-")), tensors, read_object(folder / NUMBERS))
