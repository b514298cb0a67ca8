"""Repair by removal: new manifests without the utterances that have removable faults. Nothing is changed in place."""

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lora.data.check.doctor import Check
from lora.data.check.rows import CheckedRow, read_rows
from lora.data.findings import RULES
from lora.data.manifest import Utterance, write_manifest
from lora.errors import ConfigError, ManifestError
from lora.files import write_jsonl
from lora.outputs import output_folder
from lora.units import JsonObject

REMOVED_NAME = "removed.jsonl"


@dataclass(frozen=True)
class Fixed:
    """What a repair wrote: the new path of each manifest, and how many utterances were kept and removed."""

    manifests: dict[str, Path]
    kept: int
    removed: int


def write_fixed(check: Check, output: Path, *, also: Collection[str] = (), allow_outside: bool) -> Fixed:
    """Write every manifest of `check` into the new folder `output` without the removable errors.

    Audio files are hard-linked into `<stem>_audio/` beside the new manifest, or copied where the file
    system cannot link, so the folder stands on its own. `removed.jsonl` says what went and why.

    Args:
        also: codes of warnings whose utterances go too.

    Raises:
        ConfigError: an unknown or not removable code in `also`, or `output` exists with something in it.
        ManifestError: nothing would be left of a manifest.
    """
    wrong = [code for code in also if code not in RULES or not RULES[code].removable]
    if wrong:
        raise ConfigError(f"cannot remove by {', '.join(wrong)}: not the code of a fault that removal mends.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: already exists and is not an empty folder. Name a new one.")
    names = _new_names([Path(path) for path in check.rows])
    removed: list[JsonObject] = []
    kept = 0
    with output_folder(output) as stage:
        for path, rows in check.rows.items():
            reasons = {row.line: found for row in rows if (found := _reasons(row, also))}
            if len(reasons) == len(rows):
                raise ManifestError(f"{path}: every one of its {len(rows)} rows has a fault; nothing would be left.")
            kept += len(rows) - len(reasons)
            removed += [_removal(row, reasons[row.line]) for row in rows if row.line in reasons]
            target = stage / f"{names[Path(path)]}.jsonl"
            write_manifest(target, _keep(Path(path), target, set(reasons), allow_outside))
        write_jsonl(stage / REMOVED_NAME, removed)
    return Fixed({str(path): output / f"{name}.jsonl" for path, name in names.items()}, kept, len(removed))


def _reasons(row: CheckedRow, also: Collection[str]) -> list[str]:
    return [
        code for code, _ in row.faults if RULES[code].removable and (RULES[code].severity == "error" or code in also)
    ]


def _removal(row: CheckedRow, codes: list[str]) -> JsonObject:
    return {
        "manifest": row.manifest,
        "line": row.line,
        "id": row.id,
        "codes": sorted(set(codes)),
        "details": [detail for code, detail in row.faults if code in codes],
        "text": row.text,
    }


def _new_names(paths: list[Path]) -> dict[Path, str]:
    """Return a file stem for each manifest; the second of two with one stem gets a number."""
    names: dict[Path, str] = {}
    for path in paths:
        name, number = path.stem, 1
        while name in names.values():
            number += 1
            name = f"{path.stem}-{number}"
        names[path] = name
    return names


def _keep(path: Path, target: Path, dropped: Collection[int], allow_outside: bool) -> Iterator[Utterance]:
    root = path.parent.resolve()
    folder = target.parent / f"{target.stem}_audio"
    for number, utterance, _, _ in read_rows(path, allow_outside=allow_outside):
        if utterance is None or number in dropped:
            continue
        if isinstance(utterance.audio, Path):
            utterance = replace(utterance, audio=_bring(utterance.audio.resolve(), root, folder))
        yield utterance


def _bring(source: Path, root: Path, folder: Path) -> Path:
    """Link or copy `source` to the same relative place under `folder`; two rows may name one file."""
    relative = source.relative_to(root) if source.is_relative_to(root) else Path("outside", *source.parts[1:])
    target = folder / PurePosixPath(relative.as_posix())
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    return target
