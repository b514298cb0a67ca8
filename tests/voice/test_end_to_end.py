"""The whole app through a real audio path: PulseAudio's virtual microphone, tmux, the model's own process.

`make test-voice` runs these. They need pulseaudio, tmux and PortAudio, and FSDD for speech.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lora_cli import adapting, events
from lora_cli.core import VoiceCore
from lora_cli.engine import ProcessEngine
from lora_cli.history import Entry
from lora_cli.options import DEFAULT_KEYS, VoiceOptions
from lora_cli.ports import FilePort
from lora_cli.store import Store
from lora_cli.transcripts import Emit
from lora_cli.ui.app import MoonshineApp
from lora_cli.ui.dialogs import VerdictDialog, percent
from lora_cli.ui.widgets import AdaptLine
from lora_cli.wav import WavWriter
from virtual_microphone import DEADLINE_S, VirtualMicrophone
from voice_fakes import pcm_of, until

from lora.data.manifest import read_manifest
from lora.data.sources.fsdd import read_fsdd

SHORT_TRAINING = "max_steps: 40\neval_interval: 20\nstrengths: [1.0]\nselection_budget: 0.03\n"
"""Half of the app's own steps, 20 s of one core. Forty takes leave six for choosing, which of them is chance: by the
app's own budget of nothing for the guardrail, some choices keep the untrained model."""
ADAPT_DEADLINE_S = 3600.0
REPAINT_S = 5.0
FSDD = Path(os.environ.get("FSDD", "../shared/fsdd"))
WANTED = os.environ.get("MOONSHINE_TEST_VOICE") == "1"
MISSING = VirtualMicrophone.missing()

pytestmark = [
    pytest.mark.skipif(not WANTED, reason="end-to-end voice tests run with: make test-voice"),
    pytest.mark.skipif(
        bool(MISSING),
        reason="apt install pulseaudio pulseaudio-utils libportaudio2 libasound2-plugins tmux "
        f"({', '.join(MISSING)} missing)",
    ),
    pytest.mark.skipif(not FSDD.is_dir(), reason=f"{FSDD}: no FSDD recordings; give FSDD=DIR"),
    pytest.mark.slow,
]


@pytest.fixture
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMicrophone]:
    # A socket's path has to be short.
    folder = Path(f"/tmp/voice-{os.getpid()}-{time.monotonic_ns() % 1_000_000}")
    microphone = VirtualMicrophone(folder)
    try:
        microphone.start()
        yield microphone
    finally:
        left = microphone.stop()
        shutil.rmtree(folder, ignore_errors=True)
    # A process that outlives its test keeps a CI job open.
    assert left == []


class TmuxApp:
    """The app in tmux, 80x24."""

    def __init__(self, microphone: VirtualMicrophone, data: Path, *words: str) -> None:
        self.environment = microphone.environment
        self.socket = str(microphone.folder / "tmux")
        self.data = data
        command = [sys.executable, "-m", "lora_cli", "--data-dir", str(data), "--model-id", "builtin:digits", *words]
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", *command)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def keys(self, *names: str) -> None:
        self.tmux("send-keys", *names)

    def wait(self, shown: Callable[[str], bool]) -> str:
        started = painted = time.monotonic()
        while not shown(screen := self.screen()):
            assert time.monotonic() < started + DEADLINE_S, f"{screen}\n{log_of(self.data)}"
            if time.monotonic() > painted + REPAINT_S:
                painted = time.monotonic()
                self.repaint()
            time.sleep(0.1)
        return screen

    def repaint(self) -> None:
        """Let the app draw everything: tmux 3.3a on a busy machine loses lines that were written to it."""
        for columns in ("81", "80"):
            self.tmux("resize-window", "-x", columns)

    def wait_ready(self) -> None:
        """Return once microphone and model are there."""
        self.wait(lambda screen: "READY" in screen and "mic: fakemic" in screen and "loading" not in screen)

    def entries(self) -> list[Entry]:
        path = self.data / "history.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [Entry(**json.loads(line)) for line in lines]

    def close(self) -> None:
        self.tmux("kill-server")


def log_of(data: Path) -> str:
    path = data / "model.log"
    return path.read_text(errors="replace")[-1500:] if path.exists() else ""


