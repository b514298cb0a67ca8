"""Repair by removal: new manifests without the utterances that have removable faults. Nothing is changed in place."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.data.check.doctor import Check
from lora.data.check.rows import CheckedRow, read_rows
from lora.data.findings import RULES
from lora.data.manifest import Utterance
from lora.data.placement import write_placed
from lora.errors import ConfigError, ManifestError
from lora.files import folder_beside, write_jsonl
from lora.outputs import check_folder, foreign, is_no_obstacle, publish_folder, read_record, write_record
from lora.units import JsonObject

REMOVED_NAME = "removed.jsonl"
KIND = "a repair by `check --fix`"


@dataclass(frozen=True)
class Fixed:
    """What a repair wrote: the new path of each manifest, and how many utterances were kept and removed."""

    manifests: dict[str, Path]
    kept: int
    removed: int


def write_fixed(check: Check, output: Path, *, also: Collection[str] = (), allow_outside: bool) -> Fixed:
    """Write every manifest of `check` into the new folder `output` without the removable errors.

    Audio files are hard-linked into `<stem>_audio-<hash>/` beside the new manifest, or copied where the file
    system cannot link, so the folder stands on its own. `removed.jsonl` says what went and why.

    Args:
        also: codes of warnings whose utterances go too.

    Raises:
        ConfigError: an unknown or not removable code in `also`, or `output` holds anything but the same repair.
        ManifestError: nothing would be left of a manifest.
    """
    wrong = [code for code in also if code not in RULES or not RULES[code].removable]
    if wrong:
        raise ConfigError(f"cannot remove by {', '.join(wrong)}: not the code of a fault that removal mends.")
    check_place(output, map(Path, check.rows))
    names = _new_names([Path(path) for path in check.rows])
    removed: list[JsonObject] = []
    kept = 0
    with folder_beside(output.resolve()) as stage:
        for path, rows in check.rows.items():
            reasons = {row.line: found for row in rows if (found := _reasons(row, also))}
            if len(reasons) == len(rows):
                raise ManifestError(f"{path}: every one of its {len(rows)} rows has a fault; nothing would be left.")
            kept += len(rows) - len(reasons)
            removed += [_removal(row, reasons[row.line]) for row in rows if row.line in reasons]
            target = stage / f"{names[Path(path)]}.jsonl"
            write_placed(target, _keep(Path(path), set(reasons), allow_outside), link=True)
        write_jsonl(stage / REMOVED_NAME, removed)
        _publish(stage, output)
    return Fixed({str(path): output / f"{name}.jsonl" for path, name in names.items()}, kept, len(removed))


def check_place(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse a folder that holds anything but an earlier repair.

    Raises:
        ConfigError: it does, or one of `inputs` lies in it.
        SetupError: no folder can be made there.
    """
    others = [path for path in foreign(output) if not is_no_obstacle(path)] if output.is_dir() else []
    if others:
        raise ConfigError(f"{output}: holds what is not an earlier repair. Name a new folder", list(map(str, others)))
    check_folder(output, inputs, kind=KIND)


def _publish(stage: Path, output: Path) -> None:
    """Put the repair at its place, or find it there: other manifests may name the audio of an older one."""
    write_record(stage, KIND)
    earlier = read_record(output)
    if earlier and earlier != read_record(stage):
        raise ConfigError(f"{output}: holds another repair. Name a new folder, or move this one away.")
    if not earlier:
        publish_folder(stage, output, kind=KIND)


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


def _keep(path: Path, dropped: Collection[int], allow_outside: bool) -> Iterator[Utterance]:
    for number, utterance, _, _ in read_rows(path, allow_outside=allow_outside):
        if utterance is not None and number not in dropped:
            yield utterance
