"""What is done to takes that are already there: run again, taught, voted on, deleted. Runs on the core's thread."""

from collections.abc import Sequence
from dataclasses import replace

from lora.errors import LoraError
from lora_cli import events
from lora_cli.ports import read_pcm
from lora_cli.store import Origin, Store
from lora_cli.transcripts import Emit, Transcripts


class KeptTakes:
    """Changes the history and the training data; every change is told, every failure said."""

    def __init__(self, store: Store, transcripts: Transcripts, emit: Emit) -> None:
        self._store, self._transcripts, self._emit = store, transcripts, emit

    def run_again(self, take_id: str, voices: Sequence[str] | None) -> bool:
        """Make the texts of a take anew; True where they are on their way now."""
        entry = self._store.entry(take_id)
        if entry is None:
            return False
        try:
            pcm, rate_hz = read_pcm(self._store.wav_path(entry))
        except LoraError as error:
            self._emit(events.Notice(str(error), "error"))
            return False
        return self._transcripts.run_again(entry, pcm, rate_hz, voices or self._transcripts.shown)

    def teach(self, take_id: str, text: str, origin: Origin) -> None:
        """Save a take with its right text as training data."""
        try:
            self._store.correct(take_id, text, origin)
        except (LoraError, OSError) as error:
            self._emit(events.Notice(f"Not saved: {error}", "error"))
            return
        said = "Saved as training data." if origin == "corrected" else "Accepted."
        self._emit(events.Notice(said))
        self._emit(events.HistoryChanged(take_id))

    def vote(self, take_id: str, winner: str) -> None:
        """Keep a blind vote."""
        entry = self._store.entry(take_id)
        if entry is not None:
            self._transcripts.keep(replace(entry, vote=winner))

    def delete(self, take_id: str) -> None:
        """Remove a take and its recording."""
        try:
            self._store.delete(take_id)
        except (LoraError, OSError) as error:
            self._emit(events.Notice(f"Not deleted: {error}", "error"))
        self._emit(events.HistoryChanged(take_id))
