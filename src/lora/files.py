"""Writing without halves: atomic files, staged directories, files of records, content hashes."""

import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lora.bounded import parse_json
from lora.errors import InputError, SetupError
from lora.units import JsonObject


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex, read in blocks."""
    with path.open("rb") as file:
        return sha256_rest(file)


def sha256_rest(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file from its position on as hex, read in blocks."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(2**20), b""):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block succeeds: beside it, fsync, rename.

    A failure leaves `path` as it was and nothing beside it.

    Raises:
        SetupError: the machine does not let it be written: a full disk, no permission, a folder that is gone.
    """
    with writing(path), _beside(path, is_folder=False) as (name, handle):
        with os.fdopen(handle, "w+b", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(handle)
        name.replace(path)


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, which must be free or an empty folder, that becomes it at the end.

    A failure leaves `target` as it was and nothing beside it. `lora.outputs.output_folder` replaces earlier output.

    Raises:
        SetupError: as `atomic_file`.
    """
    with folder_beside(target) as stage:
        yield stage
        stage.rename(target)


@contextmanager
def folder_beside(target: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Yield a new hidden folder beside `target`; what is at its place at the end is removed.

    Raises:
        SetupError: as `atomic_file`.
    """
    with writing(target), _beside(target, is_folder=True, mode=mode) as (stage, _):
        yield stage


def scratch_folder(name: str) -> AbstractContextManager[Path]:
    """Return a folder of this user's alone in the system's temporary folder that lasts as long as the block."""
    return folder_beside(Path(tempfile.gettempdir()) / name, mode=0o700)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what could not be written where the machine refuses.

    Raises:
        SetupError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        named = error.filename or path
        raise SetupError(
            f"{path}: cannot be written ({error.strerror or error}{'' if str(named) == str(path) else f': {named}'}). "
            "What was there before is as it was. Free space, correct the permissions, or choose another place."
        ) from error


LITTER = ".moonshine-lora.tmp"
"""How the name of everything ends that a killed process can leave: `.NAME.<8 hex digits>.moonshine-lora.tmp`."""
_LITTER_NAME = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(LITTER)}", re.DOTALL)


def is_litter(name: str) -> bool:
    """Tell whether a file's or folder's name is one that only this tool gives, to what is not finished."""
    return _LITTER_NAME.fullmatch(name) is not None


@contextmanager
def _beside(target: Path, *, is_folder: bool, mode: int = 0o777) -> Iterator[tuple[Path, int]]:
    """Yield a new file or folder beside `target` and its handle, locked while in use; removed if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in litter_of(target):
        remove_litter(left)
    name, handle = _make_beside(target, is_folder=is_folder, mode=mode)
    try:
        yield name, handle
    finally:
        os.close(handle)
        remove(name)


def _make_beside(target: Path, *, is_folder: bool, mode: int) -> tuple[Path, int]:
    while True:
        name = target.with_name(f".{shortened(target.name)}.{secrets.token_hex(4)}{LITTER}")
        if os.path.lexists(name):
            continue
        try:
            if is_folder:
                name.mkdir(mode)
            handle = open_locked(name, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except BaseException:  # a signal, too, that comes while it is made
            remove(name)
            raise
        if handle is not None:
            return name, handle


def open_locked(path: Path, flags: int) -> int | None:
    """Open a file or folder and lock it; `None` where another process holds it or has just removed it.

    Raises:
        OSError: it cannot be opened, or, where it is to be made, its folder is not there.
    """
    if sys.platform == "win32" and path.is_dir():
        return os.open(os.devnull, os.O_RDONLY)  # Windows opens no folder, and has no such lock
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise
        return None
    if lock_file(handle, wait=False) and path.exists():
        return handle
    os.close(handle)
    return None


def litter_of(target: Path) -> list[Path]:
    """Return what killed processes left beside `target` while they wrote it."""
    start = f".{shortened(target.name)}."
    digits = "[0-9a-f]" * 8
    return sorted(target.parent.glob(f"{glob.escape(start)}{digits}{LITTER}"))


def remove_litter(path: Path) -> bool:
    """Remove what a killed process left, unless a process is still at it; tell whether it was removed.

    In a folder that many users share, what is another's stays.
    """
    if sys.platform == "win32" or not is_own(path):
        return False
    handle = open_locked(path, os.O_RDONLY)
    if handle is None:
        return False
    try:
        remove(path)
    finally:
        os.close(handle)
    return True


def is_own(path: Path) -> bool:
    """Tell whether a file or folder is there and is this user's."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links for it."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def exchange(first: Path, second: Path) -> None:
    """Swap two paths of one file system in one step, so that at no moment either is missing.

    Raises:
        OSError: the file system or the operating system cannot.
    """
    library = ctypes.CDLL(None, use_errno=True)
    here, there = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(here, there, ctypes.c_uint(2))  # RENAME_SWAP
        else:
            at_cwd = -100  # AT_FDCWD
            failed = library.renameat2(at_cwd, here, at_cwd, there, ctypes.c_uint(2))  # RENAME_EXCHANGE
    except AttributeError as error:
        raise OSError(errno.ENOSYS, "this system cannot swap two paths", str(second)) from error
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(second))


def shortened(name: str) -> str:
    """Return the start of a file name, so short that what is put around it fits into the 255 bytes of a name."""
    return name.encode()[:200].decode(errors="ignore")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a temporary file beside it, fsync, rename."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Serialise strictly: UTF-8 kept, NaN and infinity refused with ValueError.

    A file name's bytes that are no UTF-8 are surrogates in Python; they are escaped, and come back when it is read.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_json_bytes(value: Any) -> bytes:
    """Serialise on one line as `to_json`; text that is not valid Unicode is refused with ValueError too."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, with a final newline."""
    write_text(path, to_json(value) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(to_json(dict(row), indent=None) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        InputError: the file is missing, cannot be read, or is not JSON within the bounds of `lora.bounded`.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}). Restore or regenerate the file.") from error


def read_object(path: Path, *keys: str) -> JsonObject:
    """Read a JSON document that is an object with these keys.

    Raises:
        InputError: as `read_json`, or it is something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: got a JSON {type(value).__name__}, expected an object. Restore or regenerate the file."
        )
    missing = [key for key in keys if key not in value]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} is missing. Restore or regenerate the file.")
    return value


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
            InputError: the file cannot be read, or a record does not match its checksum.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(start * self._size)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}).") from error
        records: list[tuple[Any, ...]] = []
        for begin in range(0, len(data) - len(data) % self._size, self._size):
            record = data[begin : begin + self._size]
            if zlib.crc32(record[:-4]).to_bytes(4, "little") != record[-4:]:
                raise InputError(
                    f"{self.path}: record {start + len(records)} does not match its checksum; the file was damaged or "
                    "is of another version."
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
