"""What an experiment reads: the base model, its manifests, and how they are divided; all checked before it starts."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate.utils import set_seed
from numpy.typing import NDArray

from lora.caches import check_cache_folder
from lora.config import DecodeSettings, ExperimentConfig, PreprocessConfig, StateFormat
from lora.data.fingerprint import LENGTH_TOLERANCE_SAMPLES, Recording, group_recordings
from lora.data.leakage import LEAK_KINDS, LeakRow, find_leaks
from lora.data.manifest import Manifest, Utterance, read_manifest
from lora.data.splits import split_train_validation
from lora.data.wave_store import WaveStore
from lora.data.waves import LazyWave
from lora.decoding import Recognizer
from lora.errors import ConfigError, ManifestError
from lora.evaluation.score import EvaluationSet, load_evaluation_set
from lora.model.device import resolve_device, resolve_precision
from lora.model.load import Bundle, load_bundle
from lora.runners.progress import console, progress_bar
from lora.training.examples import Example, build_examples
from lora.training.loop import TrainingData
from lora.units import JsonObject

RESERVED_SET_NAMES = ("domain", "domain_dev", "guardrail_dev")


@dataclass(frozen=True)
class Run:
    """What every stage shares; `started` is on the monotonic clock, `cache_dir` is shared between runs."""

    config: ExperimentConfig
    bundle: Bundle
    recognizer: Recognizer
    waves: WaveStore
    precision: StateFormat
    started: float
    cache_dir: Path


@dataclass(frozen=True)
class Manifests:
    """Every manifest that the configuration names, read."""

    train: Manifest
    domain: Manifest
    guardrails: dict[str, Manifest]
    replay: Manifest | None
    validation: Manifest | None
    guardrail_validation: Manifest | None


@dataclass(frozen=True)
class RunData:
    """Everything that was loaded, checked and split.

    Attributes:
        leakage: for each development and reported set, how many utterances share an id, audio, a recording, a speaker
            or a transcript with training (a reported set: or with a development set).
    """

    training_manifest: Manifest
    training: TrainingData
    left_out: int
    leakage: JsonObject
    splits: JsonObject
    domain: EvaluationSet
    guardrails: tuple[EvaluationSet, ...]
    domain_dev: EvaluationSet
    guardrail_dev: EvaluationSet | None

    @property
    def reported(self) -> tuple[EvaluationSet, ...]:
        """The sets of the verdict, domain first."""
        return (self.domain, *self.guardrails)

    @property
    def development(self) -> tuple[EvaluationSet, ...]:
        """The sets that choose the kept state; never reported on."""
        return (self.domain_dev,) if self.guardrail_dev is None else (self.domain_dev, self.guardrail_dev)


def read_manifests(config: ExperimentConfig) -> Manifests:
    """Read every manifest, without decoding audio.

    Raises:
        ManifestError: every fault of every manifest, at once.
    """
    names = _guardrail_names(config)
    paths = {
        "train": config.dataset_path,
        "domain": config.manifest_path,
        "replay": config.replay_manifest,
        "validation": config.validation_manifest,
        "guardrail_validation": config.guardrail_validation_manifest,
    }
    problems: list[str] = []
    read: dict[Path, Manifest] = {}
    # One file may have two parts; its faults are told once.
    for path in dict.fromkeys(path for path in (*paths.values(), *config.guardrail_manifest) if path is not None):
        with _collected(problems):
            read[path] = read_manifest(path, allow_outside=config.allow_outside_audio, stream_inline=True)
    if problems:
        raise ManifestError(f"{len(problems)} fault(s) in the manifests", problems)
    guardrails = {name: read[path] for name, path in zip(names, config.guardrail_manifest, strict=True)}
    given = {name: None if path is None else read[path] for name, path in paths.items()}
    return Manifests(guardrails=guardrails, **given)  # type: ignore[arg-type]


def _guardrail_names(config: ExperimentConfig) -> list[str]:
    stems = [path.stem for path in config.guardrail_manifest]
    if len(set(stems)) != len(stems) or set(stems) & set(RESERVED_SET_NAMES):
        raise ConfigError(
            f"--guardrail-manifest: file names {', '.join(stems)}; expected different names, none of them "
            f"{', '.join(RESERVED_SET_NAMES)}. Reports call each guardrail by its file name: rename the files."
        )
    return stems


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Add the faults of a manifest to `problems`, so that the next one is read too."""
    try:
        yield
    except ManifestError as error:
        problems += error.problems or [error.message]


