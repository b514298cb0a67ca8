"""A build that can be stopped at any moment: finished clips wait in a hidden folder until all are there.

The folder `.<manifest name>.<hash of the build>.moonshine-lora.partial/` holds `audio/` and `journal.jsonl`, one line a
clip, written before the clip's file: a file without a line cannot exist, and a torn file or line shows by its hash. A
later run of the same build takes from it every clip that the source gives in the same way again. The folder goes when
the manifest is in its place, and not before.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from lora.data.audio import decode_audio
from lora.data.audio_folder import publish
from lora.errors import SetupError
from lora.files import open_locked, sha256_bytes, sha256_file, shortened, to_json, write_all, writing
from lora.units import SAMPLE_RATE_HZ, JsonObject

LAYOUT = "2"
"""Part of every folder's name: a version that writes other bytes must not go on from this one's."""
PARTIAL = ".moonshine-lora.partial"
"""How the name of a folder ends that holds a build's finished clips: `.NAME.<16 hex digits>.moonshine-lora.partial`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished clip: a line of the journal. `row` is its manifest row; its audio is named by `file` alone."""

    key: str
    sha256: str
    num_samples: int
    row: JsonObject

    @property
    def file(self) -> str:
        """Name of the clip's file."""
        return f"{self.row['id']}.flac"


class Staging:
    """The hidden folder of one build; a context manager.

    However the block is left, the folder stays if a clip is in it, unless the clips were published.

    Raises:
        SetupError: another process is at the same build, or something cannot be written.
    """

    def __init__(self, output: Path, *, build_key: str, embed_audio: bool) -> None:
        self.output = output.resolve()
        digest = hashlib.sha256(f"{LAYOUT}\0{build_key}\0{self.output.name}".encode("utf-8", "surrogateescape"))
        self._start = f".{shortened(self.output.name)}."
        self.folder = self.output.with_name(f"{self._start}{digest.hexdigest()[:16]}{PARTIAL}")
        self.embed_audio = embed_audio
        self._audio = self.folder / "audio"
        self._chosen = array("q")
        self._is_published = False

    def __enter__(self) -> "Staging":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open_locked(self.folder, os.O_RDONLY)
            if lock is None:
                raise SetupError(f"{self.folder}: another process is at this build. Wait for it, or stop it.")
            self._lock = lock
            self._audio.mkdir(exist_ok=True)
            journal = self.folder / "journal.jsonl"
            # Not buffered: what a full disk refused is not tried again when it is closed.
            self._end = journal.open("ab", buffering=0)
            self._journal: BinaryIO = journal.open("rb")
            self._kept = _Kept(self._journal)
            if self._kept.is_torn:
                write_all(self._end, b"\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
        self._end.close()
        try:
            if self._is_published or not self.holds_clips:
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            os.close(self._lock)

    @property
    def holds_clips(self) -> bool:
        """Tell whether any clip is finished, of this run or an earlier one."""
        return any(self._audio.glob("*"))

    def find(self, key: str) -> tuple[Entry, int] | None:
        """Return the clip with `key` that an earlier run finished, and its place, if it is whole."""
        for place in self._kept.places_of(key):
            entry = self._entry_at(place)
            if entry is not None and entry.key == key and self._is_whole(entry):
                return entry, place
        return None

    def take(self, place: int) -> None:
        """Make the clip at a place of the journal the manifest's next."""
        self._chosen.append(place)

    def add(self, key: str, encoded: tuple[bytes, int], row: JsonObject) -> Entry:
        """Keep one finished clip, the manifest's next: its FLAC bytes, their number of samples and its row."""
        data, num_samples = encoded
        entry = Entry(key, sha256_bytes(data), num_samples, row)
        line = to_json([entry.key, entry.sha256, num_samples, row], indent=None).encode("utf-8") + b"\n"
        with writing(self.folder):
            self.take(self._end.seek(0, os.SEEK_END))
            write_all(self._end, line)
            file = self._audio / entry.file
            file.unlink(missing_ok=True)  # never into a file that has a second name
            file.write_bytes(data)
        return entry

    def others(self) -> list[Path]:
        """Return the folders that other builds of the same manifest left."""
        names = [path for path in self.output.parent.iterdir() if path.name.startswith(self._start)]
        return sorted(path for path in names if path.name.endswith(PARTIAL) and path != self.folder)

    def commit(self) -> None:
        """Put the manifest and its audio in their places.

        Raises:
            ConfigError, SetupError: as `publish`.
        """
        hashes = {} if self.embed_audio else {entry.file: entry.sha256 for entry in self._entries()}
        publish(self.output, self._audio, hashes, self._lines, keep=True)
        self._is_published = True

    def _lines(self, folder: str) -> Iterator[bytes]:
        for entry in self._entries():
            audio = self._samples(entry) if self.embed_audio else {"audio": f"{folder}/{entry.file}"}
            row = {"id": entry.row["id"]} | audio | entry.row
            yield to_json(row, indent=None).encode("utf-8") + b"\n"

    def _samples(self, entry: Entry) -> JsonObject:
        # From the FLAC, so that inline samples equal those of a file.
        samples = decode_audio(self._audio / entry.file, name=entry.row["id"])[0]
        return {"audio": samples.astype(np.float64).tolist(), "sampling_rate": SAMPLE_RATE_HZ}

    def _entries(self) -> Iterator[Entry]:
        for place in self._chosen:
            entry = self._entry_at(place)
            assert entry is not None  # this process wrote or checked it
            yield entry

    def _entry_at(self, place: int) -> Entry | None:
        self._journal.seek(place)
        return _parse(self._journal.readline())

    def _is_whole(self, entry: Entry) -> bool:
        file = self._audio / entry.file
        return file.is_file() and sha256_file(file) == entry.sha256


class _Kept:
    """Where the clips of earlier runs are in the journal. 24 bytes a clip: all keys of a long source would be much.

    `is_torn` tells that a kill cut the last line: what follows must begin on a line of its own.
    """

    def __init__(self, journal: BinaryIO) -> None:
        keys, places = array("Q"), array("q")
        journal.seek(0)
        end = 0
        for line in journal:
            entry = _parse(line)
            if entry is not None:
                keys.append(_number_of(entry.key))
                places.append(end)
            end += len(line)
        self.is_torn = bool(end) and not line.endswith(b"\n")
        order = np.argsort(np.asarray(keys, dtype=np.uint64), kind="stable")
        self._keys = np.asarray(keys, dtype=np.uint64)[order]
        self._places = np.asarray(places, dtype=np.int64)[order]

    def places_of(self, key: str) -> list[int]:
        """Return the places of the clips that may have `key`, the last written first."""
        number = np.uint64(_number_of(key))
        start, end = (int(np.searchsorted(self._keys, number, side=side)) for side in ("left", "right"))
        return self._places[start:end][::-1].tolist()


def _number_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _parse(line: bytes) -> Entry | None:
    """Return the entry of a journal line; `None` for a torn one."""
    if not line.endswith(b"\n"):
        return None
    try:
        key, digest, num_samples, row = json.loads(line)
        is_name = isinstance(row["id"], str) and not set(row["id"]) & set("/\\\0")
        return Entry(key, digest, num_samples, dict(row)) if is_name else None
    except (ValueError, TypeError, KeyError):
        return None
