"""PortAudio: the library, how many streams use it, and what its errors mean."""

import threading
from typing import Any

from lora.errors import SetupError

PORTAUDIO_HINT = "On Debian and Ubuntu: apt install libportaudio2 libasound2-plugins."


class MicError(SetupError):
    """The microphone cannot be opened; the message says why and what to do."""


class PortAudioUse:
    """Counts the open streams: PortAudio reads the devices when it starts, and can start anew only without any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams = 0

    def claim(self) -> None:
        """Note that a stream is being opened."""
        with self._lock:
            self._streams += 1

    def release(self) -> None:
        """Note that one was closed."""
        with self._lock:
            self._streams -= 1

    def look_again(self, sounddevice: Any) -> None:
        """Let PortAudio see what was plugged in since it started, unless a stream is open."""
        with self._lock:
            if self._streams == 0:
                sounddevice._terminate()
                sounddevice._initialize()


PORTAUDIO_USE = PortAudioUse()


def import_sounddevice() -> Any:
    """Return the `sounddevice` module.

    Raises:
        MicError: it or the PortAudio library is not installed.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise MicError("sounddevice is not installed. Install moonshine-lora-cli with its dependencies.") from error
    except OSError as error:
        raise MicError(f"the PortAudio library is missing ({error}). {PORTAUDIO_HINT}") from error
    return sounddevice


def explain_portaudio(name: str, error: Exception | None) -> str:
    """Return a sentence that says what to do about a PortAudio error."""
    text = str(error)
    lowered = text.lower()
    if any(word in lowered for word in ("busy", "unavailable", "-9985")):
        return f"{name}: busy. Another program holds this microphone; close it, or choose another one with F2."
    if any(word in lowered for word in ("no default", "invalid device", "querying device", "-9996", "no such")):
        return f"{name}: no longer there. Plug it in, or choose another microphone with F2. {PORTAUDIO_HINT}"
    if "sample rate" in lowered or "-9997" in lowered:
        return f"{name}: takes neither 16 kHz nor its own rate. Choose it through PulseAudio or PipeWire instead."
    return f"{name}: cannot be opened ({text}). Choose another microphone with F2."
