"""The output folder of a run, and the folder beside it, `OUTPUT.partial/`, that holds the run until it is finished.

In the partial folder are the run's configuration and content hashes (`run.json`), the states of its training
(`checkpoints/`) and its events. The output folder appears, or takes an earlier run's place, when the adapter is chosen;
what follows is written into it. Until all is written the partial folder stays, and the run can go on.
"""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lora import outputs, processes
from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError, InputError, SetupError
from lora.files import (
    litter_of,
    open_locked,
    read_json,
    remove,
    scratch_folder,
    sha256_file,
    write_json,
    write_text,
    writing,
)
from lora.runners.progress import console
from lora.runners.provenance import config_values
from lora.training.checkpoints import Checkpoints, Interval, steps_in
from lora.units import JsonObject

RUN_KIND = "a run"
RUN_MARK = "experiment_metrics.json"
CONFIG_FILE = "config.yaml"
RUN_FILE, CHECKPOINTS, EVENTS = "run.json", "checkpoints", "tensorboard"
NOT_COMPARED = (
    "resume",
    "restart",
    "overwrite",
    "dry_run",
    "output_dir",
    "seeds",
    "checkpoint_interval",
    "trackers",
    "cache_dir",
    "wave_cache_gib",
)
"""Options that may differ when a run goes on: its result is the same."""


def plain(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration of the run itself, whatever its command does about earlier work."""
    return dataclasses.replace(config, resume=False, restart=False, overwrite=False, dry_run=False)


def partial_folder(output_dir: Path) -> Path:
    """Return where a run is until it is finished."""
    return output_dir.with_name(f"{output_dir.name}.partial")


def check_output(config: ExperimentConfig) -> None:
    """Refuse an output folder that cannot be used, and unfinished training that nothing was said about.

    Raises:
        ConfigError: it holds what no run wrote, or this run's own input; or training of another configuration is to go
            on, or training of any is there and neither `resume` nor `restart` is given.
        SetupError: nothing can be written there.
    """
    outputs.check_folder(config.output_dir, inputs_of(config), kind=RUN_KIND, overwrite=config.overwrite)
    folder = partial_folder(config.output_dir)
    if not folder.exists():
        return
    record = _read_run(folder)
    if record is None:
        if folder.is_dir() and set(folder.iterdir()) <= set(litter_of(folder / RUN_FILE)):
            return
        raise ConfigError(f"{folder}: is not an unfinished run. Move it away, or choose another --output-dir.")
    if not has_training(folder) or config.restart:
        return
    if not config.resume:
        raise ConfigError(
            f"{folder}: holds unfinished training, {describe(folder)}. Give --resume to go on, or --restart to discard "
            "it."
        )
    different = differences(config, record["config"])
    if different:
        raise ConfigError(
            f"{folder}: is a run of another configuration. Give the one that it has, or --restart to discard it",
            different,
        )


def inputs_of(config: ExperimentConfig) -> list[Path]:
    """Return what the run reads; a model's hub id is none of it."""
    optional = (config.replay_manifest, config.validation_manifest, config.guardrail_validation_manifest)
    given = (config.dataset_path, config.manifest_path, *config.guardrail_manifest, *optional)
    return [path for path in (Path(config.model_id), *given) if path is not None and path.exists()]


def has_training(folder: Path) -> bool:
    """Tell whether a partial folder holds training that could be lost."""
    record = _read_run(folder)
    return record is not None and (record["training"] is not None or bool(steps_in(folder / CHECKPOINTS)))


def resumed_or_restarted(config: ExperimentConfig) -> ExperimentConfig:
    """Let a run that only its own command makes go on where it is the same, and begin anew where it is another."""
    record = _read_run(partial_folder(config.output_dir))
    same = record is not None and not differences(config, record["config"])
    return dataclasses.replace(config, resume=same, restart=not same)


def describe(folder: Path) -> str:
    """Return in words how far an unfinished run came."""
    states = steps_in(folder / CHECKPOINTS)
    return f"kept up to step {int(states[-1].name.removeprefix('step-'))}" if states else "its adapter chosen"


def differences(config: ExperimentConfig, found: JsonObject) -> list[str]:
    """Return each option by which `config` is not the configuration of a record."""
    wanted, found = config_values(config), up_to_date(found)
    return [
        f"{key} was {found.get(key)!r}, wanted {wanted.get(key)!r}"
        for key in {**wanted, **found}
        if key not in NOT_COMPARED and wanted.get(key) != found.get(key)
    ]


def up_to_date(config: JsonObject) -> JsonObject:
    """Return a record's options in the form of today: a new option had its default, a list was one value."""
    values = dict(config)
    if "augment_replay" not in values:
        values["augment_replay"] = bool(values.get("augment"))  # there was no choice, and replay was changed too
    for option in dataclasses.fields(ExperimentConfig):
        if option.name not in values:
            factory = option.default_factory
            values[option.name] = option.default if factory is dataclasses.MISSING else factory()
        elif option.metadata["allow_single"] and not isinstance(values[option.name], list):
            values[option.name] = [values[option.name]]
    return values


def finished_metrics(config: ExperimentConfig) -> JsonObject | None:
    """Return the metrics of the run that `config` describes where it is finished and is to go on; else `None`.

    Raises:
        ConfigError: the finished run has another configuration, or its manifests have changed.
    """
    path = config.output_dir / RUN_MARK
    if not config.resume or not path.is_file() or partial_folder(config.output_dir).exists():
        return None
    metrics: JsonObject = read_json(path)
    different = differences(config, metrics["config"]) + changed_manifests(metrics)
    if different:
        raise ConfigError(
            f"{config.output_dir}: is a finished run of another configuration. Choose another --output-dir, or leave "
            "out --resume to replace it",
            different,
        )
    console.print(f"{config.output_dir}: was finished before")
    return metrics


def changed_manifests(record: JsonObject) -> list[str]:
    """Return which of the manifests that a run's record names are others by now.

    The record of a run that was stopped before it was measured has their hashes by path, and nothing else of them.
    """
    named = manifests = record["manifests"]
    if "train" in manifests:
        rows = (manifests["train"], manifests["domain"], *manifests["guardrails"])
        named = {row["path"]: row["sha256"] for row in rows}
    return [
        f"{path} has changed since"
        for path, digest in named.items()
        if Path(path).exists() and sha256_file(Path(path)) != digest
    ]


class Partial:
    """An unfinished run, open; `folder` is its own while it is at work.

    Attributes:
        config: of the run, without what its command does about earlier work.
        results: the folder that `lora_adapter/` and everything after it goes into.
        training: what the training stage returned, where an earlier start came so far.
    """

    def __init__(self, config: ExperimentConfig, folder: Path, results: Path) -> None:
        self.config = plain(config)
        self.folder = folder
        self.results = results
        self.overwrite = config.overwrite
        self.training: JsonObject | None = None
        self.has_begun = False
        self._discards = config.restart
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, Interval.parse(config.checkpoint_interval), console.print)
        self._record: JsonObject = {
            "schema_version": 1,
            "status": "training",
            "config": config_values(self.config),
            "contents": {},
            "training": None,
        }

    def begin(self, contents: JsonObject) -> None:
        """Go on from what is there, or discard it and begin: everything was read and checked before.

        Args:
            contents: hash of everything that the training reads, by name; `None` where it is not known yet.

        Raises:
            InputError: what is there was trained on other contents.
        """
        if not processes.is_main():
            return
        goes_on = has_training(self.folder) and not self._discards
        if goes_on:
            self._go_on(contents)
        else:
            clear(self.folder, keep=True)
            self._record["contents"] = contents
        self.has_begun = True
        self._write()  # before all else: it says that the folder is a run's
        if not goes_on:
            with writing(self.folder):
                (self.folder / CHECKPOINTS).mkdir()
            write_text(self.folder / CONFIG_FILE, yaml.safe_dump(self._record["config"], sort_keys=False))

    def _go_on(self, contents: JsonObject) -> None:
        record = _read_run(self.folder)
        assert record is not None
        before = record["contents"]
        different = [
            f"{name}: is not what it was when the run began"
            for name in {**before, **contents}
            if before.get(name) != contents.get(name) and None not in (before.get(name, ""), contents.get(name, ""))
        ]
        if different:
            raise InputError(
                f"{self.folder}: its training read other data. Restore them, or give --restart to train anew", different
            )
        self._record, self.training = record | {"status": self._record["status"]}, record["training"]
        console.print(f"{self.folder}: an unfinished run goes on, {describe(self.folder)}")

    def mark(self, status: str, **values: Any) -> None:
        """Write down how far the run is."""
        if processes.is_main():
            self._record |= {"status": status, **values}
            self._write()

    def _write(self) -> None:
        write_json(self.folder / RUN_FILE, self._record)

    def discard(self) -> None:
        """Remove the run: nothing of it is wanted any more."""
        if processes.is_main():
            clear(self.folder)

    def finish(self) -> None:
        """Put the events beside the results; the run is done and nothing of it is left here."""
        if processes.is_main():
            for path in sorted((self.folder / EVENTS).rglob("*")):
                if path.is_file():
                    with outputs.output_file(self.results / path.relative_to(self.folder), root=self.results) as file:
                        file.write(path.read_bytes())
            clear(self.folder)


