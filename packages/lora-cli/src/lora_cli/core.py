"""The core: one thread that owns session, recorder and store, and speaks with microphone, model and shell.

Everything that happens (a block of audio, a key, a text) comes through one queue, in order. Methods
without an underscore may be called from any thread and return at once; messages for the shell leave through `emit`.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lora.errors import LoraError
from lora.units import Seconds
from lora_cli import events, session
from lora_cli.announcer import Announcer
from lora_cli.commands import Commands
from lora_cli.devices import Gone, NewDefault
from lora_cli.engine import Engine
from lora_cli.holder import MicHolder
from lora_cli.kept import KeptTakes
from lora_cli.portaudio import MicError
from lora_cli.ports import Block, InputPort, Stream
from lora_cli.recorder import MIN_TAKE_S, Recorder, Take
from lora_cli.session import Event, Rules, State
from lora_cli.store import Store
from lora_cli.transcripts import Emit, Transcripts
from lora_cli.vad import Endpoint, VoiceDetector

TICK_S = 0.05
MAX_INBOX = 4000
"""Two minutes of audio that could not be written yet; beyond that blocks are dropped and counted."""


@dataclass(frozen=True)
class CoreSettings:
    """How the core records."""

    rules: Rules = field(default_factory=Rules)
    device: str | None = None
    open_mic: bool = True
    pre_roll_s: Seconds = 0.5
    silence_s: Seconds = 1.0


class VoiceCore(Commands):
    """Runs a session until `stop`.

    Args:
        detector: makes the voice detector, on a thread of its own; it may raise a LoraError.
    """

    def __init__(
        self,
        *,
        port: InputPort,
        engine: Engine,
        store: Store,
        emit: Emit,
        settings: CoreSettings | None = None,
        detector: Callable[[], VoiceDetector] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        transcripts = Transcripts(engine, store, emit, self._take_done, clock)
        super().__init__(transcripts, KeptTakes(store, transcripts, emit), clock)
        self.settings = settings or CoreSettings()
        self.store = store
        self.state = State()
        self.device = self.settings.device
        self._engine, self._emit, self._detector = engine, emit, detector
        self._mic = MicHolder(port, self._put_block, self._report_change, clock)
        self._recorder = Recorder(
            None,
            pre_roll_s=self.settings.pre_roll_s,
            endpoint=lambda: Endpoint(silence_s=self.settings.silence_s),
        )
        self._announce = Announcer(emit, self._mic, self._recorder)
        self._overflow = False
        self._close_wanted = self._reopen_wanted = False
        self._thread = threading.Thread(target=self._run, name="voice-core", daemon=True)

    def start(self) -> None:
        """Start the thread, the model process and, where the settings say so, the microphone."""
        self._thread.start()

    def stop(self) -> None:
        """Keep what is being recorded, then end everything; a core that was never started has nothing to end."""
        if self._thread.ident is not None:
            self._inbox.put(None)
            self._thread.join(timeout=5)

    def _put_block(self, block: Block) -> None:
        """Take note of a block, on the driver's thread: no more than this."""
        if self._inbox.qsize() < MAX_INBOX:
            self._inbox.put(block)
        else:
            self._overflow = True

    def _report_change(self, stream: Stream, change: Gone | NewDefault) -> None:
        self._inbox.put(lambda: self._on_change(change) if self._mic.stream is stream else None)

    # The thread.

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            # A fault of the program: the shell ends with it, instead of standing still.
            self._emit(events.Broken(error))
        finally:
            self._mic.close()
            self._engine.stop()

    def _work(self) -> None:
        self._engine.start(lambda message: self._inbox.put(lambda: self.transcripts.on_message(message)))
        if self.settings.open_mic:
            self._step(session.MicSwitch(self._clock()))
        self._tell_phase()
        threading.Thread(target=self._load_detector, name="detector", daemon=True).start()
        while True:
            try:
                item = self._inbox.get(timeout=TICK_S)
            except queue.Empty:
                self._tick()
                continue
            if item is None:
                break
            if isinstance(item, Block):
                self._on_block(item)
            else:
                item()
            self._tick()
        if self._recorder.take is not None:
            self._recorder.finish("quit", self._clock())
            self._complete(self._recorder.close_take())

    def _load_detector(self) -> None:
        """Load the voice detector beside the core: importing onnxruntime takes a while."""
        if self._detector is None:
            return
        try:
            detector = self._detector()
        except LoraError as error:
            self._announce.say(f"{error} Takes will not end on silence.", "warning")
            return
        self._inbox.put(lambda: self._recorder.set_detector(detector))

    def _step(self, event: Event) -> None:
        before = self.state
        self.state, actions = session.step(self.state, event, self.settings.rules)
        for action in actions:
            if not self._act(action, event.at):
                self.state, _ = session.step(self.state, session.Refused(event.at), self.settings.rules)
                break
        if self.state.phase != before.phase or self.state.gesture != before.gesture or actions:
            self._tell_phase()

    def _act(self, action: session.Action, at: float) -> bool:
        """Carry out one action; False where it cannot be done, which has been said then."""
        match action:
            case session.OpenMic():
                return self._open()
            case session.CloseMic():
                self._close_wanted = self._recorder.take is not None
                if not self._close_wanted:
                    self._close()
            case session.StartTake():
                return self._start_take(at)
            case session.FinishTake(reason):
                self._recorder.finish(reason, at)
                if self._mic.stream is None:
                    self._complete(self._recorder.close_take())
            case session.DiscardTake(reason):
                self._discard(reason)
        return True

    def _tick(self) -> None:
        now = self._clock()
        if (why := self._mic.overdue()) is not None:
            self._lost(why)
        if self.state.recording:
            self._step(session.Tick(now))
        self._announce.level(now)

    # Microphone.

    def _open(self) -> bool:
        self._close_wanted = False
        if self._mic.stream is not None:
            return True
        try:
            stream = self._mic.open(self.device)
        except MicError as error:
            self._announce.say(str(error), "error")
            return False
        self._recorder.opened(stream.rate_hz)
        return True

    def _close(self) -> None:
        self._close_wanted = self._reopen_wanted = False
        self._mic.close()
        self._recorder.opened(self._recorder.rate_hz)

    def _lost(self, why: str, advice: str = "Choose a microphone with F2.") -> None:
        self._close()
        self._announce.say(f"{why} {advice}", "error")
        if self._recorder.closing:
            self._complete(self._recorder.close_take())
        self._step(session.MicLost(self._clock()))
        self._tell_phase()

    def _choose_device(self, name: str | None) -> None:
        if self.state.recording:
            self._announce.say("Finish or throw away the recording before changing the microphone.", "warning")
            return
        if self._recorder.closing:
            self._complete(self._recorder.close_take())
        self.device = name
        self._reopen()

    def _reopen(self) -> None:
        self._close()
        self.state = replace(self.state, mic_open=False)
        self._step(session.MicSwitch(self._clock()))

    def _on_change(self, change: Gone | NewDefault) -> None:
        """Follow the system's default microphone, unless one was chosen by name; never in the middle of a take."""
        match change:
            case Gone(why, successor) if successor is not None and self.device is None and self.state.mic_open:
                self._lost(why, f"Listening to {successor} now.")
                self._reopen()
            case Gone(why):
                self._lost(why)
            case NewDefault() if self.device is not None:
                pass
            case NewDefault() if self._recorder.take is not None:
                self._reopen_wanted = True
            case NewDefault(name):
                self._announce.say(f"The default microphone is {name} now.")
                self._reopen()

    def _settle_mic(self) -> None:
        """Close or reopen the microphone where that had to wait for a take's end."""
        if self._close_wanted:
            self._close()
        elif self._reopen_wanted:
            self._reopen()

    def _on_block(self, block: Block) -> None:
        if self._mic.stream is None:
            return
        if self._overflow:
            block, self._overflow = replace(block, lost=True), False
        running = self._recorder.take
        try:
            pushed = self._recorder.push(block)
        except OSError as error:
            where = running.path if running is not None else self.store.takes_dir
            self._lost(f"{where}: cannot be written ({error.strerror}). What was written before is kept there.")
            return
        if pushed.added and running is not None:
            self.transcripts.feed(running, pushed.added)
        if pushed.finished is not None:
            self._complete(pushed.finished)
        elif pushed.speech_ended:
            self._step(session.SpeechEnded(self._clock()))

    # Takes.

    def _start_take(self, at: float) -> bool:
        if self._recorder.closing:
            self._complete(self._recorder.close_take())
        take_id, path = self.store.new_take()
        try:
            take = self._recorder.start(take_id, path, at)
        except OSError as error:
            self._announce.say(
                f"{path}: cannot be written ({error.strerror}). Free space, or give --data-dir.", "error"
            )
            return False
        self.transcripts.begin(take)
        self._emit(events.TakeStarted(take_id, str(path)))
        return True

    def _discard(self, reason: session.Reason) -> None:
        take = self._recorder.discard()
        if take is not None:
            self.transcripts.discard(take)
            self._emit(events.TakeDiscarded(take.id, reason))
            self._settle_mic()

    def _complete(self, take: Take | None) -> None:
        self._settle_mic()
        if take is None:
            return
        if take.seconds < MIN_TAKE_S:
            take.path.unlink(missing_ok=True)
            self.transcripts.discard(take)
            self._emit(events.TakeDiscarded(take.id, take.reason or "key"))
            self._announce.say(f"{take.seconds:.1f} s is too short to be a recording.", "warning")
            self._take_done()
            return
        self._announce.faults(take)
        self.transcripts.finish(take)

    def _run_again(self, take_id: str, voices: Sequence[str] | None) -> None:
        if self._kept.run_again(take_id, voices):
            self.state = replace(self.state, pending=self.state.pending + 1)
            self._tell_phase()

    # Shell.

    def _take_done(self) -> None:
        self._step(session.TakeDone(self._clock()))

    def _tell_phase(self) -> None:
        self._announce.phase(self.state, self.device)
