"""Results in the user's folders: written beside, put in place by one rename, and never over what is not ours.

A folder that holds our results has a record of them, `.moonshine_lora_outputs.json`: the hash of each file. What
stands at a place of ours and is not in the record, or was changed since, is the user's and is never written over. The
record names a file before it appears, so that one whose writer was killed is still known.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lora.errors import ConfigError, InputError, SetupError
from lora.files import (
    LITTER,
    atomic_file,
    exchange,
    folder_beside,
    is_litter,
    lock_file,
    read_json,
    sha256_file,
    sha256_rest,
    to_json,
    write_json,
    writing,
)
from lora.units import JsonObject

RECORD_NAME = ".moonshine_lora_outputs.json"
NO_OBSTACLES = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers put into folders, besides `._*`."""

KNOWN_VERSIONS = 32
"""How many of a file's versions the record keeps: several processes may write one file, each records before it does."""

Hashes = dict[str, list[str]]


def check_file(path: Path, inputs: Iterable[Path] = (), *, root: Path | None = None, kind: str = "") -> None:
    """Refuse a place for a file where something is that we did not write, or that the command reads.

    Args:
        inputs: files and folders that the command reads.
        root: the folder whose record lists the file; its own unless given.
        kind: what the file is to be, in words; one of another kind is not replaced, nor goes with a folder that is.

    Raises:
        ConfigError: a folder or a file of somebody else is there, or it is an input.
        SetupError: no file can be made there.
    """
    path = _absolute(path)
    with writing(path):
        _refuse_inputs(path, inputs)
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; expected a place for a file. Give a file name.")
        _check_parents(path)
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"{path}: leads out of {root}. Remove the link, or choose another place.")
        if os.path.lexists(path) and not is_ours(path, root, kind):
            raise ConfigError(
                f"{path}: exists, and is not an earlier output of this command or was changed since it was written. "
                "Nothing is written over it: choose another place, or move it away."
            )


def inputs_of(*given: str | Path | None) -> list[Path]:
    """Return the files and folders that are there among what a command was given, and all files in the folders.

    Args:
        given: paths, `None` for those that were not given, or ids of models, which may be local folders.
    """
    found = [path for path in (Path(one) for one in given if one is not None) if path.exists()]
    return [*found, *(file for folder in found if folder.is_dir() for file in folder.rglob("*") if file.is_file())]


def is_ours(path: Path, root: Path | None = None, kind: str = "") -> bool:
    """Tell whether the file at `path`, or where its link leads, is of this kind and as we wrote it."""
    path = path.resolve()
    root = path.parent if root is None else root.resolve()
    if not path.is_file() or not path.is_relative_to(root):
        return False
    name = path.relative_to(root).as_posix()
    if name not in read_record(root):
        return False
    entry = _entry(kind, sha256_file(path))
    return entry in read_record(root)[name]  # read after the file: another writer records a version before it is there


def _entry(kind: str, digest: str) -> str:
    """Return what the record says of a file; whoever asks for another kind takes it for somebody else's."""
    return f"{kind} {digest}".lstrip()


def _is_plain(entries: Sequence[str]) -> bool:
    """Tell whether a file in the record is of the folder's own kind."""
    return any(" " not in entry for entry in entries)


