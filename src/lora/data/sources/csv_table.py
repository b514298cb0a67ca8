"""A CSV or TSV table with a header, whose rows name audio files."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lora.data.sources.base import Read
from lora.data.sources.rows import Fault, LocalSource, Row
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.tables import (
    DELIMITERS,
    ColumnNames,
    FoundColumns,
    find_columns,
    find_table,
    read_delimited,
    read_header,
    rows_of,
)
from lora.errors import SourceError


def read_csv(
    path: Path,
    *,
    selection: Selection,
    notes: Notes,
    columns: ColumnNames | None = None,
    delimiter: str | None = None,
    quotes: bool = True,
    allow_outside: bool = False,
) -> Iterator[Read]:
    """Read clips of a table; audio paths are relative to its folder.

    Columns are `audio`, `text` and, where present, `speaker_id` and `id`, unless others are named.

    Args:
        path: the table, or a folder with one table.
        delimiter: one character; by the suffix (`.csv` comma, `.tsv` tab) unless given.
        quotes: whether a quoted value may hold delimiters and line breaks.

    Raises:
        SourceError: no table, a missing column, or every fault of the rows at once; here, not in the iterator.
    """
    table = find_table(path, tuple(DELIMITERS))
    mark = (
        DELIMITERS.get(table.suffix.lower())
        if delimiter is None
        else {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    )
    if mark is None or len(mark) != 1 or mark in '"\r\n':
        got = f"the suffix {table.suffix!r}" if mark is None else repr(mark)
        raise SourceError(f"{table}: got {got} for the delimiter; expected one character, for example --delimiter ';'.")
    found = find_columns(read_header(table, mark, quotes=quotes), columns or ColumnNames(), str(table))
    listing = partial(_list_rows, table, mark, quotes, found)
    return LocalSource(str(table), table.parent, listing, allow_outside).open(selection, notes)


def _list_rows(table: Path, delimiter: str, quotes: bool, columns: FoundColumns) -> Iterator[Row | Fault]:
    return rows_of(read_delimited(table, delimiter, quotes=quotes), columns)
