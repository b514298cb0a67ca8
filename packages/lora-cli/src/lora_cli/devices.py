"""Microphones by name, and whether they are still there."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lora_cli.portaudio import PORTAUDIO_HINT, PORTAUDIO_USE, MicError, import_sounddevice

PULSE_DEVICE = "pulse"
PACTL_TIMEOUT_S = 3
MONITOR = ".monitor"
KEPT = "What was recorded so far is kept."


@dataclass(frozen=True)
class Microphone:
    """One microphone.

    Attributes:
        name: what to give as `--device`.
        pulse: it is a PulseAudio or PipeWire source, reached through PortAudio's device `pulse`.
        index: PortAudio's number.
    """

    name: str
    description: str
    default: bool = False
    pulse: bool = False
    index: int | None = None
    rate_hz: int | None = None


def list_microphones() -> list[Microphone]:
    """Return the microphones, the default one first.

    Raises:
        MicError: PortAudio is missing.
    """
    sounddevice = import_sounddevice()
    PORTAUDIO_USE.look_again(sounddevice)
    devices: list[dict[str, Any]] = [dict(device) for device in sounddevice.query_devices()]
    inputs = [(index, device) for index, device in enumerate(devices) if device["max_input_channels"] > 0]
    pulse_index = next((index for index, device in inputs if device["name"] == PULSE_DEVICE), None)
    found = _pulse_sources(pulse_index) if pulse_index is not None else []
    if not found:
        default = sounddevice.default.device[0]
        found = [
            Microphone(
                name=device["name"],
                description=device["name"],
                default=index == default,
                index=index,
                rate_hz=round(device["default_samplerate"]),
            )
            for index, device in inputs
        ]
    return sorted(found, key=lambda microphone: (not microphone.default, microphone.description))


def find_microphone(name: str | None) -> Microphone:
    """Return the microphone with this name or description, or a unique part of one; None is the default.

    Raises:
        MicError: there is none, or the name fits none or several.
    """
    microphones = list_microphones()
    if not microphones:
        raise MicError(f"no microphone was found. Plug one in, then press F2 to look again. {PORTAUDIO_HINT}")
    if name is None:
        return microphones[0]
    exact = [item for item in microphones if name in (item.name, item.description)]
    part = [item for item in microphones if name.lower() in f"{item.name}\n{item.description}".lower()]
    matches = exact or part
    if len(matches) == 1:
        return matches[0]
    names = [item.name for item in microphones]
    if matches:
        raise MicError(f"{name}: fits {', '.join(item.name for item in matches)}. Give one whole name.")
    nearest = get_close_matches(name, names, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise MicError(f"{name}: no such microphone; there is {', '.join(names)}.{hint}")


def _pulse_sources(pulse_index: int) -> list[Microphone]:
    sources = pactl("-f", "json", "list", "sources")
    if sources is None:
        return []
    default = (pactl("get-default-source") or "").strip()
    # Monitors play back what the speakers say; they are offered last and only by their name.
    return [
        Microphone(
            name=source["name"],
            description=source.get("description") or source["name"],
            default=source["name"] == default,
            pulse=True,
            index=pulse_index,
        )
        for source in json.loads(sources)
        if not source["name"].endswith(MONITOR) or source["name"] == default
    ]


def source_names() -> set[str] | None:
    """Return the names of the PulseAudio sources that exist now; None where there is no PulseAudio."""
    lines = pactl("list", "short", "sources")
    return None if lines is None else {line.split("\t")[1] for line in lines.splitlines() if "\t" in line}


def pactl(*words: str) -> str | None:
    """Return what `pactl` prints; None where it is missing or no server answers."""
    program = shutil.which("pactl")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=PACTL_TIMEOUT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Gone:
    """The source that is in use went away; `successor` is the default one now, None where there is no microphone."""

    why: str
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class NewDefault:
    """Another source became the system's default microphone."""

    name: str


def default_microphone() -> str | None:
    """Return PulseAudio's default source; None where there is none but the echo of the speakers."""
    name = (pactl("get-default-source") or "").strip()
    return None if not name or name.endswith(MONITOR) else name


class SourceWatch:
    """Calls back when the source in use goes away, or another one becomes the default.

    PulseAudio moves a stream silently to another source when its own is unplugged: audio blocks keep coming
    and PortAudio reports nothing, so the server's own events are listened to.
    """

    def __init__(self, name: str, on_change: Callable[[Gone | NewDefault], None]) -> None:
        self._name = name
        self._on_change = on_change
        self._process: subprocess.Popen[str] | None = None
        program = shutil.which("pactl")
        names = source_names()
        if program is None or names is None or name not in names:
            return
        self._default = default_microphone()
        self._process = subprocess.Popen(
            [program, "subscribe"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._listen, name="source-watch", daemon=True).start()

    def _listen(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if self._process is None:
                    return
                if "'remove' on source" in line and self._is_gone():
                    self._on_change(Gone(f"{self._name}: unplugged. {KEPT}", default_microphone()))
                    return
                if "'change' on server" in line:
                    self._look_at_default()
        if self._process is not None:
            self._on_change(Gone(f"{self._name}: the sound server stopped. {KEPT}"))

    def _is_gone(self) -> bool:
        names = source_names()
        return names is not None and self._name not in names

    def _look_at_default(self) -> None:
        default = default_microphone()
        if default is not None and default not in (self._default, self._name):
            self._on_change(NewDefault(default))
        self._default = default

    def close(self) -> None:
        """Stop watching."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(timeout=2)
