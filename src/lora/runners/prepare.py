"""Manifests that a matrix or a sweep needs: built when they are missing or no longer what the file asks for."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora.errors import ConfigError
from lora.files import read_json, sha256_file, write_json
from lora.runners.build import BuildOptions, BuildSummary, build_manifest
from lora.runners.progress import console


@dataclass(frozen=True)
class ManifestPlan:
    """One manifest: what builds it, and the same as a command line."""

    name: str
    command: str
    options: BuildOptions


def build_missing(
    plans: Sequence[ManifestPlan],
    record_path: Path,
    build: Callable[[BuildOptions], BuildSummary] = build_manifest,
) -> None:
    """Build each manifest that is not there yet.

    `record_path` keeps what built each file and the file's hash, so that a manifest of other options, or
    one that was edited, is built again. The sources draw by seed: the same command gives the same file.
    Of several workers one builds, and the others wait for it.

    Raises:
        InputError, SetupError: as `build_manifest`.
    """
    if not plans:
        return
    with _only_one(record_path.with_suffix(".lock")):
        for plan in plans:
            record = read_json(record_path) if record_path.exists() else {}
            path = plan.options.output
            if path.exists() and record.get(str(path)) == {"command": plan.command, "sha256": sha256_file(path)}:
                continue
            console.print(f"$ {plan.command}")
            build(plan.options)
            record[str(path)] = {"command": plan.command, "sha256": sha256_file(path)}
            write_json(record_path, record)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when the process ends; Windows has none, so start one worker first there."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_outputs(plans: Sequence[ManifestPlan]) -> None:
    """Refuse two manifests with one file.

    Raises:
        ConfigError: every file that two plans would write.
    """
    names: dict[Path, list[str]] = {}
    for plan in plans:
        names.setdefault(plan.options.output, []).append(plan.name)
    problems = [f"{path}: written by {', '.join(found)}" for path, found in names.items() if len(found) > 1]
    if problems:
        raise ConfigError("manifests: one output twice. Give each its own file", problems)


def used_by(plans: Sequence[ManifestPlan], paths: set[Path]) -> list[ManifestPlan]:
    """Return the plans whose manifest is among `paths`."""
    return [plan for plan in plans if plan.options.output in paths]
