"""Encoder states on disk: shared between runs and processes, bounded in size, safe against a killed writer.

A folder holds one kind of states (one base, one number format) in shards: `NAME.states` has the bytes, one
utterance after another, and `NAME.index` the records that say whose they are. Bytes are written first, so a
record without its bytes cannot come about by a kill; bytes without a record are nobody's.

Shards are read with `readinto` into the batch, not mapped: a mapped page counts as this process's memory, and
a file cut short under a mapping ends the process without a word.
"""

import os
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from lora.caches import name_damage
from lora.errors import InputError, SetupError
from lora.files import RecordFile, lock_file, write_all, writing

SHARD_BYTES = 256 * 2**20
"""A full shard; also how much is evicted at once."""
STATES, INDEX = ".states", ".index"
LAYOUT = "32sQII"
"""Key, first byte, number of bytes, their CRC-32."""


@dataclass(frozen=True, slots=True)
class _Entry:
    shard: str
    start: int
    size: int
    checksum: int


class FeatureStore:
    """Named byte strings of one folder.

    Args:
        folder: of this kind of states; its parent holds the other kinds, which count to the limit too.
        limit_bytes: the parent's shards are kept below this, the longest unused ones evicted first. A shard that
            a process has read from or written to is never evicted while that process lives.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.shard_bytes = min(shard_bytes, max(limit_bytes // 8, 1))
        self._entries: dict[bytes, _Entry] = {}
        self._num_read: dict[str, int] = {}
        self._open: dict[str, FileIO] = {}
        self._verified: set[bytes] = set()
        self._lock = threading.RLock()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> None:
        """Take in what other processes have added; of a key that is there twice the later entry counts."""
        with self._lock:
            for path in sorted(self.folder.glob("*" + INDEX)):
                done = self._num_read.get(path.stem, 0)
                try:
                    records = RecordFile(path, LAYOUT).read(done)
                except InputError as error:
                    name_damage(error.message)
                    path.unlink(missing_ok=True)  # its states are nobody's from now on
                    continue
                self._num_read[path.stem] = done + len(records)
                self._entries.update({key: _Entry(path.stem, *rest) for key, *rest in records})

    def size_of(self, key: bytes) -> int | None:
        """Return how many bytes an entry has, `None` where there is none; what was found stays until `close`.

        May be called from threads; the rest of this class is for one.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.shard not in self._open and not self._hold(entry.shard):
                # Another process has evicted the shard since its index was read.
                self._entries = {name: one for name, one in self._entries.items() if one.shard != entry.shard}
                return None
            return entry.size

    def read_into(self, key: bytes, buffer: memoryview) -> bool:
        """Fill `buffer`, of the entry's size, with its bytes; the first reading checks them.

        Returns:
            False where the entry is not what was written: that is told, and the entry is there no more.
        """
        entry = self._entries.get(key)
        if entry is None:  # the same utterance twice in a batch, found to be damaged the first time
            return False
        file = self._open[entry.shard]
        file.seek(entry.start)
        count = file.readinto(buffer)
        if key not in self._verified:
            if count != entry.size or zlib.crc32(buffer) != entry.checksum:
                name_damage(
                    f"{self._path(entry.shard, STATES)}: the {entry.size} bytes from {entry.start} are not the states "
                    "that were written there; the file was damaged."
                )
                del self._entries[key]
                return False
            self._verified.add(key)
        return True

    def add(self, entries: Sequence[tuple[bytes, memoryview]]) -> None:
        """Append entries; those that another process has added meanwhile are left out.

        Raises:
            SetupError: the limit does not allow them, or the disk is full.
        """
        with writing(self.folder), (self.folder / "writer.lock").open("ab") as lock:
            lock_file(lock.fileno())
            self.refresh()
            new = [(key, data) for key, data in entries if self.size_of(key) is None]
            if not new:
                return
            self._make_room(sum(len(data) for _, data in new))
            shard = self._writable_shard()
            file = self._open[shard]
            start = file.seek(0, os.SEEK_END)
            records = []
            try:
                for key, data in new:
                    write_all(file, data)
                    records.append((key, start, len(data), zlib.crc32(data)))
                    start += len(data)
            except OSError as error:
                raise SetupError(
                    f"{self._path(shard, STATES)}: cannot be written ({error.strerror}). Free some disk, or set "
                    "--feature-cache-gib to what there is, or to 0."
                ) from error
            RecordFile(self._path(shard, INDEX), LAYOUT).append(records)
            self.refresh()

    def close(self) -> None:
        """Let the shards go, so that they can be evicted."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _path(self, shard: str, suffix: str) -> Path:
        return self.folder / f"{shard}{suffix}"

    def _hold(self, shard: str, *, create: bool = False) -> bool:
        """Open a shard and keep others from evicting it; return whether it is there."""
        path = self._path(shard, STATES)
        try:
            file = FileIO(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644), "r+")
        except FileNotFoundError:
            return False
        # Evicted between the opening and the lock: the file has no name any more.
        if not lock_file(file.fileno(), shared=True, wait=False) or not os.fstat(file.fileno()).st_nlink:
            file.close()
            return False
        self._open[shard] = file
        self._path(shard, INDEX).touch()
        return True

    def _writable_shard(self) -> str:
        """Return the newest shard, held, or a new one where that is full or being evicted."""
        newest = max((path.stem for path in self.folder.glob("*" + STATES)), default="")
        is_open = newest in self._open or (newest and self._hold(newest))
        if is_open and self._path(newest, STATES).stat().st_size < self.shard_bytes:
            return newest
        while True:
            # Named by the clock: a name must not come back, because other processes know the old one's records.
            name = f"{time.time_ns():020d}"
            if self._hold(name, create=True):
                return name

    def _make_room(self, wanted: int) -> None:
        """Evict the longest unused shards until `wanted` more bytes fit."""
        used: list[tuple[float, Path, int]] = []
        for path in self.folder.parent.glob("*/*" + STATES):
            with suppress(FileNotFoundError):  # another process has evicted it
                size, index = path.stat().st_size, path.with_suffix(INDEX)
                used.append((index.stat().st_mtime if index.exists() else 0.0, path, size))
        total = sum(size for *_, size in used) + wanted
        for _, path, size in sorted(used):
            if total <= self.limit_bytes:
                return
            if _evict(path):
                total -= size
        if total > self.limit_bytes:
            raise SetupError(
                f"{self.folder.parent}: {total / 2**30:.2f} GiB of encoder states are in use by this run and others, "
                f"more than --feature-cache-gib {self.limit_bytes / 2**30:g}. Raise it, or set it to 0 to run the "
                "encoder in every step."
            )


def _evict(path: Path) -> bool:
    """Remove a shard that no process holds."""
    try:
        with path.open("r+b") as file:
            if not lock_file(file.fileno(), wait=False):
                return False
            # The index first: bytes without an index are nobody's, and counted until they are removed.
            path.with_suffix(INDEX).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    return True
