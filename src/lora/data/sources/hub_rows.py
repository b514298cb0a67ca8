"""Rows of a hub dataset: drawing them from a stream, and what each becomes."""

import dataclasses
import hashlib
import random
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HfHubHTTPError

from lora.data.sources.base import MAX_FAULTS, SAFE_ID, PendingClip, Read
from lora.data.sources.columns import Columns, plain_value
from lora.data.sources.recording import audio_seconds, decode_clip
from lora.data.sources.selection import EMPTY_TEXT, Fact, Notes, Selection, choose, refuse_too_few, sift
from lora.errors import AudioError, SetupError, SourceError
from lora.units import JsonObject

DRAW_BUFFER_ROWS = 4096
DRAW_BUFFER_BYTES = 256 * 2**20
"""A draw from a stream holds so many rows, or so many bytes of encoded audio: the memory it needs, and how
much it reads before the first clip (256 MiB are about 1000 clips of LibriSpeech)."""

# The hub client's HTTP library changes (requests, httpx, httpx2); its base error is named by inheritance only.
_NETWORK_ERRORS: tuple[type[Exception], ...] = (
    ConnectionError,
    TimeoutError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception) and base is not OSError),
)


Numbered = tuple[str, JsonObject]
"""Where a row is, for messages, and the row."""


