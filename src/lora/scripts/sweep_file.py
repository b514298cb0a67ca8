"""Read a sweep file: the experiment, the options that are searched and how, all checked before anything runs."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora.errors import ConfigError
from lora.runners.prepare import check_outputs
from lora.runners.sweep import Choices, Range, SearchSettings, SweepPlan
from lora.scripts import experiment
from lora.scripts.cli import option_types
from lora.scripts.matrix_file import as_mapping, plan_experiment, read_manifest_plans, read_sections

REQUIRED, OPTIONAL = ("experiment", "space"), ("manifests", "search")
# These change what is measured, so scores would not be comparable; or where a run happens.
NOT_SEARCHED = (
    "seed",
    "guardrail_budget",
    "validation_fraction",
    "max_seconds",
    "tokens_per_second",
    "eval_batch_seconds",
    "eval_interval",
    "objective",
    "alignment_check",
    "device",
    "precision",
    "allow_outside_audio",
)


def read_sweep(path: Path, *, output: Path, fsdd: Path) -> SweepPlan:
    """Read the file; `{fsdd}` and `{output}` in manifests and options are filled in.

    Raises:
        ConfigError: every fault of the file at once.
    """
    document = read_sections(path, REQUIRED, OPTIONAL)
    values = {"fsdd": str(fsdd), "output": str(output)}
    problems: list[str] = []
    manifests = read_manifest_plans(document.get("manifests"), values, problems)
    shared = as_mapping("experiment", document["experiment"], problems)
    base = plan_experiment("experiment", shared, values, output / "best", problems)
    space = _read_space(document["space"], problems)
    settings = _read_settings(document.get("search", {}), problems)
    if base is not None and not problems:
        for name, part in space.items():
            ends = part.values if isinstance(part, Choices) else (part.low, part.high)
            for value in ends:
                plan_experiment(f"space.{name}", {**shared, name: value}, values, output / "best", problems)
    if base is None or problems:
        raise ConfigError(f"{path}: {len(problems)} fault(s)", problems)
    check_outputs(manifests)
    return SweepPlan(path.stem, base, space, settings, tuple(manifests), output)


def _read_space(section: Any, problems: list[str]) -> dict[str, Range | Choices]:
    hints = option_types(experiment.COMMAND)
    space: dict[str, Range | Choices] = {}
    for name, part in as_mapping("space", section, problems).items():
        if name not in hints or name in NOT_SEARCHED or not _can_be_searched(hints[name]):
            problems.append(f"space.{name}: not an option of training that can be searched")
        elif isinstance(part, dict) and set(part) == {"choices"} and isinstance(part["choices"], list):
            space[name] = Choices(tuple(part["choices"]))
            if not part["choices"]:
                problems.append(f"space.{name}.choices: got none, expected at least one")
        elif hints[name] not in (int, float):
            problems.append(f"space.{name}: got {part!r:.60}, expected {{choices: [...]}}")
        else:
            space |= _read_range(name, part, hints[name] is int, problems)
    if not space and not problems:
        problems.append("space: got nothing to search")
    return space


def _can_be_searched(hint: Any) -> bool:
    return hint in (int, float, bool) or typing.get_origin(hint) is typing.Literal


def _read_range(name: str, part: Any, integer: bool, problems: list[str]) -> dict[str, Range]:
    wanted = "{low: A, high: B}, log: true or step: C if wanted, or {choices: [...]}"
    is_range = isinstance(part, dict) and {"low", "high"} <= set(part) <= {"low", "high", "log", "step"}
    kind = int if integer else (int, float)
    numbers = [part.get(key) for key in ("low", "high", "step")] if is_range else []
    if not is_range or not all(
        value is None or (isinstance(value, kind) and not isinstance(value, bool)) for value in numbers
    ):
        problems.append(f"space.{name}: got {part!r:.80}, expected {wanted}")
        return {}
    low, high, step = numbers
    log = part.get("log", False)
    if low is None or high is None or not low < high or (log and low <= 0) or (step is not None and step <= 0):
        problems.append(f"space.{name}: expected low < high, a positive step, and low above 0 with log")
        return {}
    if log and step is not None:
        problems.append(f"space.{name}: log and step exclude each other")
        return {}
    return {name: Range(low, high, log=bool(log), step=step, integer=integer)}


def _read_settings(section: Any, problems: list[str]) -> SearchSettings:
    given: Mapping[str, Any] = as_mapping("search", section, problems)
    known = [field.name for field in dataclasses.fields(SearchSettings)]
    faults = [f"search.{key}: unknown; expected {', '.join(known)}" for key in given if key not in known]
    faults += [
        f"search.{key}: got {value!r}, expected a whole number, 0 or more"
        for key, value in given.items()
        if key in known and (isinstance(value, bool) or not isinstance(value, int) or value < 0)
    ]
    problems += faults
    return SearchSettings() if faults else SearchSettings(**given)
