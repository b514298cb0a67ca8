"""The model process's desk: which text is made next.

Audio arrives at any time; the model is busy for most of it. Final texts go first, then loading, then
partial texts of the take that is being recorded, always on all the audio that is there. Every voice of
a round hears the same samples.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lora.errors import LoraError
from lora.units import JsonObject, Seconds

MIN_PARTIAL_S: Seconds = 0.3
PARTIAL_STEP_S: Seconds = 0.2
SAMPLE_BYTES = 2

Emit = Callable[[JsonObject], None]


class Voices(Protocol):
    """Whoever can turn audio into text, by name."""

    def names(self) -> Sequence[str]:
        """Return the voices, the base model first."""
        ...

    def transcribe(self, voice: str, pcm: bytes, rate_hz: int) -> str:
        """Return the text that `voice` hears in int16 samples.

        Raises:
            LoraError: the audio cannot be used, or the voice is unknown.
        """
        ...

    def load(self, folder: Path, name: str) -> None:
        """Add the adapter in `folder` as the voice `name`.

        Raises:
            LoraError: it cannot be loaded.
        """
        ...


@dataclass
class _Take:
    rate_hz: int
    pcm: bytearray = field(default_factory=bytearray)
    finished: bool = False
    last_partial_s: Seconds = 0.0
    known: dict[str, tuple[int, str, float]] = field(default_factory=dict)

    @property
    def seconds(self) -> Seconds:
        return len(self.pcm) / SAMPLE_BYTES / self.rate_hz


@dataclass(frozen=True)
class _Load:
    folder: Path
    name: str


@dataclass(frozen=True)
class _Final:
    take_id: str
    voices: tuple[str, ...]


class Desk:
    """Takes commands on one thread (`command`) and works on another (`work`).

    Args:
        emit: called on the working thread with each message for the app.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._changed = threading.Condition()
        self._takes: dict[str, _Take] = {}
        self._finals: deque[_Final] = deque()
        self._loads: deque[_Load] = deque()
        self._show: tuple[str, ...] = ()
        self._open: str | None = None
        self._quit = False

    def command(self, message: JsonObject, payload: bytes) -> None:
        """Note one command of the app; never waits for the model."""
        with self._changed:
            self._note(message, payload)
            self._changed.notify()

    def _note(self, message: JsonObject, payload: bytes) -> None:
        take_id = message.get("take", "")
        match message["do"]:
            case "begin":
                self._takes[take_id] = _Take(message["rate"])
                self._open = take_id
            case "feed":
                self._takes[take_id].pcm += payload
            case "finish":
                self._takes[take_id].finished = True
                self._open = None if self._open == take_id else self._open
                self._finals.append(_Final(take_id, self._show))
            case "discard":
                self._takes.pop(take_id, None)
                self._open = None if self._open == take_id else self._open
            case "again":
                self._takes[take_id] = _Take(message["rate"], bytearray(payload), finished=True)
                self._finals.append(_Final(take_id, tuple(message["voices"])))
            case "show":
                self._show = tuple(message["voices"])
            case "load":
                self._loads.append(_Load(Path(message["dir"]), message["name"]))
            case "quit":
                self._quit = True

    def work(self, voices: Voices) -> None:
        """Make texts until told to quit."""
        while True:
            with self._changed:
                while not (self._quit or self._finals or self._loads or self._partial_due()):
                    self._changed.wait()
                if self._quit:
                    return
                final = self._finals.popleft() if self._finals else None
                load = self._loads.popleft() if final is None and self._loads else None
            if final is not None:
                self._make_final(voices, final)
            elif load is not None:
                self._load(voices, load)
            else:
                self._make_partials(voices)

    def _partial_due(self) -> bool:
        take = self._takes.get(self._open or "")
        if take is None or not self._show:
            return False
        return take.seconds >= max(MIN_PARTIAL_S, take.last_partial_s + PARTIAL_STEP_S)

    def _make_final(self, voices: Voices, final: _Final) -> None:
        take = self._takes[final.take_id]
        # A take that ended before the model was there: the base model and the first adapter, as the app shows.
        for voice in final.voices or tuple(voices.names())[:2]:
            try:
                text, work_s = self._text(voices, voice, take, bytes(take.pcm))
            except LoraError as error:
                self._emit({"is": "failed", "take": final.take_id, "voice": voice, "message": str(error)})
                continue
            self._say(final.take_id, voice, text, take.seconds, work_s, final=True)
        self._emit({"is": "done", "take": final.take_id})
        with self._changed:
            self._takes.pop(final.take_id, None)

    def _make_partials(self, voices: Voices) -> None:
        with self._changed:
            take_id, shown = self._open, self._show
            take = self._takes.get(take_id or "")
            if take is None or take_id is None:
                return
            pcm = bytes(take.pcm)
        seconds = len(pcm) / SAMPLE_BYTES / take.rate_hz
        take.last_partial_s = seconds
        for voice in shown:
            if take.finished or self._open != take_id:
                return
            try:
                text, work_s = self._text(voices, voice, take, pcm)
            except LoraError:
                # Silence or a tenth of a second so far: the final says what is wrong if it stays so.
                continue
            self._say(take_id, voice, text, seconds, work_s, final=False)

    def _text(self, voices: Voices, voice: str, take: _Take, pcm: bytes) -> tuple[str, float]:
        """Return the text and the work it took; what is known for these very samples is not made again."""
        size, text, work_s = take.known.get(voice, (0, "", 0.0))
        if size == len(pcm):
            return text, work_s
        started = time.perf_counter()
        text = voices.transcribe(voice, pcm, take.rate_hz)
        work_s = time.perf_counter() - started
        take.known[voice] = (len(pcm), text, work_s)
        return text, work_s

    def _say(self, take_id: str, voice: str, text: str, audio_s: float, work_s: float, *, final: bool) -> None:
        self._emit(
            {
                "is": "words",
                "take": take_id,
                "voice": voice,
                "text": text,
                "final": final,
                "audio_s": audio_s,
                "work_s": work_s,
            }
        )

    def _load(self, voices: Voices, load: _Load) -> None:
        try:
            voices.load(load.folder, load.name)
        except LoraError as error:
            self._emit({"is": "refused", "message": str(error)})
            return
        self._emit({"is": "ready", "voices": list(voices.names()), "detail": f"{load.name} loaded"})
