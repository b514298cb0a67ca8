"""Manifests: JSONL, one utterance a line.

Keys: `audio` (a path relative to the manifest, or an inline waveform as a list of numbers), `text`,
and optional `id`, `speaker_id` (int or string), `sampling_rate` (of an inline waveform; 16000 unless
given). Any other key is kept as it is.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lora.config import PreprocessConfig
from lora.data.audio import decode_audio, prepare_wave
from lora.data.audio_paths import AudioFolder
from lora.data.manifest_rows import check_extra, check_fields, check_inline, parse_row
from lora.errors import AudioError, ManifestError
from lora.files import atomic_file, sha256_bytes, to_json_bytes
from lora.units import SAMPLE_RATE_HZ, JsonObject, Wave

MAX_ROW_BYTES = 128 * 2**20
"""An inline waveform of six minutes; a file without line breaks is not read into memory."""
MAX_FAULTS = 1000
"""Reading stops here: more faults than this say that the file is no manifest."""


@dataclass(frozen=True, slots=True)
class InlineAudio:
    """An inline waveform that stays in its manifest's row until it is read.

    Attributes:
        start: first byte of the row, which has `num_bytes` and the hash `sha256`.
        num_samples: of the waveform; its length.
    """

    manifest: Path
    start: int
    num_bytes: int
    num_samples: int
    sha256: str
    place: str

    def __len__(self) -> int:
        return self.num_samples

    def read(self) -> Wave:
        """Return the samples.

        Raises:
            ManifestError: the manifest was changed since it was read.
        """
        with self.manifest.open("rb") as file:
            file.seek(self.start)
            raw = file.read(self.num_bytes)
        if sha256_bytes(raw) != self.sha256:
            raise ManifestError(f"{self.place}: the manifest was changed while it was in use. Start the run again.")
        problems: list[str] = []
        row = parse_row(raw, self.place, problems)
        samples = None if row is None else check_inline(row["audio"], self.place, problems)
        assert samples is not None, problems  # the same bytes were read before
        return samples


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest.

    Attributes:
        id: unique in its manifest; `<manifest stem>:<line>` where the row has none.
        audio: an existing regular file, or an inline waveform of shape (samples,), in memory or in its row.
        sampling_rate: of the inline waveform, in Hz; `None` for a file, whose header says it.
        extra: the row's other keys.
        place: `file:line`, for messages.
    """

    id: str
    text: str
    audio: Path | Wave | InlineAudio
    speaker_id: int | str | None = None
    sampling_rate: int | None = None
    extra: JsonObject = field(default_factory=dict)
    place: str = ""

    @property
    def file_name(self) -> str:
        """What a message calls the audio file."""
        assert isinstance(self.audio, Path)
        return f"{self.place}: {self.audio.name}" if self.place else str(self.audio)

    def decode(self) -> tuple[Wave, int]:
        """Return the samples as they are, and their sampling rate in Hz.

        Raises:
            AudioError: the file cannot be decoded; the message starts with `place`.
        """
        if isinstance(self.audio, Path):
            return decode_audio(self.audio, name=self.file_name)
        samples = self.audio.read() if isinstance(self.audio, InlineAudio) else self.audio
        return samples, self.sampling_rate or SAMPLE_RATE_HZ

    def load(self, config: PreprocessConfig) -> Wave:
        """Return the prepared waveform.

        Raises:
            AudioError: the audio cannot be used; the message starts with `place`.
        """
        samples, rate = self.decode()
        return prepare_wave(samples, rate, config, name=self.place or self.id)


@dataclass(frozen=True)
class Manifest:
    """A checked manifest. `sha256` is that of the file's bytes."""

    path: Path
    sha256: str
    utterances: tuple[Utterance, ...]

    def __len__(self) -> int:
        return len(self.utterances)