def open_run(config: ExperimentConfig) -> Run:
    """Resolve device and precision, load the base model, seed everything."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    started = time.monotonic()
    set_seed(config.seed)
    bundle = load_bundle(config.model_id, device)
    recognizer = Recognizer(
        bundle,
        PreprocessConfig(),
        DecodeSettings(tokens_per_second=config.tokens_per_second),
        batch_seconds=config.eval_batch_seconds,
    )
    console.print(f"base model {config.model_id} ({bundle.family.name}, {bundle.sha256[:12]}) on {device}, {precision}")
    cache_dir = config.cache_dir or config.output_dir.parent / ".cache"
    check_cache_folder(cache_dir)
    waves = WaveStore(
        recognizer.preprocess,
        memory_bytes=int(config.wave_cache_gib * 2**30),
        facts=cache_dir,
        progress=progress_bar,
    )
    return Run(config, bundle, recognizer, waves, precision, started, cache_dir)


def load_data(run: Run, manifests: Manifests) -> RunData:
    """Cut development sets from training data, load all audio, refuse leaks.

    Raises:
        ManifestError: every clip and text of every manifest that cannot be used, or clips that are in more than one
            of training, development and evaluation.
    """
    train_rows, dev, train_split = _development(run, manifests.train, manifests.validation)
    replay_rows: Sequence[Utterance] = ()
    guard = manifests.guardrail_validation
    splits: JsonObject = {"train": train_split}
    if manifests.replay is not None:
        replay_rows, guard, splits["replay"] = _development(run, manifests.replay, guard)
    loaded = _load_sets(
        run, {"domain": manifests.domain, **manifests.guardrails, "domain_dev": dev, "guardrail_dev": guard}
    )
    problems = loaded.problems
    training, left_out = _load_training(run, train_rows, replay_rows, problems)
    if problems:
        raise ManifestError(f"{len(problems)} clip(s) or text(s) cannot be used", problems)
    data = RunData(
        training_manifest=manifests.train,
        training=training,
        left_out=left_out,
        leakage={},
        splits=splits,
        domain=loaded.sets["domain"],
        guardrails=tuple(loaded.sets[name] for name in manifests.guardrails),
        domain_dev=loaded.sets["domain_dev"],
        guardrail_dev=loaded.sets.get("guardrail_dev"),
    )
    data.leakage.update(_check_leaks(run, data))
    run.waves.flush()
    for name, text in splits.items():
        console.print(f"{name}: {text}")
    return data


@dataclass(frozen=True)
class _Loaded:
    sets: dict[str, EvaluationSet]
    problems: list[str]


def _load_sets(run: Run, manifests: dict[str, Manifest | None]) -> _Loaded:
    loaded = _Loaded({}, [])
    for name, manifest in manifests.items():
        if manifest is not None:
            with _collected(loaded.problems):
                loaded.sets[name] = load_evaluation_set(name, manifest, run.recognizer, run.waves)
    return loaded


def _development(run: Run, manifest: Manifest, given: Manifest | None) -> tuple[Sequence[Utterance], Manifest, str]:
    """Return training rows, development set and how the two were divided."""
    if given is not None:
        return manifest.utterances, given, f"development set {given.path}"
    split = split_train_validation(manifest.utterances, fraction=run.config.validation_fraction, seed=run.config.seed)
    held_out = Manifest(manifest.path, manifest.sha256, tuple(split.validation))
    return split.train, held_out, f"{split.kind} split: {split.reason}"


def _load_training(
    run: Run, train_rows: Sequence[Utterance], replay_rows: Sequence[Utterance], problems: list[str]
) -> tuple[TrainingData, int]:
    """Return the training examples and how many clips were too long; faults are added to `problems`."""
    limit = run.config.max_seconds
    parts: list[list[Example]] = []
    left_out = 0
    for path, rows in ((run.config.dataset_path, train_rows), (run.config.replay_manifest, replay_rows)):
        parts.append([])
        with _collected(problems):
            parts[-1] = build_examples(run.bundle, rows, run.waves, max_seconds=limit, decode_all=False)
            left_out += len(rows) - len(parts[-1])
            if rows and not parts[-1]:
                problems.append(f"{path}: no training clip of at most {limit:g} s. Raise --max-seconds.")
    if left_out:
        console.print(f"{left_out} training clip(s) longer than {limit:g} s are left out")
    return TrainingData(parts[0], parts[1]), left_out


def _check_leaks(run: Run, data: RunData) -> JsonObject:
    """Return how many utterances of each set share something with training, and refuse what `leakage` forbids.

    Development sets choose what is kept, so their clips must be new to training; reported sets must be new to both.
    A development set may have ids of training: it is often another part of one source, which numbers its clips anew.
    """
    training = [*data.training.domain, *data.training.replay]
    sets = (*data.development, *data.reported)
    _read_possible_copies(run, training, [example for one in sets for example in one.examples])
    train, development, reported = _leak_rows(
        [training], [one.examples for one in data.development], [one.examples for one in data.reported]
    )
    seen = [*train[0], *(row for rows in development for row in rows)]
    found = [
        *(find_leaks([replace(row, id=None) for row in train[0]], rows) for rows in development),
        *(find_leaks(seen, rows) for rows in reported),
    ]
    counts: JsonObject = {}
    problems: list[str] = []
    for one, leaks in zip(sets, found, strict=True):
        counts[one.name] = {kind: sum(leak.kind == kind for leak in leaks) for kind in LEAK_KINDS}
        problems += [f"{one.name}: {leak}" for leak in leaks if leak.is_forbidden]
    if problems and not run.config.allow_leakage:
        raise ManifestError(
            "training, development and evaluation share clips, so the result would be worthless. Remove them from one "
            "side (`moonshine-lora check` lists them, and --fix removes them), or pass --allow-leakage, which the "
            "report then shows",
            problems,
        )
    return counts


def _read_possible_copies(run: Run, training: Sequence[Example], others: Sequence[Example]) -> None:
    """Decode the training clips that are about as long as another set's: of no others can the recording be the same."""
    lengths = np.sort([example.num_samples for example in others])
    possible = [
        audio
        for example in training
        if isinstance(audio := example.audio, LazyWave)
        and (not audio.is_exact or _has_near(lengths, audio.num_samples))
    ]
    problems = [fault.message for fault in run.waves.decode(possible, "comparing audio") if fault is not None]
    if problems:
        raise ManifestError(f"{len(problems)} training clip(s) cannot be used", problems)


