"""Personal adaptation: a folder of one speaker's recordings to a verdict, in one step.

The folder becomes a manifest, a part of it is held out for the verdict, a guardrail and replay are found,
and the project's own experiment runs with a recipe for a few minutes of speech. Importing this loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora import processes
from lora.config import ExperimentConfig, option
from lora.data.manifest import Utterance, iter_manifest, read_manifest
from lora.data.manifest_tools import measure
from lora.data.partition import Part
from lora.data.partition import divide as divide_rows
from lora.data.placement import write_placed, write_placed_together
from lora.errors import ConfigError, InputError, ManifestError, SetupError
from lora.files import sha256_bytes, to_json
from lora.outputs import check_file
from lora.runners.build import BuildOptions, build_manifest
from lora.runners.experiment import run_experiment
from lora.runners.output import check_output
from lora.runners.prepare import ManifestPlan, build_missing
from lora.runners.progress import console
from lora.runners.provenance import command_of
from lora.units import JsonObject

DIGITS_MODEL = "builtin:digits"
MIN_TRAIN, MIN_HELD_OUT = 9, 3
MANIFESTS_IN_FOLDER = ("manifest.jsonl", "taught/manifest.jsonl")
"""A folder with one of these is read by it: what `build-manifest` wrote there, or a voice app's data folder."""
PART_KEY, PARTS = "part", ("train", "heldout")
"""Key of a row that says for good where a recording belongs; the voice app writes it."""

