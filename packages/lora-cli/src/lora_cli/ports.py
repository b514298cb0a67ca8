"""Where audio blocks come from: a small interface, the sound card behind it, and a file played at its own pace."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lora.units import SAMPLE_RATE_HZ, Seconds
from lora_cli.devices import find_microphone
from lora_cli.portaudio import PORTAUDIO_USE, MicError, explain_portaudio, import_sounddevice

BLOCK_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class Block:
    """Samples as they came: int16 mono. `lost` says that the driver dropped some before these."""

    data: bytes
    at: float
    lost: bool = False


OnBlock = Callable[[Block], None]
OnLost = Callable[[str], None]


class Stream(Protocol):
    """An open microphone."""

    rate_hz: int
    name: str

    def close(self) -> None:
        """Stop and let go of the device."""


class InputPort(Protocol):
    """Opens microphones."""

    def open(self, device: str | None, on_block: OnBlock, on_lost: OnLost) -> Stream:
        """Open a microphone by name, None for the default one.

        `on_block` is called on the driver's thread and must only take note.

        Raises:
            MicError: there is none, it is busy, or it has gone.
        """
        ...


class SoundDevicePort:
    """Microphones through PortAudio.

    Where PulseAudio or PipeWire runs, its source names are used (PortAudio itself shows only `pulse`).
    """

    def open(self, device: str | None, on_block: OnBlock, on_lost: OnLost) -> Stream:
        """Open a microphone; 16 kHz where it can, its own rate otherwise."""
        sounddevice = import_sounddevice()
        microphone = find_microphone(device)
        if microphone.pulse:
            # libpulse reads this when the stream is opened; it is per process, so nobody else is moved.
            os.environ["PULSE_SOURCE"] = microphone.name
        rates = [SAMPLE_RATE_HZ, *([microphone.rate_hz] if microphone.rate_hz else [])]
        problem: Exception | None = None
        for rate in dict.fromkeys(rates):
            try:
                return _SoundDeviceStream(sounddevice, microphone.index, microphone.name, rate, on_block, on_lost)
            except sounddevice.PortAudioError as error:
                problem = error
        raise MicError(explain_portaudio(microphone.name, problem)) from problem


class _SoundDeviceStream:
    def __init__(
        self, sounddevice: Any, index: int | None, name: str, rate_hz: int, on_block: OnBlock, on_lost: OnLost
    ) -> None:
        self.name, self.rate_hz = name, rate_hz
        self._closing = False

        def callback(data: Any, frames: int, when: Any, status: Any) -> None:
            # The only work here is one copy: anything slower loses samples (STYLE: the callback only copies).
            on_block(Block(bytes(data), time.monotonic(), bool(status.input_overflow)))

        def finished() -> None:
            if not self._closing:
                on_lost(f"{name}: the microphone stopped.")

        PORTAUDIO_USE.claim()
        try:
            self._stream = sounddevice.RawInputStream(
                device=index,
                samplerate=rate_hz,
                channels=1,
                dtype="int16",
                blocksize=BLOCK_SAMPLES * rate_hz // SAMPLE_RATE_HZ,
                latency="low",
                callback=callback,
                finished_callback=finished,
            )
        except Exception:
            PORTAUDIO_USE.release()
            raise
        try:
            self._stream.start()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        self._closing = True
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)
        PORTAUDIO_USE.release()


class FilePort:
    """Plays samples as a microphone would, at their own pace; silence before and after.

    For measuring latency without a sound card, and for tests.

    Attributes:
        callback_s: how long each block's callback took.

    Args:
        speed: 1 is real time.
    """

    def __init__(self, rate_hz: int = SAMPLE_RATE_HZ, *, speed: float = 1.0) -> None:
        self.rate_hz = rate_hz
        self.speed = speed
        self.callback_s: list[Seconds] = []
        self._pending: list[bytes] = []
        self._lock = threading.Lock()

    def play(self, pcm: bytes) -> None:
        """Queue int16 samples to be heard from the next block on."""
        size = 2 * BLOCK_SAMPLES
        padded = pcm + b"\0" * (-len(pcm) % size)
        with self._lock:
            self._pending += [padded[start : start + size] for start in range(0, len(padded), size)]

    @property
    def idle(self) -> bool:
        """Tell whether everything was played."""
        with self._lock:
            return not self._pending

    def open(self, device: str | None, on_block: OnBlock, on_lost: OnLost) -> Stream:
        """Start the clock."""
        return _FileStream(self, device or "file", on_block)

    def next_block(self) -> bytes:
        """Return what is played next."""
        with self._lock:
            return self._pending.pop(0) if self._pending else b"\0" * (2 * BLOCK_SAMPLES)


class _FileStream:
    def __init__(self, port: FilePort, name: str, on_block: OnBlock) -> None:
        self.name, self.rate_hz = name, port.rate_hz
        self._port = port
        self._on_block = on_block
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file-port", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        step: Seconds = BLOCK_SAMPLES / self.rate_hz / self._port.speed
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += step
            block = Block(self._port.next_block(), time.monotonic())
            started = time.perf_counter()
            self._on_block(block)
            self._port.callback_s.append(time.perf_counter() - started)

    def close(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=1)


def read_pcm(path: Path) -> tuple[bytes, int]:
    """Return a file's samples as int16 mono and their rate. For a 16-bit mono file these are its own bytes."""
    from lora.data.audio import decode_audio

    samples, rate = decode_audio(path, name=str(path))
    return np.clip(np.round(samples * 32_768.0), -32_768, 32_767).astype("<i2").tobytes(), rate
