"""The history's entries: what is known of a take, how long it is kept, and recordings that no entry names."""

import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lora.bounded import parse_json
from lora.errors import InputError
from lora.units import Seconds
from lora_cli.wav import HEADER_BYTES

KEEP_TAKES = 1000
TAKE_NAME = re.compile(r"\d{8}-\d{6}-\d{3}(-\d+)?")
"""What a take is called: the time of day, and a number where several began at once."""
FOUND = "Recorded in a visit that broke off, not transcribed yet."
SHORTEST_FOUND_S: Seconds = 0.3


@dataclass(frozen=True)
class Entry:
    """One take in the history.

    Attributes:
        texts: final text by voice.
        final_s: latency of each voice's final text.
        model: the base model that the texts are of.
        corrected: the right text, once a person gave it.
        vote: the voice that won the blind vote, "same" for a draw.
    """

    id: str
    time: str
    wav: str
    seconds: Seconds
    texts: dict[str, str] = field(default_factory=dict)
    final_s: dict[str, Seconds] = field(default_factory=dict)
    model: str = ""
    corrected: str | None = None
    vote: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Retention:
    """How much of the history is kept; what was taught is training data and stays.

    Attributes:
        takes: at most so many, the newest.
        days: none older than this; None sets no age.
    """

    takes: int = KEEP_TAKES
    days: int | None = None

    def expired(self, entries: Sequence[Entry], now: datetime) -> list[Entry]:
        """Return the entries to remove, of all entries from the oldest to the newest."""
        too_many = {entry.id for entry in entries[: -self.takes]}
        oldest = None if self.days is None else now - timedelta(days=self.days)
        return [
            entry
            for entry in entries
            if entry.id in too_many or (oldest is not None and datetime.fromisoformat(entry.time) < oldest)
        ]


def read_history(path: Path) -> list[Entry]:
    """Read a history file.

    Raises:
        InputError: it is damaged; the message says which line.
    """
    if not path.exists():
        return []
    known = {item.name for item in fields(Entry)}
    entries: list[Entry] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values: dict[str, Any] = parse_json(line)
            entry = Entry(**{name: value for name, value in values.items() if name in known})
            if Path(entry.wav).name != entry.wav:
                raise ValueError(f"wav is {entry.wav!r}, expected a file name")
            entries.append(entry)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: damaged ({error}). Move the file away to start a new history."
            ) from error
    return entries


def find_recordings(folder: Path, known: set[str]) -> list[Entry]:
    """Return an entry for every recording that the history does not know: its app was killed before the end.

    A file whose name is not a take's is the user's; an entry of it would one day expire, and the file with it.

    Raises:
        InputError: a take there is not a WAV file.
    """
    found: list[Entry] = []
    for path in sorted(path for path in folder.glob("*.wav") if TAKE_NAME.fullmatch(path.stem)):
        status = path.stat()
        if path.name in known or status.st_size <= HEADER_BYTES:
            continue
        try:
            with wave.open(str(path)) as recording:
                seconds = recording.getnframes() / recording.getframerate()
        except (wave.Error, EOFError) as error:
            raise InputError(f"{path}: not a recording ({error}). Move it away.") from error
        if seconds >= SHORTEST_FOUND_S:
            time = datetime.fromtimestamp(status.st_mtime, UTC).astimezone().isoformat(timespec="seconds")
            found.append(Entry(path.stem, time, path.name, round(seconds, 3), failure=FOUND))
    return found


def now_text() -> str:
    """Return the time of day, with its zone, to the second."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")
