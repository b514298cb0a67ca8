"""The session: a pure state machine that turns keys, clocks and silence into what the recorder shall do.

No audio, no threads, no clock of its own: `step(state, event, rules)` returns the new state and the actions. Times are
seconds on any clock that only goes forward.
"""

from dataclasses import dataclass, replace
from typing import Literal

from lora.units import Seconds

Phase = Literal["idle", "listening", "recording", "transcribing"]
Gesture = Literal["tap", "hold"]
Reason = Literal["key", "release", "silence", "cap", "focus", "unplugged", "escape", "quit"]


@dataclass(frozen=True)
class Rules:
    """What a session allows.

    Attributes:
        tap_s: a key held for less than this was a tap; the take then runs on until the next tap or silence.
        repeat_s: presses closer together than this are one held key repeating, where no release is reported.
        max_s: hard cap on a take, against a stuck microphone.
    """

    tap_s: Seconds = 0.4
    repeat_s: Seconds = 0.15
    max_s: Seconds = 60.0
    stop_on_silence: bool = True


@dataclass(frozen=True)
class State:
    """Where a session is.

    Attributes:
        mic_open: the microphone stays open between takes (listening, with pre-roll).
        gesture: how the running take ends; None when nothing records.
        key_down: a key or button that reports its release is down.
        pending: takes whose final text is not there yet.
    """

    mic_open: bool = False
    gesture: Gesture | None = None
    started: float = 0.0
    key_down: bool = False
    last_press: float = float("-inf")
    pending: int = 0

    @property
    def recording(self) -> bool:
        """Tell whether a take is running."""
        return self.gesture is not None

    @property
    def phase(self) -> Phase:
        """The one word that is shown."""
        if self.recording:
            return "recording"
        if self.pending:
            return "transcribing"
        return "listening" if self.mic_open else "idle"


@dataclass(frozen=True)
class Press:
    """The talk key or the record button went down; `releases` says that its release will be reported."""

    at: float
    releases: bool = False


@dataclass(frozen=True)
class Release:
    """The talk key or the record button came up."""

    at: float


@dataclass(frozen=True)
class Cancel:
    """Throw the running take away."""

    at: float


@dataclass(frozen=True)
class Tick:
    """Time passed."""

    at: float


@dataclass(frozen=True)
class SpeechEnded:
    """Silence after speech lasted long enough to end a take."""

    at: float


@dataclass(frozen=True)
class FocusLost:
    """The terminal lost the focus: a release may never be reported."""

    at: float


@dataclass(frozen=True)
class MicLost:
    """The microphone is gone."""

    at: float


@dataclass(frozen=True)
class Refused:
    """The microphone could not be opened, or the recording's file not written: nothing was recorded."""

    at: float


@dataclass(frozen=True)
class MicSwitch:
    """Open the microphone for listening, or close it."""

    at: float


@dataclass(frozen=True)
class TakeDone:
    """A take has its final text, or will never have one."""

    at: float


Event = Press | Release | Cancel | Tick | SpeechEnded | FocusLost | MicLost | Refused | MicSwitch | TakeDone


@dataclass(frozen=True)
class OpenMic:
    """Open the microphone."""


@dataclass(frozen=True)
class CloseMic:
    """Close the microphone once no take needs it."""


@dataclass(frozen=True)
class StartTake:
    """Begin a take with whatever pre-roll there is."""


@dataclass(frozen=True)
class FinishTake:
    """End the take, keep it and transcribe it."""

    reason: Reason


@dataclass(frozen=True)
class DiscardTake:
    """End the take and throw it away."""

    reason: Reason


Action = OpenMic | CloseMic | StartTake | FinishTake | DiscardTake
Step = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event, rules: Rules) -> Step:
    """Return the state after `event`, and what to do, in order."""
    match event:
        case Press():
            return _press(state, event, rules)
        case Release():
            return _release(state, event, rules)
        case Cancel() if state.recording:
            return _end(state, DiscardTake("escape"))
        case Tick() if state.recording and event.at - state.started >= rules.max_s:
            return _end(state, FinishTake("cap"))
        case SpeechEnded() if state.gesture == "tap" and rules.stop_on_silence:
            return _end(state, FinishTake("silence"))
        case FocusLost():
            released = replace(state, key_down=False)
            return _end(released, FinishTake("focus")) if state.gesture == "hold" else (released, ())
        case MicLost():
            closed = replace(state, mic_open=False)
            return _end(closed, FinishTake("unplugged")) if state.recording else (closed, ())
        case Refused():
            return replace(state, gesture=None, mic_open=False), ()
        case MicSwitch() if not state.recording:
            opened = not state.mic_open
            return replace(state, mic_open=opened), (OpenMic() if opened else CloseMic(),)
        case TakeDone():
            return replace(state, pending=max(state.pending - 1, 0)), ()
    return state, ()


def _press(state: State, event: Press, rules: Rules) -> Step:
    if state.key_down:
        return state, ()
    repeat = not event.releases and event.at - state.last_press < rules.repeat_s
    state = replace(state, last_press=event.at, key_down=event.releases)
    if repeat:
        return state, ()
    if state.recording:
        return _end(state, FinishTake("key"))
    gesture: Gesture = "hold" if event.releases else "tap"
    opening = () if state.mic_open else (OpenMic(),)
    return replace(state, gesture=gesture, started=event.at), (*opening, StartTake())


def _release(state: State, event: Release, rules: Rules) -> Step:
    """End a hold; a short one was a tap. A release that nobody waits for changes nothing."""
    was_down, state = state.key_down, replace(state, key_down=False)
    if not was_down or state.gesture != "hold":
        return state, ()
    if event.at - state.started < rules.tap_s:
        return replace(state, gesture="tap"), ()
    return _end(state, FinishTake("release"))


def _end(state: State, action: FinishTake | DiscardTake) -> Step:
    kept = isinstance(action, FinishTake)
    ended = replace(state, gesture=None, pending=state.pending + kept)
    return ended, (action,) if state.mic_open else (action, CloseMic())
