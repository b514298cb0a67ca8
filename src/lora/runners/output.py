"""The output folder: what may be replaced, and how it appears."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lora import processes
from lora.config import ExperimentConfig
from lora.errors import ConfigError, SetupError
from lora.outputs import output_folder

RUN_MARK = "experiment_metrics.json"


def check_output(config: ExperimentConfig) -> None:
    """Refuse an output folder whose replacement would delete something that no run wrote.

    Raises:
        ConfigError: it is a file or a folder of something else, or holds this run's own input.
        SetupError: nothing can be written there.
    """
    folder = config.output_dir.resolve()
    problems = []
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RUN_MARK).is_file():
        problems.append(f"{config.output_dir}: exists and is not the folder of a finished run; it would be deleted")
    elif folder.exists() and not folder.is_dir():
        problems.append(f"{config.output_dir}: is a file; expected a folder")
    if Path.cwd().is_relative_to(folder):
        problems.append(f"{config.output_dir}: holds the current folder, which would be deleted")
    problems += [f"{path}: lies in the output folder, which is replaced" for path in _inputs_inside(config, folder)]
    above = next(parent for parent in folder.parents if parent.exists())
    if not above.is_dir():
        problems.append(f"{above}: is a file; expected a folder")
    if problems:
        raise ConfigError("--output-dir cannot be used. Choose another folder", problems)
    if not os.access(above, os.W_OK):
        raise SetupError(f"{above}: not writable. Choose another --output-dir.")


def _inputs_inside(config: ExperimentConfig, folder: Path) -> list[Path]:
    given = (
        Path(config.model_id),
        config.dataset_path,
        config.manifest_path,
        *config.guardrail_manifest,
        config.replay_manifest,
        config.validation_manifest,
        config.guardrail_validation_manifest,
        config.cache_dir,
    )
    return [path for path in given if path is not None and path.resolve().is_relative_to(folder)]


def staged_output(config: ExperimentConfig) -> AbstractContextManager[Path]:
    """Return the folder that becomes the output folder when the run succeeds.

    Every process but the main one gets a folder that is deleted: hosts need not share a disk.
    """
    if not processes.is_main():
        return _passing_directory()
    return output_folder(config.output_dir.resolve())


@contextmanager
def _passing_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-process-") as name:
        yield Path(name)
