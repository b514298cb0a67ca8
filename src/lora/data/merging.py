"""One manifest of several."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lora.data.leakage import transcript_key
from lora.data.manifest import Utterance, iter_manifest
from lora.data.manifest_tools import Tick, measure_all
from lora.data.partition import Measured
from lora.data.placement import with_origin, write_placed
from lora.errors import ManifestError
from lora.outputs import check_file

Duplicates = Literal["refuse", "drop", "keep"]
Place = tuple[int, str]
"""The number of an input, and an id in it."""


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did. `dropped` names each utterance that was left out, and the one it repeats."""

    path: Path
    utterances: int
    copied: int
    renamed: int
    dropped: tuple[str, ...]


def merge_manifests(
    paths: Sequence[Path],
    output: Path,
    *,
    duplicates: Duplicates = "refuse",
    allow_outside: bool = False,
    tick: Tick | None = None,
) -> MergeSummary:
    """Write one manifest of several, with `origin` in every row.

    An id that two of them use gets its manifest's name in front. Audio that is the same after preparation, or likely
    the same recording, is a duplicate: refused, or dropped after its first appearance, or kept.

    Raises:
        ManifestError: duplicates under "refuse", all of them; faults of an input.
        ConfigError: an output that is an input, or is not ours.
    """
    check_file(output, paths)
    if len({path.resolve() for path in paths}) < len(paths):
        raise ManifestError("merge: one manifest is given twice. Name each once.")
    skipped: dict[Place, str] = {}
    if duplicates == "keep":
        ids = [[utterance.id for utterance in iter_manifest(path, allow_outside=allow_outside)] for path in paths]
    else:
        measured = measure_all(paths, allow_outside=allow_outside, tick=tick)
        ids = [[row.id for row in rows] for rows in measured]
        skipped = _find_duplicates(paths, measured)
        if skipped and duplicates == "refuse":
            raise ManifestError(
                f"{len(skipped)} utterance(s) repeat audio. Pass --duplicates drop to keep the first of each, or "
                "--duplicates keep for all.",
                list(skipped.values()),
            )
    kept = [(number, name) for number, names in enumerate(ids) for name in names if (number, name) not in skipped]
    names = _unique_ids(kept, _labels(paths))

    def entries() -> Iterator[Utterance]:
        for number, path in enumerate(paths):
            for utterance in iter_manifest(path, allow_outside=allow_outside):
                if (number, utterance.id) in names:
                    extra = with_origin(utterance, path)
                    yield replace(utterance, id=names[number, utterance.id], extra=extra)

    copied = write_placed(output, entries())
    renamed = sum(name != place[1] for place, name in names.items())
    return MergeSummary(output, len(kept), copied, renamed, tuple(skipped.values()))


def _find_duplicates(paths: Sequence[Path], measured: Sequence[Sequence[Measured]]) -> dict[Place, str]:
    first: dict[int | None, tuple[Path, Measured]] = {}
    found: dict[Place, str] = {}
    for number, (path, rows) in enumerate(zip(paths, measured, strict=True)):
        for row in rows:
            before = first.setdefault(row.row.recording, (path, row))
            if before[1] is row:
                continue
            is_same = row.row.audio_sha256 == before[1].row.audio_sha256
            what = "has the audio of" if is_same else "is likely the same recording as"
            line = f"{row.row.place}: {row.id!r} {what} {before[1].id!r} ({before[1].row.place})"
            if transcript_key(row.row.text) != transcript_key(before[1].row.text):
                line += f", but another text: {row.row.text[:60]!r} and {before[1].row.text[:60]!r}"
            found[number, row.id] = line
    return found


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each manifest: its stem, numbered where two have the same."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}{stems[:number].count(stem) + 1}"
        for number, stem in enumerate(stems)
    ]


def _unique_ids(places: Sequence[Place], labels: Sequence[str]) -> dict[Place, str]:
    counts: dict[str, int] = defaultdict(int)
    for _, name in places:
        counts[name.casefold()] += 1
    taken = {name.casefold() for _, name in places if counts[name.casefold()] == 1}
    ids: dict[Place, str] = {}
    for number, name in places:
        new = name
        if counts[name.casefold()] > 1:
            new = f"{labels[number]}-{name}"
            while new.casefold() in taken:
                new += "_"
            taken.add(new.casefold())
        ids[number, name] = new
    return ids