def _has_near(lengths: NDArray[np.int_], num_samples: int) -> bool:
    """Tell whether one of the sorted `lengths` is within the tolerance."""
    place = int(np.searchsorted(lengths, num_samples - LENGTH_TOLERANCE_SAMPLES))
    return place < len(lengths) and lengths[place] <= num_samples + LENGTH_TOLERANCE_SAMPLES


def _leak_rows(*sides: Sequence[Sequence[Example]]) -> list[list[list[LeakRow]]]:
    """Return what of each example of each set of each side is compared; recordings are sought across sides alone."""
    every = [(number, example) for number, side in enumerate(sides) for examples in side for example in examples]
    groups = iter(group_recordings([_recording_of(example) for _, example in every], [number for number, _ in every]))
    return [[[_leak_row(example, next(groups)) for example in examples] for examples in side] for side in sides]


def _recording_of(example: Example) -> Recording | None:
    audio = example.audio
    if not isinstance(audio, LazyWave) or audio.known_sha256 is None or audio.known_sketch is None:
        return None
    return Recording(audio.known_sha256, audio.num_samples, audio.known_sketch, audio.load)


def _leak_row(example: Example, recording: int | None) -> LeakRow:
    # An id that the reader made of file name and line says nothing about the clip.
    made = re.fullmatch(r".+:[0-9]+", example.id) is not None
    return LeakRow(
        None if made else example.id,
        example.audio.known_sha256 if isinstance(example.audio, LazyWave) else example.audio_sha256,
        example.speaker_id,
        example.text,
        shown_id=example.id,
        recording=recording,
        place=example.place,
    )
