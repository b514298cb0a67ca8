"""Writing without halves: atomic files, staged directories, content hashes."""

import hashlib
import json
import os
import shutil
import tempfile
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
