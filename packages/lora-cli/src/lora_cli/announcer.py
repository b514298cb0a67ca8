"""What the core tells its shell about microphone and session: phase, level, and sentences for the person."""

from lora_cli import events
from lora_cli.holder import MicHolder
from lora_cli.levels import SILENT_BELOW_DB
from lora_cli.recorder import Recorder, Take
from lora_cli.session import State
from lora_cli.transcripts import Emit

METER_S = 0.08
SILENT_AFTER_S = 2.0


class Announcer:
    """Tells the level about twelve times a second, and of a silent take once."""

    def __init__(self, emit: Emit, mic: MicHolder, recorder: Recorder) -> None:
        self._emit, self._mic, self._recorder = emit, mic, recorder
        self._last_meter = float("-inf")
        self._warned: str | None = None

    def say(self, text: str, severity: events.Severity = "info") -> None:
        """Tell a sentence."""
        self._emit(events.Notice(text, severity))

    def phase(self, state: State, device: str | None) -> None:
        """Tell where the session is, and with which microphone."""
        is_open = self._mic.stream is not None
        self._emit(events.PhaseChanged(state.phase, state.gesture, is_open, self._mic.name or device or ""))

    def level(self, now: float) -> None:
        """Tell the level while a microphone is open, where it is time to."""
        if self._mic.stream is None or now - self._last_meter < METER_S:
            return
        self._last_meter = now
        take = self._recorder.take
        running = take is not None and take.stopped is None
        seconds = max(0.0, now - take.started) if take is not None and running else 0.0
        dropped = take.dropped if take is not None else 0
        self._emit(events.Heard(self._recorder.meter.take(), seconds, self._recorder.speech, dropped))
        if take is not None and seconds > SILENT_AFTER_S:
            self.silence(take)

    def silence(self, take: Take) -> None:
        """Say that nothing is heard, once a take."""
        if take.peak_db < SILENT_BELOW_DB and self._warned != take.id:
            self._warned = take.id
            name = self._mic.name or "the microphone"
            self.say(f"{name}: silence. Is it muted? Unmute it, or choose another with F2.", "warning")

    def faults(self, take: Take) -> None:
        """Say what is wrong with a finished take."""
        for fault in take.faults():
            self.say(fault, "warning")
        self.silence(take)