@pytest.fixture
def app(microphone: VirtualMicrophone, tmp_path: Path) -> Iterator[TmuxApp]:
    # The longest pre-roll: between a word and the key that follows it a busy machine can take seconds.
    app = TmuxApp(microphone, tmp_path / "data", "--pre-roll-seconds", "10")
    yield app
    app.close()


def slowness(microphone: VirtualMicrophone) -> float:
    """Return what one look at the sound server takes; noticing anything takes a few of them, on any machine."""
    started = time.monotonic()
    microphone.pactl("list", "short", "sources")
    return time.monotonic() - started


def speech(speaker: str, samples: int, seed: int = 7) -> list[tuple[bytes, str]]:
    """Return digit strings of one FSDD speaker as a microphone would give them, and their texts."""
    clips = read_fsdd(FSDD, split="test", speakers=[speaker], samples=samples, seed=seed)
    return [(pcm_of(clip.wave, clip.sampling_rate), clip.text) for clip in clips]


def found_in(recording: Path, played: bytes) -> tuple[float, float]:
    """Return where in a recording something was played, in seconds, and how well it correlates there."""
    heard, rate = soundfile.read(recording, dtype="float64")
    spoken = np.frombuffer(played, dtype="<i2") / 32_768
    at = int(np.argmax(np.correlate(heard, spoken, "valid")))
    return at / rate, float(np.corrcoef(heard[at : at + len(spoken)], spoken)[0, 1])


def test_what_is_said_into_the_microphone_is_what_run_stt_hears_in_the_file(
    app: TmuxApp, microphone: VirtualMicrophone, tmp_path: Path
) -> None:
    app.wait_ready()
    (played, _), *_ = speech("jackson", 1)
    # The first word is spoken before the key goes down: pre-roll keeps it.
    microphone.say(played)
    microphone.wait_until_said(0.2)
    app.keys("Space")
    app.wait(lambda screen: "REC" in screen)
    app.wait(lambda screen: "READY" in screen and bool(app.entries()) and bool(app.entries()[0].texts))
    (entry,) = app.entries()
    recording = app.data / "takes" / entry.wav
    assert found_in(recording, played)[1] > 0.99  # all of it, from the first word on
    assert entry.texts["base"] in app.screen()
    output = tmp_path / "stt.json"
    command = [sys.executable, "-m", "lora", "run-stt", str(recording), "--model-id", "builtin:digits"]
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    assert entry.texts["base"] == json.loads(output.read_text())["utterances"][0]["text"]


def test_an_unplugged_microphone_is_noticed_and_the_recording_kept(app: TmuxApp, microphone: VirtualMicrophone) -> None:
    app.wait_ready()
    (played, _), *_ = speech("jackson", 1)
    app.keys("Space")
    app.wait(lambda screen: "REC" in screen)
    microphone.say(played)
    microphone.wait_until_said(1.0)
    allowed = 2.0 + 5 * slowness(microphone)
    started = time.monotonic()
    microphone.unplug()
    app.wait(lambda screen: "unplugged" in screen)
    assert time.monotonic() - started < allowed
    app.wait(lambda screen: bool(app.entries()))
    assert app.entries()[0].seconds > 0.5


def test_the_systems_default_microphone_is_followed(app: TmuxApp, microphone: VirtualMicrophone) -> None:
    app.wait_ready()
    microphone.plug_in_another("headset")
    app.wait(lambda screen: "mic: headset" in screen and "The default microphone is headset now" in screen)


