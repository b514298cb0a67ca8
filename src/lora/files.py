"""Writing without halves: atomic files, staged directories, files of records, content hashes."""

import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lora.errors import InputError


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block succeeds: beside it, fsync, rename.

    A failure leaves `path` as it was and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a temporary file beside it, fsync, rename."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Serialise strictly: UTF-8 kept, NaN and infinity refused with ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, with a final newline."""
    write_text(path, to_json(value) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(to_json(dict(row), indent=None) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). Restore or regenerate the file.") from error


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `target` that replaces it when the block succeeds.

    A failure leaves neither the temporary directory nor a changed `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield stage
        stage.chmod(0o755)
        if target.exists():
            retired = stage.with_name(stage.name + ".old")
            target.replace(retired)
            try:
                stage.replace(target)
            except BaseException:
                retired.replace(target)
                raise
            shutil.rmtree(retired)
        else:
            stage.replace(target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def lock_file(handle: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file until its handle is closed or the process ends; Windows has no such lock.

    Returns:
        False where another holds it and `wait` is off.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class RecordFile:
    """A file of records of one size that grows at its end, by one process at a time.

    Each record ends in its checksum. A process that is killed in the middle of one leaves part of a record, which
    is no record: readers do not see it, and the next writer removes it.

    Args:
        layout: of one record, as in `struct`, without the checksum.
    """

    def __init__(self, path: Path, layout: str) -> None:
        self.path = path
        self._layout = struct.Struct("<" + layout)
        self._size = self._layout.size + 4

    def read(self, start: int = 0) -> list[tuple[Any, ...]]:
        """Return the records from number `start` on; none where there is no file.

        Raises:
            InputError: a record does not match its checksum.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(start * self._size)
                data = file.read()
        except FileNotFoundError:
            return []
        records: list[tuple[Any, ...]] = []
        for begin in range(0, len(data) - len(data) % self._size, self._size):
            record = data[begin : begin + self._size]
            if zlib.crc32(record[:-4]).to_bytes(4, "little") != record[-4:]:
                raise InputError(
                    f"{self.path}: record {start + len(records)} does not match its checksum; the file was damaged or "
                    f"is of another version. Delete {self.path.parent}: it is computed again."
                )
            records.append(self._layout.unpack(record[:-4]))
        return records

    def append(self, records: Iterable[tuple[Any, ...]]) -> None:
        """Add records at the end; processes that append at once take turns."""
        packed = [self._layout.pack(*record) for record in records]
        data = b"".join(record + zlib.crc32(record).to_bytes(4, "little") for record in packed)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
            lock_file(file.fileno())
            end = file.seek(0, os.SEEK_END)
            file.truncate(end - end % self._size)
            file.seek(0, os.SEEK_END)
            write_all(file, data)


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write every byte to an unbuffered file, whose own `write` may take fewer.

    Raises:
        OSError: as `write`; on a full disk.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
