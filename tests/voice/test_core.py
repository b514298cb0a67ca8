"""The core with a real desk, fake voices and audio at its own pace."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile
from lora_cli import events
from lora_cli.core import CoreSettings, VoiceCore
from lora_cli.devices import Gone, NewDefault
from lora_cli.latency import percentile
from lora_cli.portaudio import MicError
from lora_cli.ports import Block, FilePort, InputPort
from lora_cli.session import Rules
from lora_cli.store import Store
from voice_fakes import CountingVoices, Inbox, LoudnessDetector, ThreadEngine, tone_pcm

Build = Callable[..., VoiceCore]


@pytest.fixture
def build(inbox: Inbox, data_dir: Path) -> Iterator[Build]:
    cores: list[VoiceCore] = []

    def make(port: InputPort, engine: ThreadEngine, *, rules: Rules | None = None, **more: bool) -> VoiceCore:
        core = VoiceCore(
            port=port,
            engine=engine,
            store=Store(data_dir, speaker="ada", **more),
            emit=inbox.put,
            settings=CoreSettings(silence_s=0.4, rules=rules or Rules()),
            detector=LoudnessDetector,
        )
        cores.append(core)
        core.start()
        return core

    yield make
    for core in cores:
        core.stop()


def test_a_tapped_take_ends_on_silence_and_both_voices_write(build: Build, inbox: Inbox) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices("tuned")))
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    core.press()
    port.play(tone_pcm(1.0))
    finished = inbox.wait(events.TakeFinished)
    assert finished.reason == "silence"
    finals = [inbox.wait(events.Words, lambda m: m.final) for _ in range(2)]
    assert [words.voice for words in finals] == ["base", "tuned"]
    tenths = round(finished.seconds * 10)
    assert [words.text for words in finals] == [f"base heard {tenths} tenths", f"tuned heard {tenths} tenths"]
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    (entry,) = core.store.entries()
    assert set(entry.texts) == {"base", "tuned"}


def test_partial_texts_come_while_somebody_speaks(build: Build, inbox: Inbox) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()))
    core.press()
    port.play(tone_pcm(1.5))
    words = inbox.wait(events.Words)
    assert not words.final
    assert words.audio_s < 1.5


def test_escape_leaves_neither_file_nor_history(build: Build, inbox: Inbox) -> None:
    core = build(FilePort(), ThreadEngine(CountingVoices()))
    core.press()
    path = Path(inbox.wait(events.TakeStarted).path)
    core.cancel()
    inbox.wait(events.TakeDiscarded)
    assert not path.exists()
    assert core.store.entries() == []


def test_a_model_that_cannot_be_loaded_costs_no_recording(build: Build, inbox: Inbox) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices(), fails="no such model"))
    core.press()
    port.play(tone_pcm(1.0))
    finished = inbox.wait(events.TakeFinished)
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    (entry,) = core.store.entries()
    assert entry.failure == "no such model"
    samples, _ = soundfile.read(core.store.wav_path(entry))
    assert len(samples) / 16_000 == pytest.approx(finished.seconds)


def test_a_silent_take_is_kept_and_says_that_it_is_silent(build: Build, inbox: Inbox) -> None:
    core = build(FilePort(), ThreadEngine(CountingVoices()))
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    core.press()
    inbox.wait(events.Heard, lambda m: m.seconds > 0.8)
    core.press()
    assert "silence" in inbox.wait(events.Notice).text
    inbox.wait(events.Failed)
    assert core.store.entries()[0].failure == "this recording: silence."


def test_a_clipping_take_says_what_to_do(build: Build, inbox: Inbox) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()))
    core.press()
    port.play(b"\xff\x7f" * 16_000)
    assert "turn the microphone's level down" in inbox.wait(events.Notice).text


class DyingPort(FilePort):
    """Gives half a second of audio and then nothing: as a device does whose cable is pulled."""

    def open(self, device, on_block, on_lost):  # type: ignore[no-untyped-def]
        left = [16]

        def some(block: Block) -> None:
            left[0] -= 1
            if left[0] >= 0:
                on_block(block)

        return super().open("webcam", some, on_lost)


def test_a_microphone_that_goes_silent_is_noticed_within_two_seconds_and_the_take_kept(
    build: Build, inbox: Inbox
) -> None:
    core = build(DyingPort(), ThreadEngine(CountingVoices()))
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    core.press()
    started = time.monotonic()
    notice = inbox.wait(events.Notice, lambda m: m.severity == "error")
    assert time.monotonic() - started < 2.5  # half a second of audio, and then two at most
    assert "webcam" in notice.text
    assert inbox.wait(events.TakeFinished).reason == "unplugged"
    assert core.state.phase in ("idle", "transcribing")


class NoPort:
    def open(self, device, on_block, on_lost):  # type: ignore[no-untyped-def]
        raise MicError("no microphone was found. Plug one in.")


def test_without_a_microphone_the_app_says_so_and_goes_on(build: Build, inbox: Inbox) -> None:
    core = build(NoPort(), ThreadEngine(CountingVoices()))
    assert "Plug one in" in inbox.wait(events.Notice).text
    core.press()
    inbox.wait(events.Notice)
    assert core.state.pending == 0


class NamedPort(FilePort):
    """Opens what it is asked for; without a name, what is the default now."""

    default = "built-in"

    def open(self, device, on_block, on_lost):  # type: ignore[no-untyped-def]
        return super().open(device or self.default, on_block, on_lost)


def system_says(core: VoiceCore, change: Gone | NewDefault) -> None:
    """Tell the core what PulseAudio told the watch of the open microphone."""
    stream = core._mic.stream
    assert stream is not None
    core._report_change(stream, change)


def open_mic(name: str) -> Callable[[events.PhaseChanged], bool]:
    return lambda message: message.mic_open and message.mic_name == name


def test_a_new_default_microphone_is_used_at_once(build: Build, inbox: Inbox) -> None:
    port = NamedPort()
    core = build(port, ThreadEngine(CountingVoices()))
    inbox.wait(events.PhaseChanged, open_mic("built-in"))
    port.default = "headset"
    system_says(core, NewDefault("headset"))
    assert "headset" in inbox.wait(events.Notice).text
    inbox.wait(events.PhaseChanged, open_mic("headset"))


def test_a_new_default_microphone_waits_for_the_end_of_a_take(build: Build, inbox: Inbox) -> None:
    port = NamedPort()
    core = build(port, ThreadEngine(CountingVoices()))
    inbox.wait(events.PhaseChanged, open_mic("built-in"))
    core.press()
    port.default = "headset"
    inbox.wait(events.TakeStarted)
    system_says(core, NewDefault("headset"))
    port.play(tone_pcm(1.0))
    finished = inbox.wait(events.TakeFinished)
    assert finished.seconds > 1.0
    recording = [m for m in inbox.seen if isinstance(m, events.PhaseChanged) and m.phase == "recording"]
    assert {message.mic_name for message in recording} == {"built-in"}
    inbox.wait(events.Words, lambda m: m.final)
    assert core._mic.name == "headset"


def test_a_microphone_that_was_chosen_by_name_stays(build: Build, inbox: Inbox) -> None:
    port = NamedPort()
    core = build(port, ThreadEngine(CountingVoices()))
    core.choose_device("webcam")
    inbox.wait(events.PhaseChanged, open_mic("webcam"))
    system_says(core, NewDefault("headset"))
    core.press()
    assert inbox.wait(events.PhaseChanged, lambda m: m.phase == "recording").mic_name == "webcam"


def test_after_an_unplugged_default_microphone_the_next_one_is_used(build: Build, inbox: Inbox) -> None:
    port = NamedPort()
    core = build(port, ThreadEngine(CountingVoices()))
    inbox.wait(events.PhaseChanged, open_mic("built-in"))
    port.default = "webcam"
    system_says(core, Gone("built-in: unplugged.", "webcam"))
    assert "Listening to webcam now" in inbox.wait(events.Notice).text
    inbox.wait(events.PhaseChanged, open_mic("webcam"))


def test_a_fault_of_the_program_is_told_and_not_sat_out(build: Build, inbox: Inbox) -> None:
    class BrokenEngine(ThreadEngine):
        def start(self, deliver):  # type: ignore[no-untyped-def]
            raise RuntimeError("a bug")

    build(FilePort(), BrokenEngine(CountingVoices()))
    assert str(inbox.wait(events.Broken).error) == "a bug"


def test_a_full_disk_costs_neither_text_nor_visit(build: Build, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(entry: object) -> None:
        raise OSError(28, "No space left on device")

    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()))
    monkeypatch.setattr(core.store, "put", full)
    core.press()
    port.play(tone_pcm(1.0))
    assert "No space left" in inbox.wait(events.Notice).text
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening" and bool(inbox.seen))


class TimedPort:
    """Calls back at a fixed pace and notes how long each call took."""

    rate_hz, name = 16_000, "timed"

    def __init__(self) -> None:
        self.took: list[float] = []
        self.worked: list[float] = []

    def open(self, device, on_block, on_lost):  # type: ignore[no-untyped-def]
        import threading

        self._stop = threading.Event()

        def run() -> None:
            block = tone_pcm(0.032)
            while not self._stop.wait(0.005):
                started, before = time.perf_counter(), time.thread_time()
                on_block(Block(bytes(block), time.monotonic()))
                self.took.append(time.perf_counter() - started)
                self.worked.append(time.thread_time() - before)

        threading.Thread(target=run, daemon=True).start()
        return self

    def close(self) -> None:
        self._stop.set()


def test_the_audio_callback_stays_short_while_a_model_sleeps_for_a_second(build: Build, inbox: Inbox) -> None:
    port, voices = TimedPort(), CountingVoices(sleep_s=1.0)
    core = build(port, ThreadEngine(voices))
    core.press()
    until = time.monotonic() + 60
    while len(port.took) < 300 or not voices.calls:
        assert time.monotonic() < until
        time.sleep(0.1)
    # Its own work, and no wait for anybody: a machine that gives the thread no processor says nothing about either.
    assert percentile(port.worked, 0.99) < 0.002  # type: ignore[operator]
    assert percentile(port.took, 0.5) < 0.002  # type: ignore[operator]


def test_the_cap_ends_a_take(build: Build, inbox: Inbox) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()), rules=Rules(max_s=0.7))
    core.press(releases=True)
    port.play(tone_pcm(3.0))
    assert inbox.wait(events.TakeFinished).reason == "cap"


def test_without_history_nothing_is_left_but_what_was_taught(build: Build, inbox: Inbox, data_dir: Path) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()), keep_history=False)
    core.press()
    path = Path(inbox.wait(events.TakeStarted).path)
    port.play(tone_pcm(1.0))
    take = inbox.wait(events.TakeFinished).take_id
    inbox.wait(events.Words, lambda m: m.final)
    core.teach(take, "one two", "corrected")
    core.stop()
    core.store.close()
    assert not path.exists()
    kept = {str(item.relative_to(data_dir)) for item in data_dir.rglob("*") if item.is_file()}
    assert kept == {"taught/manifest.jsonl", f"taught/audio/{take}.wav"}


def test_a_take_can_be_run_again_by_another_voice(build: Build, inbox: Inbox, tmp_path: Path) -> None:
    port = FilePort()
    core = build(port, ThreadEngine(CountingVoices()))
    core.press()
    port.play(tone_pcm(1.0))
    inbox.wait(events.Words, lambda m: m.final)
    inbox.wait(events.PhaseChanged, lambda m: m.phase == "listening")
    core.load_adapter(tmp_path, "later")
    inbox.wait(events.ModelState, lambda m: m.active == "later")
    core.run_again(core.store.entries()[0].id)
    assert inbox.wait(events.Words, lambda m: m.final and m.voice == "later").text.startswith("later heard")
