"""Manifests that a matrix or a sweep needs: built when they are missing or no longer what the file asks for."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora.errors import ConfigError, InputError
from lora.files import read_json, sha256_file, write_json, writing
from lora.outputs import check_file
from lora.runners.build import BuildOptions, build_manifest
from lora.runners.progress import console
from lora.runners.shift import ShiftOptions, shift
from lora.units import JsonObject

ManifestOptions = BuildOptions | ShiftOptions


@dataclass(frozen=True)
class ManifestPlan:
    """One manifest: what builds it, and the same as a command line."""

    name: str
    command: str
    options: ManifestOptions

    @property
    def source(self) -> Path | None:
        """The manifest that this one is made of, if it is."""
        return self.options.input if isinstance(self.options, ShiftOptions) else None


def build_or_shift(options: ManifestOptions) -> None:
    """Write one manifest, from a corpus or from another manifest, and say what was written."""
    console.print(str(shift(options) if isinstance(options, ShiftOptions) else build_manifest(options)))


def build_missing(
    plans: Sequence[ManifestPlan],
    record_path: Path,
    build: Callable[[ManifestOptions], object] = build_or_shift,
) -> None:
    """Build each manifest that is not there yet.

    `record_path` keeps what built each file and the file's hash, so that a manifest of other options is built again.
    The sources draw by seed: the same command gives the same file. Of several workers one builds, and the others wait
    for it.

    Raises:
        ConfigError: one that is missing has a place where something is that is not ours, or was edited.
        InputError, SetupError: as `build_manifest` and `shift`, or another file is where the record should be.
    """
    if not plans:
        return
    _read_built(record_path)
    with _only_one(record_path.with_suffix(".lock")):
        record = _read_built(record_path)
        missing = [plan for plan in plans if not _is_built(plan, record)]
        for plan in missing:
            check_file(plan.options.output)
        for plan in missing:
            console.print(f"$ {plan.command}")
            build(plan.options)
            record[str(plan.options.output)] = _entry(plan)
            write_json(record_path.resolve(), record)


def _is_built(plan: ManifestPlan, record: Mapping[str, JsonObject]) -> bool:
    path = plan.options.output
    return path.exists() and record.get(str(path)) == _entry(plan)


def _entry(plan: ManifestPlan) -> JsonObject:
    return {"command": plan.command, "sha256": sha256_file(plan.options.output)}


def _read_built(path: Path) -> dict[str, JsonObject]:
    """Return what was built, by file; a JSON document of another shape is not ours.

    Raises:
        InputError: it is no such record.
    """
    record = read_json(path) if os.path.lexists(path) else {}
    rows = record.values() if isinstance(record, dict) else [None]
    if not all(isinstance(row, dict) and row.keys() == {"command", "sha256"} for row in rows):
        raise InputError(f"{path}: no record of manifests that were built. Move it away, or choose another folder.")
    return record


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when the process ends; Windows has none, so start one worker first there."""
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")  # a file of this name may be the user's: not a byte of it changes
    with file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_outputs(plans: Sequence[ManifestPlan]) -> None:
    """Refuse two manifests with one file, and one that stands before the manifest that it is made of.

    Raises:
        ConfigError: every such file.
    """
    names: dict[Path, list[str]] = {}
    for plan in plans:
        names.setdefault(plan.options.output, []).append(plan.name)
    problems = [f"{path}: written by {', '.join(found)}" for path, found in names.items() if len(found) > 1]
    for index, plan in enumerate(plans):
        if plan.source in [later.options.output for later in plans[index:]]:
            problems.append(f"{plan.name}: is made of {plan.source}, which stands after it")
    if problems:
        raise ConfigError("manifests: outputs that cannot be. Give each its own file, sources first", problems)


def used_by(plans: Sequence[ManifestPlan], paths: set[Path]) -> list[ManifestPlan]:
    """Return the plans whose manifest is among `paths`, and those that these are made of, in their order."""
    wanted = set(paths)
    for plan in reversed(plans):  # a source stands before what is made of it
        if plan.options.output in wanted and plan.source is not None:
            wanted.add(plan.source)
    return [plan for plan in plans if plan.options.output in wanted]