def test_a_killed_app_leaves_a_readable_recording(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lora_cli", "--record-only", "--no-stop-on-silence", "--data-dir", str(tmp_path)]
    null = subprocess.DEVNULL
    process = subprocess.Popen(words, env=microphone.environment, stdin=null, stdout=null, stderr=null)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not list(tmp_path.glob("takes/*.wav")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ((played, _),) = speech("jackson", 1)
        spoken_s = len(played) / 32_000
        microphone.say(played)
        microphone.wait_until_said(spoken_s - 0.5)
        allowed = 1.0 + 5 * slowness(microphone)
        said_s = microphone.said_s
    finally:
        process.kill()
        process.wait()
    (recording,) = tmp_path.glob("takes/*.wav")
    samples, rate = soundfile.read(recording, dtype="float64")
    begun = np.frombuffer(played, dtype="<i2")[: round(rate * 0.5)] / 32_768
    begin = int(np.argmax(np.correlate(samples, begun, "valid")))
    assert (len(samples) - begin) / rate > said_s - allowed


def test_prompts_are_taught_through_the_microphone(app: TmuxApp, microphone: VirtualMicrophone) -> None:
    app.wait_ready()
    app.keys("t")
    app.wait(lambda screen: "1 of 40" in screen)
    for number, (played, _) in enumerate(speech("yweweler", 5), start=1):
        app.keys("Space")
        app.wait(lambda screen: "REC" in screen)
        microphone.say(played)
        app.wait(lambda screen: "RECORDED" in screen)
        app.keys("Enter")
        app.wait(lambda screen, number=number: f"{number} taught" in screen)  # type: ignore[misc]
    manifest = read_manifest(app.data / "taught" / "manifest.jsonl")
    assert [row.extra["origin"] for row in manifest.utterances] == ["prompted"] * 5
    assert {row.extra["part"] for row in manifest.utterances} == {"train", "heldout"}


def taught_store(folder: Path, speaker: str) -> Store:
    """Return a store with 40 prompted takes of one FSDD speaker."""
    store = Store(folder, speaker=speaker)
    for number, clip in enumerate(read_fsdd(FSDD, split="train", speakers=[speaker], samples=40, seed=11)):
        # Ids decide the order of training: those of the clock would make every run another one.
        take_id = f"take-{number:02d}"
        path = store.takes_dir / f"{take_id}.wav"
        pcm = pcm_of(clip.wave, clip.sampling_rate)
        writer = WavWriter(path, 16_000)
        writer.write(pcm)
        writer.close()
        store.put(Entry(take_id, "2026-01-02T03:04:05+00:00", path.name, len(pcm) / 32_000))
        store.correct(take_id, clip.text, "prompted")
    return store


async def adapt_in_the_app(app: MoonshineApp) -> events.AdaptFinished:
    """Press the key that adapts, wait for the verdict, load the adapter; return what was shown."""
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.core.transcripts.voices, DEADLINE_S)
        await pilot.press("a")
        await until(pilot, lambda: app.main.query_one(AdaptLine).display, DEADLINE_S)
        await until(pilot, lambda: isinstance(app.screen, VerdictDialog), ADAPT_DEADLINE_S)
        verdict = app.screen
        assert isinstance(verdict, VerdictDialog)
        outcome = verdict.outcome
        assert outcome.error is None
        figures = percent(outcome.baseline_wer), percent(outcome.tuned_wer)
        await until(pilot, lambda: all(figure in app.export_screenshot() for figure in figures), DEADLINE_S)
        await pilot.press("enter")
        await until(pilot, lambda: "voice-001" in app.core.transcripts.voices, DEADLINE_S)
        assert app.core.transcripts.active == "voice-001"
        return outcome


def test_forty_prompted_takes_of_an_accent_make_an_adapter_that_reads_it_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody talks meanwhile: training need not stand back, which on a busy machine costs most of the time.
    monkeypatch.setattr(adapting, "NICE", 0)
    config = tmp_path / "short.yaml"
    config.write_text(SHORT_TRAINING, encoding="utf-8")
    store = taught_store(tmp_path, "yweweler")
    options = VoiceOptions(data_dir=tmp_path, adapt_config=config)

    def make_core(emit: Emit) -> VoiceCore:
        engine = ProcessEngine(options.model_choice, tmp_path / "model.log")
        return VoiceCore(port=FilePort(), engine=engine, store=store, emit=emit)

    outcome = asyncio.run(adapt_in_the_app(MoonshineApp(options, dict(DEFAULT_KEYS), make_core)))
    assert outcome.baseline_wer is not None
    assert outcome.tuned_wer is not None
    assert outcome.tuned_wer < outcome.baseline_wer
    assert Path(str(outcome.adapter_dir), "adapter_model.safetensors").is_file()
