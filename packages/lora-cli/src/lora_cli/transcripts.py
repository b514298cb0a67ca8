"""Texts: what the model process is told, what it answers, and what of it is kept. Runs on the core's thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora.errors import LoraError
from lora.units import JsonObject
from lora_cli import events
from lora_cli.engine import Engine
from lora_cli.history import Entry, now_text
from lora_cli.latency import LatencyLog
from lora_cli.recorder import Take
from lora_cli.store import Store

BASE = "base"

Emit = Callable[[events.Message], None]


@dataclass
class _Waiting:
    """A take whose texts are being made.

    Attributes:
        take: the recording, None when an old one is run again: its latency would mean nothing.
        spoke: voices whose first text was seen.
    """

    entry: Entry
    take: Take | None = None
    spoke: set[str] = field(default_factory=set)


class Transcripts:
    """Keeps the voices and the takes that wait for them.

    Args:
        on_done: called when a take has all its final texts, or will have none.
    """

    def __init__(
        self, engine: Engine, store: Store, emit: Emit, on_done: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self.voices: tuple[str, ...] = ()
        self.active: str | None = None
        self.failed: str | None = None
        self.model_id = self.device = ""
        self.latency = LatencyLog()
        self._engine, self._store, self._emit, self._on_done, self._clock = engine, store, emit, on_done, clock
        self._waiting: dict[str, _Waiting] = {}

    @property
    def shown(self) -> tuple[str, ...]:
        """The voices that are heard: the base model, and the chosen adapter."""
        return (BASE,) if self.active is None else (BASE, self.active)

    def begin(self, take: Take) -> None:
        """A take is being recorded."""
        self._waiting[take.id] = _Waiting(Entry(take.id, now_text(), take.path.name, 0.0), take)
        self._engine.tell({"do": "begin", "take": take.id, "rate": take.rate_hz})
        if take.pcm:
            self.feed(take, bytes(take.pcm))

    def feed(self, take: Take, data: bytes) -> None:
        """More of it was recorded."""
        self._engine.tell({"do": "feed", "take": take.id}, data)

    def discard(self, take: Take) -> None:
        """It was thrown away."""
        self._waiting.pop(take.id, None)
        self._engine.tell({"do": "discard", "take": take.id})

    def finish(self, take: Take) -> None:
        """It is complete: into the history with it, and to the model."""
        waiting = self._waiting[take.id]
        waiting.entry = replace(waiting.entry, seconds=round(take.seconds, 3))
        self._emit(events.TakeFinished(take.id, take.seconds, take.reason or "key"))
        self.keep(waiting.entry)
        self._engine.tell({"do": "finish", "take": take.id})
        if self.failed is not None:
            self._give_up(take.id, self.failed)

    def run_again(self, entry: Entry, pcm: bytes, rate_hz: int, voices: Sequence[str]) -> bool:
        """Make the texts of an old take anew; False where that cannot be now."""
        if entry.id in self._waiting or self.failed is not None:
            self._emit(events.Notice(self.failed or "This take is being transcribed.", "warning"))
            return False
        self._waiting[entry.id] = _Waiting(replace(entry, failure=None))
        command = {"do": "again", "take": entry.id, "rate": rate_hz, "voices": list(voices)}
        self._engine.tell(command, pcm)
        return True

    def choose(self, name: str | None) -> None:
        """Hear this adapter beside the base model from now on."""
        self.active = name if name in self.voices and name != BASE else None
        self._show("")

    def keep(self, entry: Entry) -> None:
        """Put a take into the history. A disk that takes no more costs the history's file, not the visit."""
        try:
            self._store.put(entry)
        except (LoraError, OSError) as error:
            self._emit(events.Notice(f"{error} The recordings are in {self._store.takes_dir}.", "error"))
        self._emit(events.HistoryChanged(entry.id))

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a further adapter and choose it once it is there."""
        self.active = name
        self._engine.tell({"do": "load", "dir": str(folder), "name": name})

    def on_message(self, message: JsonObject) -> None:
        """Take in what the model process says."""
        match message["is"]:
            case "loading":
                done, total = message["done"], message["total"]
                self._emit(events.ModelState("loading", message["detail"], done=done, total=total))
            case "ready":
                self.failed = None
                self.voices = tuple(message["voices"])
                self.model_id = message.get("model", self.model_id)
                self.device = message.get("device", self.device)
                if self.active not in self.voices:
                    self.active = next(iter(self.voices[1:]), None)
                self._show(message["detail"])
            case "refused":
                if self.active not in self.voices:
                    self.active = next(iter(self.voices[1:]), None)
                self._emit(events.Notice(message["message"], "error"))
            case "error":
                self._on_error(message["message"])
            case "words":
                self._on_words(message)
            case "failed":
                self._on_failed(message)
            case "done":
                self._waiting.pop(message["take"], None)
                self._on_done()

    def _show(self, detail: str) -> None:
        self._engine.tell({"do": "show", "voices": list(self.shown)})
        self._emit(events.ModelState("ready", detail, self.voices, self.active))

    def _on_error(self, why: str) -> None:
        self.failed = why
        self._emit(events.ModelState("failed", why))
        for take_id, waiting in list(self._waiting.items()):
            if waiting.entry.seconds:
                self._give_up(take_id, why)

    def _give_up(self, take_id: str, why: str) -> None:
        waiting = self._waiting.pop(take_id, None)
        if waiting is not None:
            self.keep(replace(waiting.entry, failure=why))
            self._on_done()

    def _on_words(self, message: JsonObject) -> None:
        take_id, voice, final = message["take"], message["voice"], message["final"]
        waiting = self._waiting.get(take_id)
        if waiting is None:
            return
        now, take = self._clock(), waiting.take
        rtf = message["work_s"] / message["audio_s"]
        log, latency = self.latency.voice(voice), None
        if take is not None and take.speech_at is not None and voice not in waiting.spoke and message["text"]:
            waiting.spoke.add(voice)
            latency = max(0.0, now - take.speech_at)
            log.first_s.append(latency)
        if final:
            latency = None
            if take is not None and take.stopped is not None:
                latency = now - take.stopped
                log.final_s.append(latency)
                log.rtf.append(rtf)
            self._keep_text(waiting, voice, message["text"], latency)
        self._emit(events.Words(take_id, voice, message["text"], final, message["audio_s"], rtf, latency))

    def _keep_text(self, waiting: _Waiting, voice: str, text: str, latency: float | None) -> None:
        stored = self._store.entry(waiting.entry.id)
        if stored is None:
            return  # deleted meanwhile
        final_s = stored.final_s if latency is None else stored.final_s | {voice: round(latency, 3)}
        self.keep(
            replace(stored, texts=stored.texts | {voice: text}, final_s=final_s, model=self.model_id, failure=None)
        )

    def _on_failed(self, message: JsonObject) -> None:
        stored = self._store.entry(message["take"])
        if stored is not None:
            self.keep(replace(stored, failure=message["message"]))
        self._emit(events.Failed(message["take"], message["voice"], message["message"]))
