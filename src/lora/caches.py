"""What earlier runs computed is believed only as it was written: a wrong entry is named and made again."""

import os
import sys
from pathlib import Path
from typing import Any

from lora.errors import InputError
from lora.files import read_json, sha256_bytes, to_json, write_json


def check_cache_folder(folder: Path) -> None:
    """Refuse a cache folder that cannot be written to, before a run computes anything; nothing is made.

    Raises:
        InputError: a file is in its place or above it, or the folder may not be written to.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not place.is_dir():
        reason = f"{place} is no folder"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = f"{place} may not be written to"
    else:
        return
    raise InputError(f"{folder}: cannot be the cache folder: {reason}. Choose another one with --cache-dir.")


def name_damage(fault: str) -> None:
    """Tell that an entry is not believed, on stderr; `fault` starts with its file."""
    sys.stderr.write(f"warning: {fault} It is left out and made again.\n")


def write_entry(path: Path, key: str, value: Any) -> None:
    """Write a JSON value that belongs to `key`, with the checksum of both.

    Raises:
        SetupError: the machine does not let it be written.
    """
    write_json(path, {"key": key, "sha256": _checksum(key, value), "value": value})


def read_entry(path: Path, key: str) -> Any | None:
    """Return what `write_entry` wrote for `key`; `None` where there is nothing, or something else, which is told."""
    if not path.exists():
        return None
    try:
        entry = read_json(path)
    except InputError as error:
        name_damage(error.message)
        return None
    is_entry = isinstance(entry, dict) and entry.keys() == {"key", "sha256", "value"}
    if is_entry and entry["key"] == key and entry["sha256"] == _checksum(key, entry["value"]):
        return entry["value"]
    name_damage(f"{path}: not what was written for {key}; the file was changed or damaged.")
    return None


def _checksum(key: str, value: Any) -> str:
    return sha256_bytes(to_json([key, value], indent=None).encode("utf-8", "surrogatepass"))