def read_manifest(path: Path, *, allow_outside: bool = False, stream_inline: bool = False) -> Manifest:
    """Read a manifest strictly.

    Audio paths must stay under the manifest's folder (no `..`, no absolute path, no link out, regular
    files only) unless `allow_outside`. Audio is not decoded here.

    Args:
        stream_inline: check inline waveforms and leave them in their rows as `InlineAudio`; otherwise all
            are held in memory.

    Raises:
        ManifestError: every fault of the file at once, each with its line.
    """
    reader = ManifestReader(path, allow_outside=allow_outside, stream_inline=stream_inline)
    utterances = tuple(reader)
    return Manifest(path, reader.sha256, utterances)


def iter_manifest(path: Path, *, allow_outside: bool = False) -> Iterator[Utterance]:
    """Yield the utterances of a manifest of any length, one in memory at a time.

    A fault does not end the reading: the error comes when every row was read, so what was made of the
    utterances counts only once the iterator ends.

    Raises:
        ManifestError: as `read_manifest`, at the end.
    """
    yield from ManifestReader(path, allow_outside=allow_outside)


class ManifestReader:
    """Iterates over a manifest's utterances once; `sha256` of the file's bytes is known afterwards."""

    def __init__(self, path: Path, *, allow_outside: bool = False, stream_inline: bool = False) -> None:
        self.path = path
        self._stream_inline = stream_inline
        self._start = 0
        self.sha256 = ""
        self._folder = AudioFolder(path.parent, allow_outside=allow_outside)
        self._problems: list[str] = []
        self._lines_by_id: dict[str, int] = {}

    def __iter__(self) -> Iterator[Utterance]:
        path, problems = self.path, self._problems
        if not path.is_file():
            raise ManifestError(f"{path}: no such manifest. Build one with `moonshine-lora build-manifest`.")
        try:
            yield from self._rows()
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
        if not self._lines_by_id and not problems:
            problems.append(f"{path}: no utterances. Expected one JSON object a line.")
        if problems:
            raise ManifestError(f"{path}: {len(problems)} fault(s) in the manifest", problems)

    def _rows(self) -> Iterator[Utterance]:
        digest = hashlib.sha256()
        number = 0
        with self.path.open("rb") as file:
            while raw := file.readline(MAX_ROW_BYTES + 1):
                number += 1
                digest.update(raw)
                if len(raw) > MAX_ROW_BYTES:
                    self._problems.append(
                        f"{self.path}:{number}: the row is longer than {MAX_ROW_BYTES} bytes, and reading stops here. "
                        "Write long audio as a file."
                    )
                    return
                utterance = self._read_row(raw, number)
                if utterance is not None:
                    yield utterance
                elif len(self._problems) >= MAX_FAULTS:
                    self._problems.append(f"{self.path}:{number}: reading stops after {MAX_FAULTS} faults.")
                    return
                self._start += len(raw)
        self.sha256 = digest.hexdigest()

    def read_row(self, raw: bytes, number: int) -> tuple[Utterance | None, list[str]]:
        """Check one line; return its utterance or `None`, and its faults. For a caller that goes on after them."""
        self._problems = []
        return self._read_row(raw, number), self._problems

    def _read_row(self, raw: bytes, number: int) -> Utterance | None:
        if not raw.strip():
            self._problems.append(f"{self.path}:{number}: the line is empty. Remove it.")
            return None
        place = f"{self.path}:{number}"
        row = parse_row(raw, place, self._problems)
        if row is None:
            return None
        found = len(self._problems)
        audio: Path | Wave | InlineAudio | None = self._check_audio(row.get("audio"), place)
        check_fields(row, place, self._problems)
        extra = check_extra(row, place, self._problems)
        identifier = row.get("id", f"{self.path.stem}:{number}")
        if len(self._problems) > found or audio is None:
            return None
        if identifier in self._lines_by_id:
            self._problems.append(
                f"{place}: id {identifier!r} was used on line {self._lines_by_id[identifier]}. Make ids unique."
            )
            return None
        self._lines_by_id[identifier] = number
        rate = row.get("sampling_rate") if not isinstance(audio, Path) else None
        utterance = Utterance(identifier, row["text"], audio, row.get("speaker_id"), rate, extra, place)
        return without_samples(utterance, self.path, self._start, raw) if self._stream_inline else utterance

    def _check_audio(self, audio: Any, place: str) -> Path | Wave | None:
        if isinstance(audio, list):
            return check_inline(audio, place, self._problems)
        if not isinstance(audio, str) or not audio:
            self._problems.append(f"{place}: audio is {audio!r:.40}; expected a path or a list of samples.")
            return None
        file, problem = self._folder.find(audio)
        if file is None:
            self._problems.append(f"{place}: {problem}")
        return file


