"""Small real fakes: an engine with a script, a detector that hears loudness."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lora.errors import AudioError, ModelError


class CountingVoices:
    """Says how many tenths of a second it heard; a voice may be slow, or fail on command."""

    def __init__(self, *names: str, sleep_s: float = 0.0) -> None:
        self._names = ["base", *names]
        self.sleep_s = sleep_s
        self.calls: list[tuple[str, int]] = []

    def names(self) -> list[str]:
        return self._names

    def load(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such adapter folder.")
        self._names.append(name)

    def transcribe(self, voice: str, pcm: bytes, rate_hz: int) -> str:
        time.sleep(self.sleep_s)
        self.calls.append((voice, len(pcm)))
        if not any(pcm):
            raise AudioError("this recording: silence.")
        return f"{voice} heard {round(len(pcm) / 2 / rate_hz * 10)} tenths"


class ThreadEngine:
    """The real desk with fake voices, on a thread instead of a process."""

    def __init__(self, voices: CountingVoices, *, fails: str | None = None) -> None:
        self.voices = voices
        self.fails = fails
        self._desk: Any = None

    def start(self, deliver: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
        if self.fails is not None:
            deliver({"is": "error", "message": self.fails})
            return
        from lora_cli.desk import Desk

        self._desk = Desk(deliver)
        deliver({"is": "ready", "voices": list(self.voices.names()), "detail": "fake"})
        threading.Thread(target=self._desk.work, args=(self.voices,), daemon=True).start()

    def tell(self, message: dict, payload: bytes = b"") -> None:  # type: ignore[type-arg]
        if self._desk is not None:
            self._desk.command(message, payload)

    def stop(self) -> None:
        self.tell({"do": "quit"})


class LoudnessDetector:
    """Calls every frame above -40 dBFS speech."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, dtype=np.float32)

    def reset(self) -> None:
        self._rest = np.zeros(0, dtype=np.float32)

    def feed(self, wave):  # type: ignore[no-untyped-def]
        samples = np.concatenate([self._rest, wave])
        whole = len(samples) // 512 * 512
        self._rest = samples[whole:]
        return [float(np.sqrt(np.mean(np.square(frame))) > 0.01) for frame in samples[:whole].reshape(-1, 512)]


def tone_pcm(seconds: float, amplitude: float = 0.25, rate_hz: int = 16_000) -> bytes:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.round(32_767 * amplitude * np.sin(2 * np.pi * 440 * times)).astype("<i2").tobytes()


class Inbox:
    """Collects the core's messages; waits for one."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.seen: list[object] = []

    def put(self, message: object) -> None:
        self.queue.put(message)

    def wait(self, kind: type, accept: Callable = lambda message: True, seconds: float = 30.0):  # type: ignore[no-untyped-def,type-arg]
        deadline = time.monotonic() + seconds
        while True:
            try:
                message = self.queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__} within {seconds} s; seen: {self.seen[-8:]}") from None
            self.seen.append(message)
            if isinstance(message, kind) and accept(message):
                return message


def pcm_of(wave: Any, rate_hz: int) -> bytes:
    """Return float samples as a microphone at 16 kHz would give them."""
    import soxr

    samples = soxr.resample(wave, rate_hz, 16_000, quality="VHQ") if rate_hz != 16_000 else wave
    return np.clip(np.round(samples * 32_767), -32_768, 32_767).astype("<i2").tobytes()


async def until(pilot: Any, ready: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once it is so; the time only ends a wait that has failed."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        await pilot.pause(0.05)
