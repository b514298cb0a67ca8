"""The audio of a run's utterances, found through its manifests, for players in the report."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora.config import PreprocessConfig
from lora.data.audio import encode_flac
from lora.data.manifest import ManifestReader, Utterance
from lora.errors import AudioError, ManifestError
from lora.files import sha256_file
from lora.report.record import RunRecord, Sample
from lora.units import JsonObject, seconds_of

MAX_PLAYERS = 80
MAX_AUDIO_BYTES = 8 * 2**20
"""Of FLAC; base64 makes a third more of it. About seven minutes of speech."""

_SAME_SECONDS = 0.02  # decoders of lossy formats may differ by a frame

ClipKey = tuple[str, str]
"""Set and id of an utterance."""


@dataclass
class Clips:
    """What can be played.

    Attributes:
        data: `data:` addresses of FLAC audio at 16 kHz, at the level that the model hears.
        notes: why the audio of a set, or a clip, is not there, as sentences.
        audio_bytes: size of the FLAC data.
    """

    data: dict[ClipKey, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    audio_bytes: int = 0


def collect_clips(record: RunRecord) -> Clips:
    """Encode the most changed utterances, up to `MAX_PLAYERS` and `MAX_AUDIO_BYTES`.

    A manifest that is gone, was changed since the run or cannot be read gives a note and no audio: a report
    is worth having without it, and other audio must never be played as what was scored.
    """
    clips = Clips()
    chosen = most_changed(record.samples)[:MAX_PLAYERS]
    encoded: dict[ClipKey, bytes] = {}
    for name, title, row in _manifests(record):
        wanted = {sample.id: sample for sample in chosen if sample.set == name}
        if wanted:
            encoded |= {(name, key): data for key, data in _encode_set(record, title, row, wanted, clips.notes)}
    for sample in chosen:
        data = encoded.get((sample.set, sample.id))
        if data is None:
            continue
        if clips.audio_bytes + len(data) > MAX_AUDIO_BYTES:
            break
        clips.audio_bytes += len(data)
        clips.data[sample.set, sample.id] = "data:audio/flac;base64," + base64.b64encode(data).decode("ascii")
    return clips


def most_changed(samples: Iterable[Sample]) -> list[Sample]:
    """Sort by how many errors changed, then by errors left; the order of the sets breaks ties."""
    return sorted(samples, key=lambda sample: (-abs(sample.change), -sample.tuned_errors, -sample.baseline_errors))


def _manifests(record: RunRecord) -> Iterator[tuple[str, str, JsonObject]]:
    """Yield each set's name, title and manifest; guardrails and their manifests are in one order."""
    rows = [record.metrics["manifests"]["domain"], *record.metrics["manifests"]["guardrails"]]
    for (name, compared), row in zip(record.sets, rows, strict=False):
        yield name, str(compared["name"]), row


def _encode_set(
    record: RunRecord, title: str, row: JsonObject, wanted: dict[str, Sample], notes: list[str]
) -> list[tuple[str, bytes]]:
    path, problem = find_manifest(record.run_dir, str(row["path"]), str(row["sha256"]))
    if path is None:
        notes.append(f"No audio of {title}: {problem}.")
        return []
    encoded: list[tuple[str, bytes]] = []
    try:
        reader = ManifestReader(path, allow_outside=bool(record.metrics["config"].get("allow_outside_audio")))
        for utterance in reader:
            if utterance.id in wanted:
                encoded += _encode(utterance, wanted[utterance.id], notes)
    except ManifestError as error:
        notes.append(f"No audio of {title}: {error.problems[0] if error.problems else error.message}")
        return []
    return encoded


def _encode(utterance: Utterance, sample: Sample, notes: list[str]) -> Sequence[tuple[str, bytes]]:
    try:
        wave = utterance.load(PreprocessConfig())
    except AudioError as error:
        notes.append(f"No audio of {sample.id}: {error.message}")
        return []
    if abs(seconds_of(len(wave)) - sample.seconds) > _SAME_SECONDS:
        notes.append(f"No audio of {sample.id}: the file was changed since the run (its length differs).")
        return []
    return [(utterance.id, encode_flac(wave))]


def find_manifest(run_dir: Path, path: str, sha256: str) -> tuple[Path | None, str]:
    """Find a run's manifest by its content: at its path from here, or from a folder above the run.

    Returns:
        The path, or `None` and why.
    """
    candidates = [Path(path), *(parent / path for parent in run_dir.resolve().parents)]
    existing = [candidate for candidate in candidates if candidate.is_file()]
    for candidate in existing:
        if sha256_file(candidate) == sha256:
            return candidate, ""
    reason = "was changed since the run (another SHA-256), so its audio may not be what was scored"
    return None, f"the manifest {path} {reason if existing else 'is not there any more'}"