@contextmanager
def output_file(path: Path, *, root: Path | None = None, kind: str = "") -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block succeeds; a link to earlier output is written through.

    Raises:
        ConfigError, SetupError: as `check_file`, before anything is written and again before the file appears.
    """
    check_file(path, root=root, kind=kind)
    target = path.resolve()
    root = target.parent if root is None else root.resolve()
    name = target.relative_to(root).as_posix()
    with atomic_file(target) as file:
        yield file
        file.flush()
        file.seek(0)
        digest = sha256_rest(file)
        check_file(path, root=root, kind=kind)
        _add_to_record(root, name, _entry(kind, digest))


def write_output(path: Path, content: str | bytes, *, root: Path | None = None, kind: str = "") -> None:
    """Write bytes, or text as UTF-8, as `output_file` does."""
    with output_file(path, root=root, kind=kind) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_output_json(path: Path, value: object, *, root: Path | None = None, kind: str = "") -> None:
    """Write one JSON document as `output_file` does, with a final newline."""
    write_output(path, to_json(value) + "\n", root=root, kind=kind)


def check_folder(path: Path, inputs: Iterable[Path] = (), *, kind: str = "", overwrite: bool = False) -> None:
    """Refuse a place for a folder where something is that we did not write, or that the command reads.

    Args:
        inputs: files and folders that the command reads.
        kind: what the folder is to hold, in words; one of another kind is not replaced.
        overwrite: other files in the folder are no obstacle: they stay. One at a place of ours is.

    Raises:
        ConfigError: every obstacle.
        SetupError: no folder can be made there.
    """
    path = _absolute(path)
    with writing(path):
        _check_place(path, list(inputs))
        if os.path.lexists(path):
            _check_contents(path, kind, overwrite)


def _check_place(path: Path, inputs: Sequence[Path]) -> None:
    target = path.resolve()
    _refuse_inputs(path, inputs)
    inside = [f"{item}: is read, and lies in it" for item in inputs if item.resolve().is_relative_to(target)]
    here = _absolute(Path())
    if here.is_relative_to(target):
        inside.append(f"{here}: the current folder lies in it")
    if inside:
        raise ConfigError(f"{path}: cannot become the output folder. Choose another place", inside)
    _check_parents(path)


def _check_contents(path: Path, kind: str, overwrite: bool) -> None:
    target = path.resolve()
    if not target.is_dir():
        raise ConfigError(f"{path}: is no folder; expected a place for one. Choose another place, or move it away.")
    listed = read_record(target)
    if listed and read_kind(target) != kind:
        raise ConfigError(
            f"{path}: holds {read_kind(target) or 'other results of this tool'}, and only an earlier "
            f"{kind or 'result of the same command'} is replaced. Choose another place, or move it away."
        )
    others = [file for file in foreign(target) if not is_no_obstacle(file)]
    if overwrite:
        others = [file for file in others if _is_plain(listed.get(file.relative_to(target).as_posix(), []))]
    if others:
        told = "changed since this tool wrote it" if overwrite else "not written by this tool, or changed since"
        raise ConfigError(
            f"{path}: holds what is not earlier output of this tool. Choose another place"
            + ("" if overwrite else ", move it away, or keep it there and replace the rest with --overwrite"),
            [f"{file}: {told}" for file in others],
        )


def foreign(folder: Path) -> list[Path]:
    """Return the files, links and empty folders in `folder` that its record does not list as they are.

    What a killed process left there is none of them: nobody else gives such names.
    """
    listed = read_record(folder)
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        if not folders and not files and Path(parent) != folder:
            found.append(Path(parent))
        folders[:] = [name for name in folders if not is_litter(name)]
        for name in (*files, *links):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if relative == RECORD_NAME or is_litter(name):
                continue
            may_be_ours = relative in listed and path.is_file() and not path.is_symlink()
            if not may_be_ours or sha256_file(path) not in listed[relative]:
                found.append(path)
    return sorted(found)


@contextmanager
def output_folder(path: Path, *, kind: str = "", overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `path` that takes its place when the block succeeds.

    Raises:
        ConfigError, SetupError: as `check_folder`, before anything is written and again before the folder appears.
    """
    check_folder(path, kind=kind, overwrite=overwrite)
    with folder_beside(path.resolve()) as stage:
        yield stage
        publish_folder(stage, path, kind=kind, overwrite=overwrite)


