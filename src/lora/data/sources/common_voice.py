"""Common Voice as unpacked: `clips/` and one TSV a split, with `path`, `sentence` and `client_id`."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from lora.data.sources.base import Read
from lora.data.sources.rows import Fault, LocalSource, Row
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.tables import ColumnNames, FoundColumns, find_columns, read_delimited, read_header, to_row
from lora.errors import SourceError

DEFAULT_SPLIT = "train"
KEPT_COLUMNS = ("age", "gender", "accent", "accents", "locale", "variant")
_TABLES_WITHOUT_CLIPS = ("reported", "clip_durations", "validated_sentences", "unvalidated_sentences", "times")
# Some releases quote a sentence that has quotes, others write every character as it is.
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def read_common_voice(
    path: Path,
    *,
    split: str | None,
    selection: Selection,
    notes: Notes,
    columns: ColumnNames | None = None,
    allow_outside: bool = False,
) -> Iterator[Read]:
    """Read clips of a Common Voice release.

    `client_id` is the speaker; age, gender, accent and locale are kept where they are filled in.

    Args:
        path: the folder of one language, or one of its TSV files.
        split: name of the TSV without its suffix; `train` unless given.

    Raises:
        SourceError: another layout, no such split, or every fault of the rows at once.
    """
    table = path if path.is_file() and split is None else _find_split(path, split or DEFAULT_SPLIT)
    named = columns or ColumnNames()
    named = replace(named, speaker=named.speaker or "client_id")
    header = read_header(table, "\t", quotes=False)
    found = find_columns(header, named, str(table), audio=("path",), text=("sentence",))
    return LocalSource(str(table), table.parent, partial(_list_rows, table, found), allow_outside).open(
        selection, notes
    )


def _find_split(folder: Path, split: str) -> Path:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; expected that of a Common Voice language. Check the path.")
    splits = sorted(file.stem for file in folder.glob("*.tsv") if file.stem not in _TABLES_WITHOUT_CLIPS)
    if split not in splits:
        raise SourceError(f"{folder}: no split {split!r}; expected one of {', '.join(splits) or 'none: no TSV files'}.")
    return folder / f"{split}.tsv"


def _list_rows(table: Path, columns: FoundColumns) -> Iterator[Row | Fault]:
    for place, record in read_delimited(table, "\t", quotes=False):
        if isinstance(record, Fault):
            yield record
            continue
        values = {name: _unquote(value) for name, value in record.items()}
        row = to_row(values, columns, place, prefix="clips/")
        extra = {name: values[name] for name in KEPT_COLUMNS if values.get(name)}
        yield row if isinstance(row, Fault) else replace(row, id=row.id or Path(row.audio).stem, extra=extra)


def _unquote(value: str) -> str:
    match = _QUOTED.fullmatch(value)
    return match[1].replace('""', '"') if match else value