@dataclass(frozen=True)
class HubReader:
    """One split, opened, with its columns checked. `folder` is where a local dataset lies.

    Attributes:
        num_rows: of the split; `None` where that is not known before they are read.
    """

    table: Any
    features: Mapping[str, Any]
    columns: Columns
    selection: Selection
    name: str
    folder: Path | None
    notes: Notes
    num_rows: int | None = None

    def clips(self) -> Iterator[Read]:
        """Yield the chosen clips, not yet decoded.

        Raises:
            SourceError: fewer than asked for, as far as that is known before any is read.
        """
        if self.selection.balance_speakers:
            return self._read(self._balanced())
        self._refuse_too_few()
        draws = self.selection.samples is not None or self.selection.hours is not None
        rows = _draw(self.table, self.columns.audio, self.selection.seed) if draws else _numbered(self.table)
        return sift(self._read(rows), self.selection, self.name, self.notes)

    def _refuse_too_few(self) -> None:
        """Compare what is asked for with the number of rows; of a folder, with those that may be chosen."""
        selection, wanted = self.selection, self.selection.samples
        if wanted is None or self.num_rows is None:
            return
        notes = Notes()
        there = self.num_rows
        passes_over = selection.speakers or selection.exclude_speakers or selection.skip_empty_text
        if self.folder is not None and passes_over and there >= wanted and not selection.needs_seconds:
            there = sum(1 for _ in dataclasses.replace(self, notes=notes)._facts(array("q")))
        if there < wanted:
            refuse_too_few(selection, self.name, there, 0.0, notes.left_out)

    def _balanced(self) -> Iterator[Numbered]:
        """Choose by the speakers of all rows, then yield the chosen rows in their order."""
        positions = array("q")
        chosen = choose(self._facts(positions), self.selection, self.name, self.notes.left_out)
        self.notes.total = len(chosen)
        wanted = {positions[index] for index in chosen.tolist()}
        last = max(wanted, default=-1)
        for position, row in enumerate(self.table):
            if position in wanted:
                yield f"row {position}", row
            if position >= last:
                return

    def _facts(self, positions: "array[int]") -> Iterator[Fact]:
        """Yield the facts of each row that may be chosen, and note its position; reads the audio only where it must."""
        needed = [self.columns.speaker, self.columns.text]
        needed += [self.columns.audio] if self.selection.needs_seconds else []
        faults: list[str] = []
        rows = _explained_rows(_numbered(self.table.select_columns(needed)), self.name)
        for position, (place, row) in enumerate(rows):
            speaker, seconds = self._speaker(row), 0.0
            text = plain_value(row[self.columns.text], self.features[self.columns.text])
            reason = EMPTY_TEXT if self.selection.skip_empty_text and not _has_words(text) else ""
            if not reason and self.selection.needs_seconds:
                try:
                    where = f"{self.name} {place}"
                    seconds = _seconds(_audio_bytes(row[self.columns.audio], self.folder, where), where)
                except (AudioError, SourceError) as error:
                    faults.append(str(error))
                    if len(faults) >= MAX_FAULTS:
                        break
                    continue
            reason = reason or self.selection.why_left_out(speaker, seconds)
            if reason:
                self.notes.left_out[reason] += 1
            else:
                positions.append(position)
                yield Fact(str(position), speaker, seconds)
        if len(faults) <= self.selection.skip_faults:
            self.notes.leave_out(faults)
        else:
            raise SourceError(f"{self.name}: {len(faults)} rows cannot be used", faults)

    def _read(self, rows: Iterator[Numbered]) -> Iterator[Read]:
        seen: set[int] = set()
        repeats: dict[str, int] = {}
        for place, row in _explained_rows(rows, self.name):
            text = plain_value(row[self.columns.text], self.features[self.columns.text])
            if self.selection.skip_empty_text and not _has_words(text):
                self.notes.left_out[EMPTY_TEXT] += 1
                continue
            try:
                clip = self._clip(row, text, f"{self.name} {place}")
            except (AudioError, SourceError) as error:
                yield error
                continue
            if self.columns.id is None:
                # Named by content, two equal rows have one name; the second is marked, not dropped.
                if hash(clip.id) in seen:
                    repeats[clip.id] = repeats.get(clip.id, 1) + 1
                    clip = dataclasses.replace(clip, id=f"{clip.id}-{repeats[clip.id]}")
                else:
                    seen.add(hash(clip.id))
            yield clip

    def _clip(self, row: JsonObject, text: Any, place: str) -> PendingClip:
        own_id = None if self.columns.id is None else str(row[self.columns.id])
        if self.columns.id is not None and row[self.columns.id] is None:
            raise SourceError(f"{place}: has no {self.columns.id}. Use another id column, or leave it out.")
        place = place if own_id is None else f"{place}: {own_id}"
        data = _audio_bytes(row[self.columns.audio], self.folder, place)
        digest = hashlib.sha256(data + b"\0" + str(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if not _has_words(text):
            raise SourceError(
                f"{place}: text is {text!r}; expected at least one word. Use another split or text column, or "
                "pass over such rows by --skip-empty-text."
            )
        extra = {column: row[column] for column in self.columns.extra}
        identifier = own_id or digest
        if not SAFE_ID.fullmatch(identifier):
            extra["source_id"] = identifier
            identifier = re.sub(r"[^A-Za-z0-9._+=@-]", "_", identifier).lstrip(".+=@-")[:183] + f"_{digest}"
        return PendingClip(
            id=identifier,
            text=" ".join(text.split()),
            speaker_id=self._speaker(row),
            fingerprint=hashlib.sha256(data).hexdigest(),
            seconds=_seconds(data, place),
            decode=partial(decode_clip, data, place),
            extra=extra,
        )

    def _speaker(self, row: JsonObject) -> str | int | None:
        column = self.columns.speaker
        return None if column is None else plain_value(row[column], self.features[column])


def _has_words(text: Any) -> bool:
    return isinstance(text, str) and any(char.isalnum() for char in text)


def _seconds(data: bytes, place: str) -> float:
    try:
        return audio_seconds(data)
    except AudioError as error:
        raise AudioError(f"{place}: {error}") from error


def _numbered(rows: Iterable[JsonObject], start: str = "") -> Iterator[Numbered]:
    return ((f"{start}row {number}", row) for number, row in enumerate(rows))


def _draw(table: Any, audio_column: str, seed: int) -> Iterator[Numbered]:
    """Yield all rows in an order drawn by `seed`.

    Not by `datasets`' own shuffle: its order changes between versions, and it sleeps 5 s at the end of Parquet files.
    """
    rng = random.Random(seed)
    if not isinstance(table, datasets.IterableDataset):
        yield from ((f"row {index}", table[index]) for index in rng.sample(range(len(table)), len(table)))
        return
    # By row group: a split of one or a few files would otherwise be drawn from its beginning only.
    table = table.reshard()
    buffer: list[Numbered] = []
    held = 0
    for part in rng.sample(range(table.num_shards), table.num_shards):
        for place, row in _numbered(table.shard(table.num_shards, part), f"row group {part} "):
            buffer.append((place, row))
            held += _encoded_size(row[audio_column])
            while len(buffer) > DRAW_BUFFER_ROWS or held > DRAW_BUFFER_BYTES:
                chosen = rng.randrange(len(buffer))
                buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
                held -= _encoded_size(buffer[-1][1][audio_column])
                yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer


def _encoded_size(audio: JsonObject | None) -> int:
    return len((audio or {}).get("bytes") or b"")


def _audio_bytes(audio: JsonObject | None, folder: Path | None, place: str) -> bytes:
    """Return the encoded audio of a row that holds bytes or only a path.

    A path of a local folder's row must lie in that folder; one of a hub row must be on the hub. A dataset
    from elsewhere could otherwise name any file of this machine.
    """
    if audio is None or (audio.get("bytes") is None and not audio.get("path")):
        raise SourceError(f"{place}: the row has no audio. Use another split, or remove the row.")
    if audio.get("bytes") is not None:
        return bytes(audio["bytes"])
    path = str(audio["path"])
    if folder is None:
        if not path.startswith("hf://"):
            raise SourceError(f"{place}: the row holds no audio but the path {path!r}, which is not on the hub.")
        with explained(place):
            return bytes(HfFileSystem().read_bytes(path))
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise SourceError(f"{place}: audio path {path!r} is no file in {folder}. Put the audio files there.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{place}: {file} cannot be read ({error.strerror}). Correct its permissions.") from error


def _explained_rows(rows: Iterator[Numbered], name: str) -> Iterator[Numbered]:
    while True:
        with explained(name):
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn what the network, the hub and Parquet raise into errors that say what to do."""
    try:
        yield
    except _NETWORK_ERRORS as error:
        raise SetupError(
            f"{place}: the hub cannot be reached ({str(error)[:200]}). Check the network and HF_HUB_OFFLINE, set "
            "HF_TOKEN for a private or gated dataset, or give a local folder of Parquet files by --path."
        ) from error
    except (pyarrow.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
        raise SourceError(
            f"{place}: a Parquet file cannot be read ({str(error)[:200]}). Download it again, whole (git lfs pull)."
        ) from error
