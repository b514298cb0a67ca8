"""A build that can be killed at any moment: finished clips wait in a hidden folder until all are there.

The folder `.<manifest name>.<hash of the build>.partial/` holds `audio/` and `journal.jsonl`, one line a
clip, written before the clip's file: a file without a line cannot exist, and a torn file or line shows by
its hash. A later run of the same build takes the clips in the same order and goes on where the journal
ends or where the source has changed.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from lora.bounded import parse_json
from lora.data.audio import decode_audio
from lora.errors import SetupError
from lora.files import atomic_file, sha256_bytes, sha256_file, to_json
from lora.units import SAMPLE_RATE_HZ, JsonObject

LAYOUT = "1"
"""Part of every folder's name: a version that writes other bytes must not go on from this one's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished clip: a line of the journal. `row` is its manifest row."""

    key: str
    sha256: str
    num_samples: int
    row: JsonObject


class Staging:
    """The hidden folder of one build; a context manager.

    Left by a fault, it is removed; left by an interruption (Ctrl-C, a lost network) it stays, as it does
    when the process is killed.

    Raises:
        SetupError: another process is at the same build.
    """

    def __init__(self, output: Path, *, build_key: str, embed_audio: bool) -> None:
        digest = hashlib.sha256(f"{LAYOUT}\0{build_key}".encode()).hexdigest()[:16]
        self.output = output
        self.folder = output.with_name(f".{output.name}.{digest}.partial")
        self.embed_audio = embed_audio
        self._audio = self.folder / "audio"
        self._target = output.with_name(f"{output.stem}_audio")
        self._journal_path = self.folder / "journal.jsonl"
        self._marker = self.folder / "committing"

    def __enter__(self) -> "Staging":
        self.folder.mkdir(exist_ok=True)
        self._lock = _lock_folder(self.folder, wait=False)
        self._undo_commit()
        self._audio.mkdir(exist_ok=True)
        self._journal: BinaryIO = self._journal_path.open("a+b")
        self._journal.seek(0)
        self._resuming = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
        try:
            if kind is None or (issubclass(kind, Exception) and not issubclass(kind, SetupError)):
                shutil.rmtree(self.folder, ignore_errors=kind is not None)
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def reuse(self, key: str) -> Entry | None:
        """Return the journal's next clip if it is the one with `key` and whole; else the rest is forgotten."""
        if not self._resuming:
            return None
        start = self._journal.tell()
        entry = _parse(self._journal.readline())
        if entry is not None and entry.key == key:
            file = self._audio / f"{entry.row['id']}.flac"
            if file.is_file() and sha256_file(file) == entry.sha256:
                return entry
        self._forget_from(start)
        return None

    def add(self, key: str, encoded: tuple[bytes, int], row: JsonObject) -> Entry:
        """Keep one finished clip: its FLAC bytes, their number of samples and its manifest row."""
        if self._resuming:
            self._forget_from(self._journal.tell())
        data, num_samples = encoded
        entry = Entry(key, sha256_bytes(data), num_samples, row)
        self._journal.write(to_json([entry.key, entry.sha256, num_samples, row], indent=None).encode("utf-8") + b"\n")
        self._journal.flush()
        (self._audio / f"{row['id']}.flac").write_bytes(data)
        return entry

    def others(self) -> list[Path]:
        """Return the folders that other builds of the same manifest left."""
        start = f".{self.output.name}."
        names = [path for path in self.output.parent.iterdir() if path.name.startswith(start)]
        return sorted(path for path in names if path.name.endswith(".partial") and path != self.folder)

    def commit(self) -> None:
        """Put the manifest and its audio in their places.

        At no moment is a manifest beside audio of another build: the older manifest goes first, the new
        one comes last, and a later run takes back what was moved.
        """
        if self._resuming:  # nothing was added; the journal may know clips that the source no longer has
            self._forget_from(self._journal.tell())
        manifest = self.folder / "manifest.jsonl"
        with atomic_file(manifest) as file:
            for entry in self._entries():
                file.write(to_json(self._final_row(entry), indent=None).encode("utf-8") + b"\n")
        if self.embed_audio:
            manifest.replace(self.output)
            return
        with _folder_locked(self.output.parent):
            self._marker.touch()
            try:
                _move(self.output, self.folder / "old.jsonl")
                _move(self._target, self.folder / "old_audio")
                self._audio.replace(self._target)
                manifest.replace(self.output)
            except BaseException:
                self._undo_commit()
                raise

    def _final_row(self, entry: Entry) -> JsonObject:
        if not self.embed_audio:
            return entry.row
        # From the FLAC, so that inline samples equal those of a file.
        samples = decode_audio(self._audio / f"{entry.row['id']}.flac", name=entry.row["id"])[0]
        row: JsonObject = {"id": entry.row["id"], "audio": samples.astype(np.float64).tolist()}
        return row | {"sampling_rate": SAMPLE_RATE_HZ} | {key: entry.row[key] for key in entry.row if key not in row}

    def _entries(self) -> Iterator[Entry]:
        self._journal.seek(0)
        for line in self._journal:
            entry = _parse(line)
            assert entry is not None  # this process wrote or checked it
            yield entry

    def _forget_from(self, start: int) -> None:
        """Remove the journal's clips from byte `start` on, so that no file is left without a line."""
        self._journal.seek(start)
        for line in self._journal:
            entry = _parse(line)
            if entry is not None:
                (self._audio / f"{entry.row['id']}.flac").unlink(missing_ok=True)
        self._journal.truncate(start)
        self._journal.seek(start)
        self._resuming = False

    def _undo_commit(self) -> None:
        """Take back what a commit moved before it was stopped; one that came to its end stays."""
        if not self._marker.exists():
            return
        if not self.output.exists():
            if not self._audio.exists():
                _move(self._target, self._audio)
            _move(self.folder / "old_audio", self._target)
            _move(self.folder / "old.jsonl", self.output)
        elif not self._audio.exists():  # finished: only the folder was not yet removed
            for leftover in ("old_audio", "audio"):
                shutil.rmtree(self.folder / leftover, ignore_errors=True)
            for name in ("old.jsonl", "journal.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
        self._marker.unlink()


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)


def _parse(line: bytes) -> Entry | None:
    """Return the entry of a journal line; `None` for a torn one and at the end."""
    if not line.endswith(b"\n"):
        return None
    try:
        key, digest, num_samples, row = parse_json(line.decode("utf-8"))
        is_name = isinstance(row["id"], str) and not set(row["id"]) & set("/\\\0")
        return Entry(key, digest, num_samples, dict(row)) if is_name else None
    except (ValueError, TypeError, KeyError):
        return None


def _lock_folder(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder until the returned handle is closed or the process ends; Windows has no such lock."""
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(handle)
        raise SetupError(f"{folder}: another process is at this build. Wait for it, or stop it.") from error
    return handle


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    handle = _lock_folder(folder, wait=True)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                os.close(handle)
