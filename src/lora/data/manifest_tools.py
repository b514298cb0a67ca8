"""Manifests out of one manifest: divided, sampled, described.

Every tool reads twice: once to decide, holding ids and hashes only, and once to write. So inline waveforms
of any total size pass through.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import soundfile

from lora.config import PreprocessConfig
from lora.data.audio import wave_sha256
from lora.data.fingerprint import Recording, group_recordings, sketch_wave
from lora.data.leakage import Leak, leak_row, transcript_key
from lora.data.manifest import ManifestReader, Utterance, iter_manifest
from lora.data.partition import Measured, Part, SplitBy, check_parts, divide
from lora.data.placement import write_placed, write_placed_together
from lora.errors import AudioError, ConfigError, ManifestError
from lora.outputs import check_file
from lora.units import SAMPLE_RATE_HZ, Seconds, seconds_of

Tick = Callable[[], None]


@dataclass(frozen=True)
class PartSummary:
    """One part as written; `asked_seconds` is `None` for the rest."""

    name: str
    path: Path
    utterances: int
    seconds: Seconds
    asked_seconds: Seconds | None
    speakers: int


@dataclass(frozen=True)
class SplitSummary:
    """What a split wrote. `shared_texts` are the transcripts that two parts have in common."""

    parts: tuple[PartSummary, ...]
    left_out: int
    shared_texts: tuple[Leak, ...]


@dataclass(frozen=True)
class ManifestStats:
    """A manifest in numbers. `speakers` is `None` where a row names none."""

    path: Path
    utterances: int
    seconds: Seconds
    shortest: Seconds
    longest: Seconds
    speakers: int | None
    words: int
    distinct_texts: int


def measure(path: Path, *, allow_outside: bool = False, tick: Tick | None = None) -> list[Measured]:
    """Decode every utterance and return its duration, its content hash and what else a leak is found by.

    Raises:
        ManifestError: the manifest's faults, or every clip that cannot be used.
    """
    return measure_all([path], allow_outside=allow_outside, tick=tick)[0]


def measure_all(
    paths: Sequence[Path], *, allow_outside: bool = False, tick: Tick | None = None
) -> list[list[Measured]]:
    """Measure several manifests; likely the same recordings are found across them.

    Raises:
        ManifestError: the faults of a manifest, or every clip of it that cannot be used.
    """
    measured: list[list[Measured]] = []
    recordings: list[Recording] = []
    for path in paths:
        measured.append([])
        problems: list[str] = []
        for utterance in ManifestReader(path, allow_outside=allow_outside, stream_inline=True):
            try:
                load = partial(utterance.load, PreprocessConfig())
                wave = load()
                digest = wave_sha256(wave)
                recordings.append(Recording(digest, len(wave), sketch_wave(wave), load))
                measured[-1].append(Measured(leak_row(utterance, digest), seconds_of(len(wave))))
            except AudioError as error:
                problems.append(str(error))
            if tick is not None:
                tick()
        if problems:
            raise ManifestError(f"{path}: {len(problems)} clip(s) cannot be used", problems)
    groups = iter(group_recordings(recordings))
    return [[replace(one, row=replace(one.row, recording=next(groups))) for one in rows] for rows in measured]


def split_manifest(
    path: Path,
    parts: Sequence[Part],
    output_dir: Path,
    *,
    by: SplitBy = "speaker",
    seed: int = 42,
    allow_outside: bool = False,
    tick: Tick | None = None,
) -> SplitSummary:
    """Write `<stem>_<part>.jsonl` for each part; no two share a speaker (or, by utterance, audio).

    Parts that are there already must be of the same split. So parts of two splits are never side by side, and a split
    that was killed is finished by the same command.

    Raises:
        ConfigError: another split is there, or something that is not ours.
        ManifestError: what was asked for cannot be had, or faults of the manifest.
        CheckFailed: the parts leak into each other.
    """
    outputs = {part.name: output_dir / f"{path.stem}_{part.name}.jsonl" for part in parts}
    for output in outputs.values():
        check_file(output, [path])
    rows = measure(path, allow_outside=allow_outside, tick=tick)
    assigned = divide(rows, parts, by=by, seed=seed)
    shared = check_parts(rows, assigned, by=by)
    total = sum(row.seconds for row in rows)
    chosen_of = {part.name: {name for name, where in assigned.items() if where == part.name} for part in parts}
    write_placed_together({outputs[name]: _only(path, chosen, allow_outside) for name, chosen in chosen_of.items()})
    summaries = []
    for part in parts:
        chosen = chosen_of[part.name]
        mine = [row for row in rows if row.id in chosen]
        summaries.append(
            PartSummary(
                part.name,
                outputs[part.name],
                len(mine),
                sum(row.seconds for row in mine),
                None if part.unit == "rest" else part.target(total),
                len({str(row.row.speaker_id) for row in mine if row.row.speaker_id is not None}),
            )
        )
    return SplitSummary(tuple(summaries), len(rows) - len(assigned), tuple(shared))


def _only(path: Path, ids: set[str], allow_outside: bool) -> Iterator[Utterance]:
    return (utterance for utterance in iter_manifest(path, allow_outside=allow_outside) if utterance.id in ids)


def sample_manifest(
    path: Path,
    output: Path,
    *,
    samples: int | None = None,
    hours: float | None = None,
    balanced: bool = False,
    seed: int = 42,
    allow_outside: bool = False,
) -> int:
    """Write a random part of a manifest, in its order, and return how many utterances that is.

    A larger sample of the same seed holds the smaller one. `balanced` takes speakers in turn.

    Raises:
        ConfigError: neither or both of `samples` and `hours`, or one that is not positive.
        ManifestError: the manifest holds less.
    """
    wanted = samples if samples is not None else hours
    if wanted is None or (samples is not None and hours is not None) or wanted <= 0:
        raise ConfigError(f"sample: got samples {samples} and hours {hours}; expected one of them, more than 0.")
    check_file(output, [path])
    speakers: dict[str, str] = {}
    seconds: dict[str, Seconds] = {}
    for utterance in iter_manifest(path, allow_outside=allow_outside):
        speakers[utterance.id] = str(utterance.speaker_id)
        seconds[utterance.id] = 0.0 if hours is None else audio_seconds(utterance)
    order = _seeded_order(speakers, seed)
    chosen = _take(_in_turn(order, speakers, seed) if balanced else order, seconds, samples, hours)
    write_placed(output, _only(path, chosen, allow_outside))
    return len(chosen)


def _take(order: Sequence[str], seconds: Mapping[str, Seconds], samples: int | None, hours: float | None) -> set[str]:
    if samples is not None:
        if samples > len(order):
            raise ManifestError(f"sample: {samples} utterances asked for, and there are {len(order)}. Ask for fewer.")
        return set(order[:samples])
    assert hours is not None  # one of the two, by sample_manifest
    total = sum(seconds.values())
    if hours * 3600 > total:
        raise ManifestError(f"sample: {hours:g} hours asked for, and there are {total / 3600:.3f}. Ask for less.")
    chosen: set[str] = set()
    filled = 0.0
    for identifier in order:
        if filled >= hours * 3600:
            break
        chosen.add(identifier)
        filled += seconds[identifier]
    return chosen


def _in_turn(order: Sequence[str], speakers: Mapping[str, str], seed: int) -> list[str]:
    """Return `order` rearranged: the first of every speaker, then the second of every speaker, and so on."""
    turns: dict[str, int] = {}
    counts: dict[str, int] = defaultdict(int)
    for identifier in order:
        turns[identifier] = counts[speakers[identifier]]
        counts[speakers[identifier]] += 1
    rank = {speaker: number for number, speaker in enumerate(_seeded_order(set(speakers.values()), seed))}
    return sorted(order, key=lambda identifier: (turns[identifier], rank[speakers[identifier]]))


def _seeded_order(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def audio_seconds(utterance: Utterance) -> Seconds:
    """Return the duration that the file's header says, without decoding.

    Raises:
        AudioError: the file is no audio.
    """
    if not isinstance(utterance.audio, Path):
        return len(utterance.audio) / (utterance.sampling_rate or SAMPLE_RATE_HZ)
    try:
        header = soundfile.info(os.fsencode(utterance.audio))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{utterance.place}: {utterance.audio.name} cannot be read as audio ({error}).") from error
    return float(header.frames / header.samplerate)


def describe(path: Path, *, allow_outside: bool = False) -> ManifestStats:
    """Return a manifest in numbers; durations are those of the files' headers.

    Raises:
        ManifestError: faults of the manifest, or every file that is no audio.
    """
    durations: list[Seconds] = []
    speakers: set[str] = set()
    texts: set[str] = set()
    problems: list[str] = []
    unnamed = words = 0
    for utterance in iter_manifest(path, allow_outside=allow_outside):
        try:
            durations.append(audio_seconds(utterance))
        except AudioError as error:
            problems.append(str(error))
        key = transcript_key(utterance.text)
        texts.add(key)
        words += len(key.split())
        unnamed += utterance.speaker_id is None
        speakers.add(str(utterance.speaker_id))
    if problems:
        raise ManifestError(f"{path}: {len(problems)} clip(s) cannot be used", problems)
    return ManifestStats(
        path=path,
        utterances=len(durations),
        seconds=sum(durations),
        shortest=min(durations),
        longest=max(durations),
        speakers=None if unnamed else len(speakers),
        words=words,
        distinct_texts=len(texts),
    )
