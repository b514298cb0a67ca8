"""Rows of local sources: checked all at once by what they say, chosen, and only then decoded.

A local source is a function that lists its rows and can be called twice. The first pass checks every row
and chooses; the second yields the chosen ones. No pass holds audio or all the rows.
"""

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from lora.data.audio_paths import NOT_INSIDE, AudioFolder
from lora.data.sources.base import MAX_FAULTS, SAFE_ID, PendingClip, Read
from lora.data.sources.recording import audio_seconds, decode_clip
from lora.data.sources.selection import EMPTY_TEXT, Fact, Notes, Selection, case_note, choose, is_caps
from lora.errors import AudioError, SourceError
from lora.units import JsonObject, Seconds


@dataclass(frozen=True, slots=True)
class Row:
    """What a source says of one utterance.

    Attributes:
        place: `file:line`, for messages.
        audio: path as written, relative to the source's root.
        id: made from the path where the source has none.
        start_s, seconds: the part of the audio that is meant; `None` for all of it.
    """

    place: str
    audio: str
    text: str
    id: str | None = None
    speaker_id: str | int | None = None
    start_s: Seconds | None = None
    seconds: Seconds | None = None
    extra: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be read, with its place."""

    message: str


Listing = Callable[[], Iterable[Row | Fault]]


@dataclass(frozen=True)
class LocalSource:
    """A folder or table on this machine.

    Attributes:
        name: what messages call it.
        root: audio paths are relative to it and must stay under it, unless `allow_outside`.
    """

    name: str
    root: Path
    list_rows: Listing
    allow_outside: bool = False

    def open(self, selection: Selection, notes: Notes) -> Iterator[Read]:
        """Check every row, choose, and return the chosen clips in the order of the source.

        A file that is gone or changed since it was checked is a clip that cannot be used.

        Raises:
            SourceError: every fault of the rows at once, each with its place; or too few clips.
        """
        selection.check()
        survey = _Survey(self, selection, notes)
        chosen = choose(survey.facts(), selection, self.name, notes.left_out)
        notes.total = len(chosen)
        lowered = selection.text_mode == "lower" or (selection.text_mode == "auto" and survey.is_all_caps)
        if selection.text_mode == "auto":
            notes.lines.append(case_note(survey.is_all_caps))
        positions = survey.positions[chosen]
        return self._clips(positions.tolist() if len(positions) < survey.num_rows else None, selection, lowered)

    def _clips(self, positions: list[int] | None, selection: Selection, lowered: bool) -> Iterator[Read]:
        folder = AudioFolder(self.root, allow_outside=self.allow_outside)
        wanted = None if positions is None else iter(positions)
        next_wanted = None if wanted is None else next(wanted, None)
        for position, row in enumerate(self.list_rows()):
            if wanted is not None:
                if position != next_wanted:
                    continue
                next_wanted = next(wanted, None)
            if isinstance(row, Fault):
                yield SourceError(f"{row.message} The file changed while it was read.")
                continue
            file, problem = find_audio(folder, row.audio)
            yield SourceError(f"{row.place}: {problem}") if file is None else _pending(row, file, lowered)


class _Survey:
    """The first pass over the rows."""

    def __init__(self, source: LocalSource, selection: Selection, notes: Notes) -> None:
        self._source, self._selection, self._notes = source, selection, notes
        self._faults: list[str] = []
        self._speakers: set[str] = set()
        self._hashes = array("Q")
        self._positions = array("q")
        self._has_small = self._has_caps = False
        self.num_rows = 0

    @property
    def positions(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Positions, among all rows, of those that may be chosen."""
        return np.asarray(self._positions, dtype=np.int64)

    @property
    def is_all_caps(self) -> bool:
        """Tell whether the texts that may be chosen have capitals and no small letters."""
        return self._has_caps and not self._has_small

    def facts(self) -> Iterator[Fact]:
        """Yield what choosing needs to know of each row that may be chosen; collect faults."""
        folder = AudioFolder(self._source.root, allow_outside=self._source.allow_outside)
        for position, row in enumerate(self._source.list_rows()):
            self.num_rows += 1
            if isinstance(row, Fault):
                self._add(row.message)
                continue
            if row.speaker_id is not None:
                self._speakers.add(str(row.speaker_id))
            fact = self._check(row, folder)
            if fact is None:
                continue
            self._positions.append(position)
            self._has_small = self._has_small or row.text != row.text.upper()
            self._has_caps = self._has_caps or is_caps(row.text)
            yield fact
        if len(self._faults) <= self._selection.skip_faults:
            self._notes.leave_out(self._faults)
            self._faults.clear()
        self.refuse_faults()
        if not self.num_rows:
            raise SourceError(f"{self._source.name}: no rows. Expected at least one utterance.")

    def _check(self, row: Row, folder: AudioFolder) -> Fact | None:
        """Return the facts of a row; `None` when it is passed over or faulty."""
        identifier = row_id(row)
        self._hashes.append(_hash(identifier))
        reason = self._selection.why_left_out(row.speaker_id, None)
        if not reason and not any(char.isalnum() for char in row.text):
            if not self._selection.skip_empty_text:
                self._add(
                    f"{row.place}: text is {row.text!r}; expected at least one word. Fix the row, or pass over "
                    "such rows by --skip-empty-text."
                )
                return None
            reason = EMPTY_TEXT
        if reason:
            self._notes.left_out[reason] += 1
            return None
        file, problem = find_audio(folder, row.audio)
        if file is None:
            self._add(f"{row.place}: {problem}")
            return None
        seconds = 0.0
        if self._selection.needs_seconds:
            try:
                seconds = audio_seconds(file) if row.seconds is None else row.seconds
            except AudioError as error:
                self._add(f"{row.place}: {row.audio}: {error}")
                return None
            reason = self._selection.why_left_out(row.speaker_id, seconds)
            if reason:
                self._notes.left_out[reason] += 1
                return None
        return Fact(identifier, row.speaker_id, seconds)

    def refuse_faults(self) -> None:
        """Raise SourceError with every fault, repeated ids and unknown speakers among them."""
        if not self._faults:
            self._faults += self._repeated_ids()
        asked = [*(self._selection.speakers or ()), *self._selection.exclude_speakers]
        unknown = sorted(set(asked) - self._speakers)
        if unknown and not self._faults:
            present = ", ".join(sorted(self._speakers)[:50]) or "none: name the speaker column"
            self._faults.append(f"no speaker {', '.join(unknown)}; present are {present}")
        if self._faults:
            raise SourceError(f"{self._source.name}: {len(self._faults)} fault(s) in the rows", self._faults)

    def _add(self, message: str) -> None:
        self._faults.append(message)
        if len(self._faults) >= MAX_FAULTS:
            self._faults.append(f"reading stops after {MAX_FAULTS} faults")
            self.refuse_faults()

    def _repeated_ids(self) -> list[str]:
        """Find ids that two rows have. 8 bytes a row are held: all ids of a long source would be much."""
        values, counts = np.unique(np.asarray(self._hashes, dtype=np.uint64), return_counts=True)
        suspects = set(values[counts > 1].tolist())
        if not suspects:
            return []
        first: dict[str, str] = {}
        faults: list[str] = []
        for row in self._source.list_rows():
            if isinstance(row, Fault) or _hash(row_id(row)) not in suspects:
                continue
            place = first.setdefault(row_id(row).casefold(), row.place)
            if place != row.place:
                faults.append(
                    f"{row.place}: id {row_id(row)!r} was used at {place}, upper and lower case being alike. Make ids "
                    "unique, or name another id column."
                )
        return faults[:MAX_FAULTS]


