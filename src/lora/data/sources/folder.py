"""A folder of audio: each file with its transcript beside it, or named by a `metadata.csv` or `.jsonl`."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora.data.sources.base import Read
from lora.data.sources.recording import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from lora.data.sources.rows import Fault, LocalSource, Row
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.tables import (
    ColumnNames,
    FoundColumns,
    Records,
    find_columns,
    read_delimited,
    read_header,
    read_json_lines,
    to_row,
)
from lora.errors import SourceError

METADATA = ("metadata.csv", "metadata.jsonl")
AUDIO_COLUMNS = ("file_name",)
TEXT_COLUMNS = ("text", "transcription")
MAX_TRANSCRIPT_BYTES = 2**20
MAX_SHOWN = 5


def read_folder(
    path: Path,
    *,
    split: str | None,
    selection: Selection,
    notes: Notes,
    columns: ColumnNames | None = None,
    speaker_folders: bool = False,
    allow_outside: bool = False,
) -> Iterator[Read]:
    """Read clips of a folder and its subfolders.

    With `metadata.csv` or `metadata.jsonl` in it (the layout `audiofolder` of `datasets`) the files that
    it names are read; without, every audio file, whose text is in the file `.txt` of the same name.

    Args:
        split: subfolder to read, such as `train`.
        speaker_folders: the first subfolder names the speaker.

    Raises:
        SourceError: no such folder, two metadata files, or every fault of the rows at once.
    """
    folder = path if split is None else path / split
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder. Check the path.")
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise SourceError(f"{folder}: has metadata.csv and metadata.jsonl; expected one. Remove or rename the other.")
    named = columns or ColumnNames()
    if found:
        listing = partial(_list_metadata, found[0], _columns_of(found[0], named), speaker_folders)
    elif named != ColumnNames():
        raise SourceError(
            f"{folder}: columns are named, but there is no metadata.csv or metadata.jsonl. Leave them out."
        )
    else:
        _note_lone_texts(folder, notes)
        listing = partial(_list_files, folder, speaker_folders)
    return LocalSource(str(folder), folder, listing, allow_outside).open(selection, notes)


def _columns_of(table: Path, named: ColumnNames) -> FoundColumns:
    if table.suffix == ".csv":
        present = read_header(table, ",")
    else:
        # Keys that are null may be left out of a row, so the first rows say together which there are.
        present = []
        for _, (_, record) in zip(range(100), read_json_lines(table), strict=False):
            present += [] if isinstance(record, Fault) else [key for key in record if key not in present]
    return find_columns(present, named, str(table), audio=AUDIO_COLUMNS, text=TEXT_COLUMNS)


def _list_metadata(table: Path, columns: FoundColumns, speaker_folders: bool) -> Iterator[Row | Fault]:
    records: Records = read_delimited(table, ",") if table.suffix == ".csv" else read_json_lines(table)
    for place, record in records:
        row = record if isinstance(record, Fault) else to_row(record, columns, place)
        yield row if isinstance(row, Fault) else _with_speaker(row, speaker_folders)


def _list_files(folder: Path, speaker_folders: bool) -> Iterator[Row | Fault]:
    for file in walk(folder):
        if isinstance(file, Fault):
            yield file
            continue
        suffix = file.suffix.lower()
        if suffix in FOREIGN_SUFFIXES:
            yield Fault(f"{file}: {suffix} cannot be read. Convert it to WAV or FLAC, or move it out.")
        elif suffix in AUDIO_SUFFIXES:
            yield _read_file(file, folder, speaker_folders)


def _read_file(file: Path, folder: Path, speaker_folders: bool) -> Row | Fault:
    transcript = file.with_suffix(".txt")
    try:
        # A link would bring in the text of any file of this machine.
        status = transcript.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_TRANSCRIPT_BYTES:
            return Fault(
                f"{transcript}: is no regular file of at most {MAX_TRANSCRIPT_BYTES} bytes. Put the text there."
            )
        text = transcript.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return Fault(
            f"{file}: has no transcript; expected {transcript.name} beside it. Write one, or move the audio out."
        )
    except (OSError, UnicodeDecodeError) as error:
        return Fault(f"{transcript}: cannot be read as UTF-8 text ({error}). Save it as UTF-8.")
    return _with_speaker(Row(str(file), file.relative_to(folder).as_posix(), text), speaker_folders)


def _with_speaker(row: Row, speaker_folders: bool) -> Row | Fault:
    if not speaker_folders:
        return row
    first, slash, _ = row.audio.partition("/")
    if not slash:
        return Fault(
            f"{row.place}: lies in no subfolder, so it has no speaker. Move it, or leave out --speaker-folders."
        )
    return replace(row, speaker_id=first)


def _note_lone_texts(folder: Path, notes: Notes) -> None:
    count, shown = 0, []
    for file in walk(folder):
        if isinstance(file, Path) and file.suffix == ".txt" and not _has_audio(file):
            count += 1
            shown += [file.relative_to(folder).as_posix()] if count <= MAX_SHOWN else []
    if count:
        names = ", ".join([*shown, *(["..."] if count > MAX_SHOWN else [])])
        notes.lines.append(f"passed over {count} text file(s) without audio: {names}")


def _has_audio(transcript: Path) -> bool:
    suffixes = AUDIO_SUFFIXES + FOREIGN_SUFFIXES
    return any(transcript.with_suffix(case).exists() for suffix in suffixes for case in (suffix, suffix.upper()))


def walk(folder: Path) -> Iterator[Path | Fault]:
    """Yield the files below a folder, sorted, hidden ones left out; a link to a folder is a fault."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name[0] != ".")
    for name, is_folder in found:
        path = folder / name
        if is_folder:
            yield from walk(path)
        elif path.is_symlink() and path.is_dir():
            yield Fault(f"{path}: is a link to a folder, which is not followed. Give the folder itself by --path.")
        else:
            yield path