def without_samples(utterance: Utterance, manifest: Path, start: int, raw: bytes) -> Utterance:
    """Return an utterance that leaves its inline waveform in its manifest's row `raw`, which begins at byte `start`."""
    audio = utterance.audio
    if isinstance(audio, Path | InlineAudio):
        return utterance
    return replace(
        utterance, audio=InlineAudio(manifest, start, len(raw), len(audio), sha256_bytes(raw), utterance.place)
    )


def to_row(utterance: Utterance, root: Path) -> JsonObject:
    """Return the manifest row of `utterance` with its audio path relative to `root`.

    Raises:
        ManifestError: the audio file is not under `root`.
    """
    return _to_row(utterance, _written_audio(utterance, root, root.resolve()))


def _written_audio(utterance: Utterance, root: Path, resolved_root: Path) -> str | None:
    if not isinstance(utterance.audio, Path):
        return None
    try:
        return utterance.audio.resolve().relative_to(resolved_root).as_posix()
    except ValueError as error:
        raise ManifestError(f"{utterance.audio}: outside {root}; a manifest's audio lies under its folder.") from error


def _to_row(utterance: Utterance, audio: str | None) -> JsonObject:
    row: JsonObject = {"id": utterance.id}
    if audio is None:
        samples, row["sampling_rate"] = utterance.decode()
        row["audio"] = np.asarray(samples, dtype=np.float64).tolist()
    else:
        row["audio"] = audio
    row["text"] = utterance.text
    if utterance.speaker_id is not None:
        row["speaker_id"] = utterance.speaker_id
    return row | utterance.extra


def manifest_line(utterance: Utterance, path: Path, resolved_root: Path, *, audio: str | None = None) -> bytes:
    """Return the line of `utterance` in the manifest `path`.

    Args:
        resolved_root: the manifest's folder, links followed.
        audio: path to write instead of that of the audio file, which must lie under the folder otherwise.

    Raises:
        ManifestError: audio outside the folder, or a value that JSON cannot hold (NaN).
    """
    written = audio or _written_audio(utterance, path.parent, resolved_root)
    try:
        return to_json_bytes(_to_row(utterance, written)) + b"\n"
    except ValueError as error:
        raise ManifestError(f"{path}: utterance {utterance.id!r} cannot be written as JSON ({error}).") from error


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically, one row in memory at a time; audio files must lie under its folder.

    Raises:
        ManifestError: no utterances, audio outside the folder, or a value that JSON cannot hold (NaN).
    """
    resolved_root = path.parent.resolve()
    with atomic_file(path) as file:
        for utterance in utterances:
            file.write(manifest_line(utterance, path, resolved_root))
        if not file.tell():
            raise ManifestError(f"{path}: no utterances to write.")


def load_waves(utterances: Sequence[Utterance], config: PreprocessConfig) -> list[Wave]:
    """Load and prepare every utterance's audio.

    Raises:
        ManifestError: every unusable clip at once.
    """
    waves: list[Wave] = []
    problems: list[str] = []
    for utterance in utterances:
        try:
            waves.append(utterance.load(config))
        except AudioError as error:
            problems.append(str(error))
    if problems:
        raise ManifestError(f"{len(problems)} of {len(utterances)} clips cannot be used", problems)
    return waves