def _hash(identifier: str) -> int:
    digest = hashlib.blake2b(identifier.casefold().encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def row_id(row: Row) -> str:
    """Return a portable id: the row's own, or its path without the suffix.

    A folder's `/` becomes `+`. Where anything else is not portable, a hash of the whole is added, so two
    different paths keep two ids.
    """
    if row.id is not None:
        written, plain = row.id, row.id
    else:
        written = row.audio if row.start_s is None else f"{row.audio}@{row.start_s:.3f}"
        path = PurePosixPath(row.audio)
        plain = str(path.with_suffix("")) if path.name else row.audio
        plain = plain if "+" in plain or "@" in plain else plain.replace("/", "+")
        plain = plain if row.start_s is None else f"{plain}@{row.start_s:.3f}"
    if SAFE_ID.fullmatch(plain):
        return plain
    digest = hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9._+=@-]", "_", plain).lstrip(".+=@-")[:183] + f"_{digest}"


def find_audio(folder: AudioFolder, written: str) -> tuple[Path | None, str]:
    """Return the file that a row names, or `None` and what is wrong with it."""
    if not written:
        return None, "the row names no audio. Fix the row or remove it."
    file, problem = folder.find(written)
    if problem.endswith(NOT_INSIDE):
        problem = (
            f"audio {written!r} is not a path inside {folder.root} (no `..`, no absolute path, no link out). Move the "
            "file inside, or pass --allow-outside-audio if you trust the source."
        )
    return file, problem


def _pending(row: Row, file: Path, lowered: bool) -> Read:
    try:
        status = file.stat()
    except OSError as error:
        return SourceError(f"{row.place}: {row.audio} cannot be read any more ({error.strerror}). Put it back.")
    name = f"{row.place}: {row.audio}" if row.audio not in row.place else row.place
    identifier = row_id(row)
    text = " ".join(row.text.split())
    seconds = row.seconds
    if seconds is None:
        try:
            seconds = audio_seconds(file)
        except AudioError:  # decoding it will say so, with the other clips that cannot be decoded
            seconds = 0.0
    return PendingClip(
        id=identifier,
        text=text.lower() if lowered else text,
        speaker_id=row.speaker_id,
        fingerprint=f"{file} {status.st_size} {status.st_mtime_ns} {row.start_s} {row.seconds}",
        seconds=seconds,
        decode=partial(decode_clip, file, name, row.start_s, row.seconds),
        extra=row.extra | ({} if row.id is None or row.id == identifier else {"source_id": row.id}),
    )
