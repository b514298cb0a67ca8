"""What the core tells its shell: small immutable messages, safe to hand between threads."""

from dataclasses import dataclass, field
from typing import Literal

from lora.units import Seconds
from lora_cli.levels import Level
from lora_cli.session import Gesture, Phase, Reason

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The session moved on. `seconds` is the length of the running take, pre-roll left out."""

    phase: Phase
    gesture: Gesture | None
    mic_open: bool
    mic_name: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The meter, about twelve times a second while the microphone is open."""

    level: Level
    seconds: Seconds
    speech: bool
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class TakeStarted:
    """A recording began; its WAV file exists from now on."""

    take_id: str
    path: str


@dataclass(frozen=True, slots=True)
class TakeFinished:
    """A recording ended and its final text is being made."""

    take_id: str
    seconds: Seconds
    reason: Reason


@dataclass(frozen=True, slots=True)
class TakeDiscarded:
    """A recording was thrown away."""

    take_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Words:
    """Text of a take by one voice, partial or final.

    Attributes:
        latency_s: of the first partial, from the start of speech; of the final, from the stop; else None.
        rtf: seconds of work for a second of audio.
    """

    take_id: str
    voice: str
    text: str
    final: bool
    audio_s: Seconds
    rtf: float
    latency_s: Seconds | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """One voice has no text for a take; the recording is kept."""

    take_id: str
    voice: str
    message: str


@dataclass(frozen=True, slots=True)
class HistoryChanged:
    """Takes were added, changed or deleted."""

    take_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelState:
    """The model process: what it does now, and whom it can let speak. `done` of `total` steps of loading."""

    stage: Literal["loading", "ready", "failed"]
    detail: str
    voices: tuple[str, ...] = ()
    active: str | None = None
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the person: what happened and what to do."""

    text: str
    severity: Severity = "info"


@dataclass(frozen=True, slots=True)
class Broken:
    """The core ended on a fault of the program; nothing works any more."""

    error: Exception


@dataclass(frozen=True, slots=True)
class AdaptProgress:
    """The training process. `done` of `total` in this stage; 0 of 0 while that is unknown."""

    stage: str
    done: int = 0
    total: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AdaptFinished:
    """The training ended with a verdict, or failed with a message."""

    decision: str
    reasons: tuple[str, ...] = ()
    baseline_wer: float | None = None
    tuned_wer: float | None = None
    adapter_dir: str | None = None
    error: str | None = None
    guardrails: tuple[tuple[str, float, float], ...] = field(default=())


Message = (
    PhaseChanged
    | Heard
    | TakeStarted
    | TakeFinished
    | TakeDiscarded
    | Words
    | Failed
    | HistoryChanged
    | ModelState
    | Notice
    | Broken
    | AdaptProgress
    | AdaptFinished
)
