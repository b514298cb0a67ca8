"""What killed commands left: known by name and content, and removed where no command would go on from it.

Importing this module loads no torch.
"""

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lora.config import option
from lora.data.audio_folder import digest_in_name, is_intact, named_digests
from lora.data.sources.staging import PARTIAL
from lora.errors import ConfigError
from lora.escape import printable
from lora.files import is_litter, is_own, remove_litter

MANIFEST_SUFFIXES = {".jsonl", ".json", ".txt"}
"""What manifests are called, except beside their audio: there every file may be one."""
RUN_FILE, RUN_ENDS = "run.json", ".partial"
_BUILD = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(PARTIAL)}", re.DOTALL)
# Version 0.1.0 gave its litter names that other programs may give, too.
_OLD_BUILD = re.compile(r"\..+\.[0-9a-f]{16}\.partial", re.DOTALL)
_OLD_FILE = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
_OLD_SCRATCH = re.compile(r"moonshine-(lora-(trial-|process-)?|private-\d+-|latency-)[a-z0-9_]{8}")
_OLD_CONTENT = {
    "audio",
    "journal.jsonl",
    "committing",
    "lora_adapter",
    "processor",
    "history.jsonl",
    "tensorboard",
    "takes",
    "taught",
    "model.log",
}


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """Options of `clean`."""

    folders: list[Path] = option(
        default_factory=list,
        positional=True,
        help="folders to look through, with all below; the current one and the system's temporary one unless given",
    )
    dry_run: bool = option(False, help="only list what would be removed")
    older_than: float = option(
        24.0, help="hours; younger builds and audio stay, because the same command would go on from them"
    )


@dataclass(frozen=True)
class Left:
    """Something that a killed command may have left.

    Attributes:
        kept: why it stays whatever its age; empty where it may go.
        at_once: its age does not matter, because a lock tells whether a process is still at it.
    """

    path: Path
    what: str
    kept: str = ""
    at_once: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    left: Left
    size: int
    age_h: float
    action: str
    removed: bool


def clean(options: CleanOptions) -> str:
    """Remove what killed commands left, and return a table of it.

    Raises:
        ConfigError: a folder that is not there, or a negative age.
    """
    roots = options.folders or [Path.cwd(), Path(tempfile.gettempdir())]
    problems = [f"{root}: no such folder" for root in roots if not root.is_dir()]
    if options.older_than < 0:
        problems.append(f"--older-than: got {options.older_than}, expected 0 or more hours")
    if problems:
        raise ConfigError("clean cannot start", problems)
    found = {left.path: left for root in roots for left in find(root.resolve())}
    return table([_settle(left, options) for _, left in sorted(found.items())], dry_run=options.dry_run)


def find(root: Path) -> Iterator[Left]:
    """Yield what killed commands left in a folder and below; links are not followed."""
    audio: list[Path] = []
    manifests = [path for above in root.parents for path in _manifests_in(above)]
    for parent, folders, files in os.walk(root):
        manifests += [path for path in map(Path(parent).joinpath, files) if path.suffix in MANIFEST_SUFFIXES]
        for name in sorted([*folders, *files]):
            path = Path(parent) / name
            if path.is_symlink():
                continue
            left = _classify(path)
            if left is not None or digest_in_name(path) is not None:
                folders[:] = [folder for folder in folders if folder != name]
            if left is not None:
                yield left
            elif path.is_dir() and digest_in_name(path) is not None:
                audio.append(path)
    yield from _unnamed(audio, manifests)


def _classify(path: Path) -> Left | None:
    name, is_folder = path.name, path.is_dir()
    if is_litter(name):
        return Left(path, "half written", at_once=True)
    if is_folder and _BUILD.fullmatch(name):
        return Left(path, "unfinished build")
    if is_folder and name.endswith(RUN_ENDS) and (path / RUN_FILE).is_file():
        return Left(path, "unfinished training", "go on with --resume, or discard it with --restart")
    in_temporary = path.parent == Path(tempfile.gettempdir()).resolve()
    if is_folder and (_OLD_BUILD.fullmatch(name) or (in_temporary and _OLD_SCRATCH.fullmatch(name))):
        known = {item.name for item in path.iterdir()} <= _OLD_CONTENT if is_own(path) else False
        return Left(path, "left by version 0.1.0", "" if known else "its content is not known")
    if path.is_file() and _OLD_FILE.fullmatch(name):
        return Left(path, "perhaps left by version 0.1.0", "other programs give such names, too")
    return None


def _manifests_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix in MANIFEST_SUFFIXES]
    except PermissionError:
        return []  # who cannot list a folder writes no manifest there


def _unnamed(folders: Sequence[Path], manifests: Sequence[Path]) -> Iterator[Left]:
    """Yield the audio folders that no manifest names, of those below and above."""
    if not folders:
        return
    named, unread = set(), ""
    beside = [path for parent in {folder.parent for folder in folders} for path in parent.iterdir()]
    for path in sorted({path for path in (*manifests, *beside) if path.is_file()}):
        try:
            named |= named_digests(path)
        except OSError:
            unread = f"{path} may name it, and cannot be read"
    for folder in folders:
        if digest_in_name(folder) not in named:
            kept = unread or ("" if is_intact(folder) else "it was changed")
            yield Left(folder, "audio that no manifest names", printable(kept))


def _settle(left: Left, options: CleanOptions) -> Outcome:
    size, changed = _measure(left.path)
    age_h = (time.time() - changed) / 3600
    outcome = partial(Outcome, left, size, age_h)
    if not is_own(left.path):
        return outcome("kept: another user's", False)
    if left.kept:
        return outcome(f"kept: {left.kept}", False)
    if not left.at_once and age_h < options.older_than:
        return outcome(f"kept: younger than {options.older_than:g} hours", False)
    if options.dry_run:
        return outcome("would be removed", True)
    try:
        removed = remove_litter(left.path)
    except OSError as error:
        return outcome(f"not removed: {error.strerror}", False)
    return outcome("removed" if removed else "kept: in use", removed)


def _measure(path: Path) -> tuple[int, float]:
    """Return the bytes in a file or folder, and when it or anything in it last changed."""
    size, changed = 0, 0.0
    below = (Path(parent) / name for parent, folders, files in os.walk(path) for name in (*folders, *files))
    for item in (path, *below):
        with suppress(FileNotFoundError):  # whoever is at it removes it just now
            status = item.lstat()
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
            # A folder's own change, which `touch` cannot put back, is when it came to its name.
            changed = max(changed, status.st_mtime, status.st_ctime if item == path else 0.0)
    return size, changed


def table(outcomes: Sequence[Outcome], *, dry_run: bool) -> str:
    """Return one line for each, and their sum."""
    rows = [("size", "age", "what", "action", "where")] if outcomes else []
    rows += [
        (_bytes(one.size), _age(one.age_h), one.left.what, one.action, printable(one.left.path)) for one in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    lines = ["  ".join([*map(str.ljust, row, widths), row[4]]) for row in rows]
    parts: list[tuple[str, Callable[[Outcome], bool]]] = [
        ("would be removed" if dry_run else "removed", lambda one: one.removed),
        ("kept", lambda one: not one.removed),
    ]
    sums = [
        f"{len(own)} {verb}, {_bytes(sum(one.size for one in own))}"
        for verb, is_part in parts
        for own in [[one for one in outcomes if is_part(one)]]
    ]
    return "\n".join([*lines, "; ".join(sums)])


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _age(hours: float) -> str:
    return (
        f"{max(hours, 0) * 60:.0f} min" if hours < 1 else f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
    )