@contextmanager
def open_partial(config: ExperimentConfig) -> Iterator[Partial]:
    """Yield the unfinished run of `config`: the one that is there and is to go on, or a new one.

    It stays there when the block ends; `Partial.finish` removes it. Every process but the main one has a folder that is
    deleted: hosts need not share a disk.

    Raises:
        ConfigError, SetupError: as `check_output`; or another process is at the run.
    """
    if not processes.is_main():
        with scratch_folder("moonshine-lora-process") as folder:
            yield Partial(config, folder, folder / "results")
        return
    check_output(config)
    folder = partial_folder(config.output_dir).absolute()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open_locked(folder, os.O_RDONLY)
    if handle is None:
        raise SetupError(f"{folder}: another process is at this run. Wait for it, or choose another --output-dir.")
    partial = Partial(config, folder, config.output_dir)
    try:
        yield partial
    except CheckFailed as error:
        if partial.has_begun:
            partial.mark("check_failed", message=error.message)
        raise
    finally:
        os.close(handle)
        if _read_run(folder) is None:  # it did not begin
            with suppress(OSError):
                folder.rmdir()


def clear(folder: Path, *, keep: bool = False) -> None:
    """Remove what a run has in its partial folder, and the folder unless `keep` or something else is in it."""
    for name in (CHECKPOINTS, EVENTS, CONFIG_FILE, RUN_FILE):  # the last one says that the others are a run's
        remove(folder / name)
    if not keep:
        with suppress(OSError):
            folder.rmdir()


def _read_run(folder: Path) -> JsonObject | None:
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    record: JsonObject = read_json(path)
    if not isinstance(record, dict) or not {"config", "contents", "training"} <= record.keys():
        raise InputError(f"{path}: damaged; expected the record of an unfinished run. Move {folder} away.")
    return record
