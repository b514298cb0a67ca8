"""A NeMo manifest: JSON lines with `audio_filepath`, `text`, `duration` and, for a part of a file, `offset`."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lora.data.audio_paths import AudioFolder
from lora.data.sources.base import Read
from lora.data.sources.recording import audio_seconds
from lora.data.sources.rows import Fault, LocalSource, Row, find_audio
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.tables import ColumnNames, Record, find_columns, find_table, read_json_lines, to_row
from lora.errors import AudioError, SourceError
from lora.units import Seconds

SUFFIXES = (".json", ".jsonl")
MAX_DIFFERENCE_SECONDS = 0.1
"""Durations are rounded, and an MP3 header is out by a frame or two."""


def read_nemo(
    path: Path,
    *,
    selection: Selection,
    notes: Notes,
    columns: ColumnNames | None = None,
    allow_outside: bool = False,
) -> Iterator[Read]:
    """Read clips of a NeMo manifest; audio paths are relative to its folder.

    With `offset` a row means the part of `duration` from there on; without, the whole file, and a
    `duration` that does not fit it is a fault. NeMo itself writes absolute paths, which need `allow_outside`.

    Raises:
        SourceError: no manifest, or every fault of the rows at once; here, not in the iterator.
    """
    table = find_table(path, SUFFIXES)
    return LocalSource(
        str(table), table.parent, partial(_list_rows, table, columns or ColumnNames(), allow_outside), allow_outside
    ).open(selection, notes)


def _list_rows(table: Path, named: ColumnNames, allow_outside: bool) -> Iterator[Row | Fault]:
    lengths = _Lengths(AudioFolder(table.parent, allow_outside=allow_outside))
    for place, record in read_json_lines(table):
        if isinstance(record, Fault):
            yield record
            continue
        try:
            columns = find_columns(list(record), named, place, audio=("audio_filepath",), text=("text",))
        except SourceError as error:
            yield Fault(f"{place}: {'; '.join(error.problems)}.")
            continue
        row = to_row(record, columns, place)
        yield row if isinstance(row, Fault) else _with_part(row, record, lengths)


def _with_part(row: Row, record: Record, lengths: "_Lengths") -> Row | Fault:
    for key in ("offset", "duration"):
        value: Any = record.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
        ):
            return Fault(f"{row.place}: {key} is {value!r:.40}; expected seconds, 0 or more.")
    offset, duration = record.get("offset"), record.get("duration")
    if offset is not None and not duration:
        return Fault(f"{row.place}: offset without a duration above 0; expected both. Fix the row.")
    if duration is None:
        return row
    length = lengths.of(row.audio)
    if length is None:  # the audio is missing or is none; the check of the rows says which
        return row
    if offset is None and abs(duration - length) > max(MAX_DIFFERENCE_SECONDS, 0.01 * length):
        return Fault(
            f"{row.place}: duration is {duration:g} s, but {row.audio} has {length:.3f} s. Correct it, or give an "
            "offset if a part is meant."
        )
    if offset is None:
        return row
    if offset + duration > length + MAX_DIFFERENCE_SECONDS / 2:
        return Fault(f"{row.place}: the part ends at {offset + duration:g} s, but {row.audio} has {length:.3f} s.")
    return replace(row, start_s=float(offset), seconds=float(duration))


class _Lengths:
    """Lengths of audio files by header; the last one is kept, because the parts of a file follow one another."""

    def __init__(self, folder: AudioFolder) -> None:
        self._folder = folder
        self._last: tuple[str, Seconds | None] = ("", None)

    def of(self, written: str) -> Seconds | None:
        if written != self._last[0]:
            file, _ = find_audio(self._folder, written)
            try:
                self._last = written, None if file is None else audio_seconds(file)
            except AudioError:
                self._last = written, None
        return self._last[1]