def publish_folder(stage: Path, path: Path, *, kind: str = "", overwrite: bool = False) -> None:
    """Put the folder `stage` at `path` in one step; earlier output there is afterwards at `stage`.

    Files in `path` that are not ours are in the new folder too: linked, so nobody's changes to them are lost.

    Raises:
        ConfigError, SetupError: as `check_folder`; or the file system cannot swap two folders.
    """
    check_folder(path, kind=kind, overwrite=overwrite)
    target = path.resolve()
    write_record(stage, kind)
    if not target.exists() or not any(target.iterdir()):
        with suppress(FileNotFoundError):
            target.rmdir()
        stage.rename(target)
        return
    names = [item.relative_to(target).as_posix() for item in foreign(target)]
    for name in names:
        _carry(target / name, stage / name)
    listed = read_record(target)
    _write_record(stage, read_record(stage) | {name: listed[name] for name in names if name in listed}, kind)
    try:
        exchange(stage, target)
    except OSError as error:
        raise SetupError(
            f"{path}: the folder there cannot be replaced in one step on this file system ({error.strerror}). Move it "
            "away, or choose another place."
        ) from error


def write_record(folder: Path, kind: str = "") -> None:
    """List every file in `folder` as ours, and say what the folder holds."""
    files = (item for item in folder.rglob("*") if item.is_file() and item != folder / RECORD_NAME)
    _write_record(folder, {file.relative_to(folder).as_posix(): [sha256_file(file)] for file in files}, kind)


def read_kind(folder: Path) -> str:
    """Return what a folder of ours holds, in the words of its writer; empty where that was not said."""
    path = folder / RECORD_NAME
    return str(read_json(path).get("kind", "")) if path.is_file() else ""


def read_record(folder: Path) -> Hashes:
    """Return the hashes of our files in `folder` by name, behind a file's own kind; nothing where there is no record.

    Raises:
        InputError: the record is damaged.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        return {}
    record = read_json(path)
    hashes = record.get("files") if isinstance(record, dict) else None
    if not isinstance(hashes, dict) or not all(isinstance(item, list) for item in hashes.values()):
        raise InputError(f"{path}: damaged; expected the hashes of files by name. Move it away: the files stay.")
    return hashes


def _add_to_record(folder: Path, name: str, entry: str) -> None:
    with _folder_locked(folder):
        hashes = read_record(folder)
        before = [known for known in hashes.get(name, ()) if known != entry]
        _write_record(folder, hashes | {name: [*before, entry][-KNOWN_VERSIONS:]}, read_kind(folder))


def _write_record(folder: Path, hashes: Hashes, kind: str) -> None:
    document: JsonObject = {"schema_version": 1, "kind": kind, "files": dict(sorted(hashes.items()))}
    write_json(folder / RECORD_NAME, document)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    if os.name != "posix" or folder.name.endswith(LITTER):  # a stage is locked by its writer, this process
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock_file(handle)
        yield
    finally:
        os.close(handle)


def _carry(item: Path, place: Path) -> None:
    with writing(place):
        if item.is_dir() and not item.is_symlink():
            place.mkdir(parents=True, exist_ok=True)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            raise ConfigError(
                f"{item}: is not ours, and stands where new output goes. Move it away, or choose another place."
            )
        os.link(item, place, follow_symlinks=False)


def is_no_obstacle(path: Path) -> bool:
    """Tell whether a file is of those that file managers put into folders."""
    return path.name in NO_OBSTACLES or path.name.startswith("._")


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise SetupError("the current folder does not exist any more. Change into another one.") from error


def _refuse_inputs(path: Path, inputs: Iterable[Path]) -> None:
    place, there = path.resolve(), path.stat() if path.exists() else None
    for item in inputs:
        if item.resolve() == place or (there is not None and item.exists() and os.path.samestat(item.stat(), there)):
            raise ConfigError(f"{path}: is also an input, and nothing is changed in place. Choose another place.")


def _check_parents(path: Path) -> None:
    above = next(parent for parent in path.resolve().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise ConfigError(f"{above}: is a file; expected a folder. Choose another place for {path.name}.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SetupError(f"{above}: not writable. Correct its permissions, or choose another place for {path.name}.")
