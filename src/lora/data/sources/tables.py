"""Tables as text files: CSV, TSV and JSON lines, one record at a time with its line.

A column is found by the name that the caller gives, or by a default; a table without it is refused with
the columns that it has.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.bounded import parse_json
from lora.data.manifest import MAX_ROW_BYTES
from lora.data.sources.rows import Fault, Row
from lora.errors import SourceError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
TABLE_SUFFIXES = (*DELIMITERS, ".json", ".jsonl")
MAX_FIELD_CHARACTERS = 2**20

Record = Mapping[str, Any]
Records = Iterator[tuple[str, Record | Fault]]


@dataclass(frozen=True)
class ColumnNames:
    """Columns that the caller names; `None` means the source's own default."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class FoundColumns:
    """The columns of one table. Speaker and id may be absent."""

    audio: str
    text: str
    speaker: str | None
    id: str | None


def find_columns(
    present: Sequence[str],
    named: ColumnNames,
    name: str,
    *,
    audio: Sequence[str] = ("audio",),
    text: Sequence[str] = ("text",),
) -> FoundColumns:
    """Return the columns to read. A manifest's own names `speaker_id` and `id` are found without being named.

    Args:
        audio, text: default names; exactly one of them must be present where none is named.

    Raises:
        SourceError: listing every column that is missing, and those present.
    """
    problems: list[str] = []

    def pick(role: str, given: str | None, defaults: Sequence[str], required: bool) -> str | None:
        if given is not None:
            if given not in present:
                problems.append(f"{role} column {given!r} does not exist")
            return given
        found = [column for column in defaults if column in present]
        if required and len(found) != 1:
            what = f"columns {' and '.join(found)} both exist" if found else f"no column {' or '.join(defaults)}"
            problems.append(f"{role}: {what}; name it by --{role}-column")
        return found[0] if found else None

    columns = FoundColumns(
        pick("audio", named.audio, audio, True) or "",
        pick("text", named.text, text, True) or "",
        pick("speaker", named.speaker, ("speaker_id",), False),
        pick("id", named.id, ("id",), False),
    )
    if problems:
        listed = ", ".join(map(repr, present))
        raise SourceError(f"{name}: {len(problems)} wrong column(s). Present are: {listed:.1000}.", problems)
    return columns


def to_row(record: Record, columns: FoundColumns, place: str, prefix: str = "") -> Row | Fault:
    """Return the row of a record, its audio path under `prefix`; a fault where a value has a wrong type."""
    audio, text = record.get(columns.audio), record.get(columns.text)
    speaker = None if columns.speaker is None else record.get(columns.speaker)
    identifier = None if columns.id is None else record.get(columns.id)
    if not isinstance(audio, str) or not isinstance(text, str):
        wrong = columns.audio if not isinstance(audio, str) else columns.text
        return Fault(f"{place}: {wrong} is {record.get(wrong, 'missing')!r:.80}; expected text.")
    for name, value in ((columns.speaker, speaker), (columns.id, identifier)):
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            return Fault(f"{place}: {name} is {value!r:.80}; expected text or a whole number.")
    if columns.id is not None and (identifier is None or identifier == ""):
        return Fault(f"{place}: {columns.id} is empty; expected an id. Fix the row, or name another id column.")
    speaker = None if isinstance(speaker, str) and not speaker.strip() else speaker
    return Row(place, prefix + audio if audio else "", text, None if identifier is None else str(identifier), speaker)


def read_header(path: Path, delimiter: str, *, quotes: bool = True) -> list[str]:
    """Return the column names of a delimited table.

    Raises:
        SourceError: no table, no header, or a name twice.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such table. Check the path.")
    header = next(_lines(path, delimiter, quotes), None)
    if header is None or isinstance(header[1], str) or not any(header[1]):
        reason = f" ({header[1]})" if header is not None and isinstance(header[1], str) else ""
        raise SourceError(f"{path}: no header{reason}; expected the column names in the first line.")
    names = header[1]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(f"{path}: column(s) {', '.join(map(repr, repeated))} appear twice. Rename one.")
    if len(names) == 1 and any(mark in names[0] for mark in ",;\t|"):
        raise SourceError(f"{path}: the header {names[0]!r:.80} has one column. Name the delimiter by --delimiter.")
    return names


def read_delimited(path: Path, delimiter: str, *, quotes: bool = True) -> Records:
    """Yield each record of a delimited table under its header, with its place.

    A byte order mark is passed over, as are empty lines.
    """
    header = read_header(path, delimiter, quotes=quotes)
    lines = _lines(path, delimiter, quotes)
    next(lines)
    for line, values in lines:
        place = f"{path}:{line}"
        if isinstance(values, str):
            yield place, Fault(f"{place}: {values}")
        elif values and len(values) != len(header):
            yield place, Fault(f"{place}: {len(values)} values; expected {len(header)}, one a column. Fix the row.")
        elif values:
            yield place, dict(zip(header, values, strict=True))


def _lines(path: Path, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the first line of each record with its values, or with what is wrong with it."""
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    style: dict[str, Any] = {"strict": True} if quotes else {"quoting": csv.QUOTE_NONE}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, **style)
            while True:
                start = reader.line_num + 1
                try:
                    yield start, next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield start, f"not a row of a table ({error}). Fix its quotes, or pass --no-quotes if it has none."
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error


def read_json_lines(path: Path) -> Records:
    """Yield each JSON object of a file with its place; empty lines are passed over.

    Raises:
        SourceError: no such file.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file. Check the path.")
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            place = f"{path}:{number}"
            if len(raw) > MAX_ROW_BYTES:
                yield place, Fault(f"{place}: the line is longer than {MAX_ROW_BYTES} bytes. Expected JSON lines.")
                return
            if not raw.strip():
                continue
            try:
                record = parse_json(raw.decode("utf-8-sig"))
            except ValueError as error:
                yield place, Fault(f"{place}: not valid JSON ({error!s:.100}). Expected one object a line.")
                continue
            is_object = isinstance(record, dict)
            yield place, record if is_object else Fault(f"{place}: expected a JSON object; got {record!r:.80}.")


def rows_of(
    records: Iterable[tuple[str, Record | Fault]], columns: FoundColumns, prefix: str = ""
) -> Iterator[Row | Fault]:
    """Yield the row of each record."""
    for place, record in records:
        yield record if isinstance(record, Fault) else to_row(record, columns, place, prefix)


def find_table(path: Path, suffixes: Sequence[str]) -> Path:
    """Return the table that `path` is, or the only one in the folder that it is.

    Raises:
        SourceError: no such path, no table in the folder, or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise SourceError(f"{path}: no such file. Check the path.")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:20]) or "none"
        raise SourceError(f"{path}: expected one table ({', '.join(suffixes)}); the folder has {names}. Name the file.")
    return found[0]