RECIPE: Mapping[str, Any] = {
    "max_steps": 300,
    "learning_rate": 2e-3,
    "batch_seconds": 60.0,
    "strengths": [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "eval_interval": 50,
    "validation_fraction": 0.2,
}
"""Experiment options for a few minutes of one speaker. `--recipe FILE` overrides each."""
WITHOUT_REPLAY: Mapping[str, Any] = {"replay_ratio": 0.0, "distillation_weight": 0.0}

SYNTHETIC = {
    "synthetic_guardrail": ("test", 160, 61),
    "synthetic_guardrail_dev": ("validation", 120, 62),
    "synthetic_replay": ("train", 400, 63),
}
"""Manifests of clean synthetic digits for the builtin model: split of the voices, number of clips, seed."""


@dataclass(frozen=True, kw_only=True)
class PersonalOptions:
    """Options of `personal`."""

    folder: Path = option(
        positional=True,
        help="one speaker's recordings: audio files with a .txt of the same name each, or metadata.csv or .jsonl; or "
        "a folder with manifest.jsonl; or a data folder of the voice app",
    )
    output_dir: Path = option(
        help="where artifacts, metrics and report go; an earlier run there is replaced when the adapter is chosen"
    )
    data_dir: Path | None = option(None, help="where the manifests go; OUTPUT_DIR-data unless given")
    model_id: str = option(DIGITS_MODEL, help="hub id, local folder or builtin:digits")
    test_manifest: Path | None = option(
        None, help="speech that the verdict is on; a part of the folder is held out for it unless given"
    )
    held_out: float = option(0.25, help="part of the folder's audio that is held out for the verdict")
    validation_manifest: Path | None = option(
        None, help="development set; a fifth of the training part unless given (validation_fraction of the recipe)"
    )
    guardrail_manifest: list[Path] | None = option(
        None, help="speech that must not get worse; for builtin:digits synthetic digits unless given"
    )
    guardrail_validation_manifest: Path | None = option(
        None, help="development set of the guardrail; a part of the replay, or synthetic with it, unless given"
    )
    replay_manifest: Path | None = option(
        None, help="training data like the guardrail; for builtin:digits synthetic digits unless given"
    )
    replay: bool = option(True, help="mix replay in; without it nothing but the strength guards what the model had")
    recipe: Path | None = option(None, help="YAML file of training options of `experiment` that win over the recipe")
    seed: int = option(42, help="seed of what is held out and of the training")
    resume: bool = option(False, help="go on where the same command was stopped")
    restart: bool = option(False, help="discard the unfinished training in OUTPUT_DIR.partial and train anew")
    overwrite: bool = option(False, help="keep files of yours in the output folder beside the new ones")


@dataclass(frozen=True)
class _Guards:
    """What stands against forgetting; `made` are the manifests that are made for it."""

    guardrails: list[Path]
    development: Path | None
    replay: Path | None
    made: tuple[ManifestPlan, ...]


def run_personal(options: PersonalOptions, overrides: Mapping[str, Any] | None = None) -> JsonObject:
    """Adapt to the speaker of a folder and return the experiment's metrics.

    Args:
        overrides: experiment options that win over `RECIPE`.

    Raises:
        InputError: an option or the folder is wrong, or holds too few recordings.
        SetupError, CheckFailed: as `build_manifest` and `run_experiment`.
    """
    if processes.launched() > 1:
        raise SetupError(
            f"{processes.launched()} processes were launched; personal adaptation runs in one. Start it without "
            "`torchrun` or `accelerate launch`."
        )
    data_dir = options.data_dir or options.output_dir.with_name(f"{options.output_dir.name}-data")
    guards = choose_guards(options, data_dir)
    config = plan_experiment(options, overrides or {}, guards, data_dir)
    config.check()
    # What goes on is compared by the experiment itself, when the names of the two parts are known.
    check_output(replace(config, restart=config.restart or config.resume))
    if not 0 < options.held_out < 1:
        raise ConfigError(f"--held-out: got {options.held_out}, expected more than 0 and less than 1.")
    for line in describe(options, config, guards):
        console.print(line)
    recordings = gather(options, data_dir)
    config, said = divide(recordings, config, options)
    console.print(said)
    build_missing(guards.made, data_dir / "synthetic.json")
    return run_experiment(config)


def choose_guards(options: PersonalOptions, data_dir: Path) -> _Guards:
    """Return guardrail and replay: those given, and for the digits model synthetic ones for the others.

    Raises:
        ConfigError: another model, and not every one is given; or replay is given and refused.
    """
    synthetic = options.model_id == DIGITS_MODEL
    problems = []
    if options.guardrail_manifest is None and not synthetic:
        problems.append("--guardrail-manifest is missing: speech that the model reads well and must go on reading well")
    if options.replay and options.replay_manifest is None and not synthetic:
        problems.append("--replay-manifest is missing: training data of that kind, or --no-replay to go without")
    if not options.replay and options.replay_manifest is not None:
        problems.append("--no-replay and --replay-manifest exclude each other")
    if problems:
        raise ConfigError(f"{options.model_id}: personal adaptation needs to know what must not get worse", problems)
    paths = {name: data_dir / f"{name}.jsonl" for name in SYNTHETIC}
    guardrails, replay = options.guardrail_manifest, options.replay_manifest
    development = options.guardrail_validation_manifest
    makes_replay = options.replay and replay is None
    if development is None and (makes_replay or (not options.replay and guardrails is None)):
        development = paths["synthetic_guardrail_dev"]
    guardrails = guardrails or [paths["synthetic_guardrail"]]
    replay = paths["synthetic_replay"] if makes_replay else replay
    wanted = {*guardrails, development, replay}
    made = tuple(_synthetic_plan(name, path) for name, path in paths.items() if path in wanted)
    return _Guards(guardrails, development, replay, made)


def _synthetic_plan(name: str, output: Path) -> ManifestPlan:
    split, samples, seed = SYNTHETIC[name]
    build = BuildOptions(output=output, source="synthetic", voices=["en-us"], split=split, samples=samples, seed=seed)
    return ManifestPlan(name, command_of("build-manifest", build), build)


def plan_experiment(
    options: PersonalOptions, overrides: Mapping[str, Any], guards: _Guards, data_dir: Path
) -> ExperimentConfig:
    """Return the experiment that trains on the folder.

    Raises:
        ConfigError: `overrides` has an option that this command decides.
    """
    decided: dict[str, Any] = {
        "output_dir": options.output_dir,
        "model_id": options.model_id,
        "dataset_path": data_dir / "train.jsonl",
        "manifest_path": options.test_manifest or data_dir / "heldout.jsonl",
        "validation_manifest": options.validation_manifest,
        "guardrail_manifest": guards.guardrails,
        "guardrail_validation_manifest": guards.development,
        "replay_manifest": guards.replay,
        "seed": options.seed,
        "resume": options.resume,
        "restart": options.restart,
        "overwrite": options.overwrite,
    }
    taken = [name for name in overrides if name in {*decided, "seeds"}]
    if taken:
        raise ConfigError(
            f"--recipe: {', '.join(taken)}: decided by the options of `personal`, not by the recipe. Take them out."
        )
    recipe: dict[str, Any] = {**RECIPE, **(WITHOUT_REPLAY if guards.replay is None else {}), **overrides}
    return ExperimentConfig(**decided, **recipe)


def describe(options: PersonalOptions, config: ExperimentConfig, guards: _Guards) -> list[str]:
    """Return in words what is taken, so that no choice is silent."""
    made = {plan.options.output: plan for plan in guards.made}

    def named(path: Path | None) -> str:
        if path is None:
            return "none"
        return f"made here: `{made[path].command}`" if path in made else str(path)

    development = "a part of the replay" if guards.replay is not None else "none"
    return [
        f"recordings: {options.folder}",
        f"verdict on: {options.test_manifest or f'{options.held_out:.0%} of the recordings, held out'}",
        f"development set: {config.validation_manifest or f'{config.validation_fraction:.0%} of the training part'}",
        *(f"guardrail: {named(path)}" for path in guards.guardrails),
        f"guardrail development set: {development if guards.development is None else named(guards.development)}",
        f"replay: {named(guards.replay)}",
    ]


def gather(options: PersonalOptions, data_dir: Path) -> Path:
    """Write the folder's recordings as `recordings.jsonl` with their audio, and return its path.

    Raises:
        InputError: the folder holds no recordings, faulty ones, or the output.
    """
    output = data_dir / "recordings.jsonl"
    folder = options.folder
    found = [folder / name for name in MANIFESTS_IN_FOLDER if (folder / name).is_file()]
    if found:
        check_file(output, found)
        write_placed(output, iter_manifest(found[0]))
        return output
    inside = [path for path in (options.output_dir, data_dir) if path.resolve().is_relative_to(folder.resolve())]
    if inside:
        raise ConfigError(f"{inside[0]}: lies in the folder of recordings. Give --output-dir outside {folder}.")
    # Always built anew: a recording may have come since, and minutes of speech take a second.
    console.print(str(build_manifest(BuildOptions(output=output, source="folder", path=folder))))
    return output


def divide(recordings: Path, config: ExperimentConfig, options: PersonalOptions) -> tuple[ExperimentConfig, str]:
    """Write `train-<hash>.jsonl` and, unless a test manifest is given, `heldout-<hash>.jsonl`.

    Rows that have `part` are divided by it, else recordings are drawn by seed; those of one audio stay together. Each
    division has names of its own, so parts of two are never taken for one.

    Returns:
        The experiment on these manifests, and in words what was done.

    Raises:
        ManifestError: too few recordings, or rows of which only some have `part`.
    """
    manifest = read_manifest(recordings)
    rows = manifest.utterances
    parts = {_part_of(row) for row in rows}
    if parts <= set(PARTS):
        train, held_out = ([row for row in rows if _part_of(row) == part] for part in PARTS)
        how = "as the recordings' own `part` says"
    elif parts != {None}:
        found = ", ".join(sorted(map(str, parts)))
        raise ManifestError(f"{recordings}: `part` is {found}; expected train or heldout in every row, or in none.")
    elif options.test_manifest is not None:
        train, held_out = list(rows), []
        how = "all, for the verdict is on a manifest of its own"
    else:
        chosen = _draw(recordings, options)
        train = [row for row in rows if row.id not in chosen]
        held_out = [row for row in rows if row.id in chosen]
        how = f"drawn by seed {options.seed}"
    _check_enough(len(train), len(held_out), options)
    parts_of_ids = [[row.id for row in part] for part in (train, held_out)]
    digest = sha256_bytes(f"{manifest.sha256} {to_json(parts_of_ids)}".encode())[:16]
    config = replace(config, dataset_path=config.dataset_path.with_stem(f"{config.dataset_path.stem}-{digest}"))
    written = {config.dataset_path: train}
    if options.test_manifest is None:
        config = replace(config, manifest_path=config.manifest_path.with_stem(f"{config.manifest_path.stem}-{digest}"))
        written[config.manifest_path] = held_out
    write_placed_together(written)
    return config, f"recordings: {len(train)} for training and development, {len(held_out)} held out; {how}"


def _part_of(row: Utterance) -> str | None:
    part = row.extra.get(PART_KEY)
    return None if part is None else str(part)


def _draw(recordings: Path, options: PersonalOptions) -> set[str]:
    """Return the ids that are held out; recordings of one audio are on one side."""
    parts = (Part("heldout", "fraction", options.held_out), Part("train", "rest"))
    assigned = divide_rows(measure(recordings), parts, by="utterance", seed=options.seed)
    return {identifier for identifier, part in assigned.items() if part == "heldout"}


def _check_enough(train: int, held_out: int, options: PersonalOptions) -> None:
    wanted = f"{MIN_TRAIN} to train on"
    missing = train < MIN_TRAIN
    if options.test_manifest is None:
        wanted += f" and {MIN_HELD_OUT} to judge by"
        missing = missing or held_out < MIN_HELD_OUT
    if missing:
        raise InputError(
            f"{options.folder}: {train} recordings to train on and {held_out} held out; expected at least {wanted}. "
            "Record more."
        )
