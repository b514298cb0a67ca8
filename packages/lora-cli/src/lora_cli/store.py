"""What is kept: the history of takes, and the training data that corrections and prompts become.

    takes/<id>.wav       recordings, as they were written while recording
    history.jsonl        one take a line: texts, latencies, vote
    taught/manifest.jsonl  audio, text, speaker, time, origin; read by every command of the project
    taught/audio/<id>.wav

Files are replaced whole, so a crash or a full disk leaves the last good one. A recording goes after its line is gone.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lora.bounded import parse_json
from lora.errors import InputError, SetupError
from lora.files import atomic_file, scratch_folder, to_json, writing
from lora.units import JsonObject, Seconds
from lora_cli.history import Entry, Retention, find_recordings, read_history

Origin = Literal["corrected", "prompted"]
Part = Literal["train", "heldout"]
PRIVATE_NAME = "private"
HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class TaughtCounts:
    """How much there is to learn from."""

    train: int
    heldout: int
    train_s: Seconds
    heldout_s: Seconds


class Store:
    """The files of the app under one folder.

    Args:
        keep_history: without it takes live in a private temporary folder until the app ends; what a person
            saves as training data is kept all the same, because saving it was asked for.
        retention: how much of the history is kept.
        exclusive: keep other apps out until `close`; two would overwrite each other's history.
        speaker: speaker id of what is taught.
    """

    def __init__(
        self,
        root: Path,
        *,
        speaker: str,
        keep_history: bool = True,
        retention: Retention | None = None,
        exclusive: bool = False,
    ) -> None:
        self.root = root
        self.speaker = speaker
        self.keep_history = keep_history
        self.retention = retention or Retention()
        self._lock = threading.RLock()
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            self._claim = claim_folder(root) if exclusive else None
        self._visit = ExitStack()
        self._session = root if keep_history else self._visit.enter_context(scratch_folder(PRIVATE_NAME))
        with writing(self.takes_dir):
            self.takes_dir.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, Entry] = {entry.id: entry for entry in read_history(self.history_path)}
        found = find_recordings(self.takes_dir, {entry.wav for entry in self._entries.values()})
        self._entries |= {entry.id: entry for entry in found}
        if found or self._expired():
            self._save()

    @property
    def takes_dir(self) -> Path:
        """Where recordings are written."""
        return self._session / "takes"

    @property
    def history_path(self) -> Path:
        """The history file."""
        return self._session / "history.jsonl"

    @property
    def manifest_path(self) -> Path:
        """The manifest of what was taught."""
        return self.root / "taught" / "manifest.jsonl"

    @property
    def runs_dir(self) -> Path:
        """Where adaptations put their results."""
        return self.root / "adapters"

    def new_take(self) -> tuple[str, Path]:
        """Return a fresh take id, from the time of day, and its file's path."""
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")[:-3]
        take_id, number = stamp, 1
        while (self.takes_dir / f"{take_id}.wav").exists():
            number += 1
            take_id = f"{stamp}-{number}"
        return take_id, self.takes_dir / f"{take_id}.wav"

    def entries(self) -> list[Entry]:
        """Return the history, newest first."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: entry.id, reverse=True)

    def entry(self, take_id: str) -> Entry | None:
        """Return one take, None if it was deleted."""
        return self._entries.get(take_id)

    def wav_path(self, entry: Entry) -> Path:
        """Return where a take's audio lies."""
        return self.takes_dir / entry.wav

    def put(self, entry: Entry) -> None:
        """Add or replace a take."""
        with self._lock:
            self._entries[entry.id] = entry
            self._save()

    def delete(self, take_id: str) -> None:
        """Remove a take and its audio. What was taught from it stays taught."""
        with self._lock:
            entry = self._entries.pop(take_id, None)
            if entry is not None:
                self._save()
                self.wav_path(entry).unlink(missing_ok=True)

    def _expired(self) -> list[Entry]:
        return self.retention.expired(sorted(self._entries.values(), key=lambda entry: entry.id), datetime.now(UTC))

    def _save(self) -> None:
        expired = [self._entries.pop(entry.id) for entry in self._expired()]
        with atomic_file(self.history_path.resolve()) as file:
            for entry in sorted(self._entries.values(), key=lambda entry: entry.id):
                file.write(to_json(asdict(entry), indent=None).encode("utf-8") + b"\n")
        for entry in expired:
            self.wav_path(entry).unlink(missing_ok=True)

    def score(self) -> dict[str, int]:
        """Return how many blind votes each voice has won."""
        won: dict[str, int] = {}
        for entry in self._entries.values():
            if entry.vote is not None:
                won[entry.vote] = won.get(entry.vote, 0) + 1
        return won

    def correct(self, take_id: str, text: str, origin: Origin = "corrected") -> Entry:
        """Keep the right text of a take, and take and text as training data.

        Raises:
            InputError: the take is gone, or the text has no word.
        """
        entry = self._entries.get(take_id)
        if entry is None:
            raise InputError(f"{take_id}: this take was deleted.")
        self.teach(entry, text, origin)
        corrected = replace(entry, corrected=" ".join(text.split()))
        self.put(corrected)
        return corrected

    def teach(self, entry: Entry, text: str, origin: Origin) -> None:
        """Append a take and its right text to the manifest; a second text for a take replaces the first.

        Every fourth take is held out for verdicts, and stays held out: no later training sees it.

        Raises:
            InputError: the text has no word.
        """
        text = " ".join(text.split())
        if not any(char.isalnum() for char in text):
            raise InputError(f"the text is {text!r}; expected at least one word.")
        with self._lock:
            rows = self.taught_rows()
            known = next((row for row in rows if row["id"] == entry.id), None)
            part: Part = known["part"] if known else _next_part(rows)
            audio = self.manifest_path.parent / "audio" / f"{entry.id}.wav"
            if not audio.exists():
                with self.wav_path(entry).open("rb") as source, atomic_file(audio) as target:
                    shutil.copyfileobj(source, target)
            row = {
                "id": entry.id,
                "audio": f"audio/{entry.id}.wav",
                "text": text,
                "speaker_id": self.speaker,
                "time": entry.time,
                "origin": origin,
                "seconds": round(entry.seconds, 3),
                "heard": entry.texts,
                "part": part,
            }
            self._write_taught([*(row for row in rows if row["id"] != entry.id), row])

    def taught_rows(self) -> list[JsonObject]:
        """Return the manifest's rows, oldest first.

        Raises:
            InputError: a row is damaged; the message says which line.
        """
        if not self.manifest_path.exists():
            return []
        rows: list[JsonObject] = []
        for number, line in enumerate(self.manifest_path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = parse_json(line)
                if not isinstance(row, dict) or not {"id", "part", "seconds"} <= row.keys():
                    raise ValueError("expected an object with id, part and seconds")
                rows.append(row)
            except ValueError as error:
                raise InputError(
                    f"{self.manifest_path}:{number}: damaged ({error}). Correct or remove the line."
                ) from error
        return rows

    def _write_taught(self, rows: Sequence[JsonObject]) -> None:
        with atomic_file(self.manifest_path.resolve()) as file:
            for row in rows:
                file.write(to_json(row, indent=None).encode("utf-8") + b"\n")

    def taught_counts(self) -> TaughtCounts:
        """Return how much was taught."""
        rows = self.taught_rows()
        train = [row["seconds"] for row in rows if row["part"] == "train"]
        heldout = [row["seconds"] for row in rows if row["part"] == "heldout"]
        return TaughtCounts(len(train), len(heldout), sum(train), sum(heldout))

    def close(self) -> None:
        """End the visit: without history the recordings go."""
        self._visit.close()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None


def _next_part(rows: Sequence[JsonObject]) -> Part:
    return "heldout" if len(rows) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"


def claim_folder(folder: Path) -> int:
    """Lock a folder for this process; the lock goes with the descriptor that is returned, or with the process.

    Raises:
        SetupError: another process holds it.
    """
    claim = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(claim)
        raise SetupError(f"{folder}: another moonshine uses this folder. Close it, or give --data-dir.") from error
    return claim
