"""The shell, driven by Textual's pilot."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import lora_cli
import pytest
from lora_cli.core import CoreSettings, VoiceCore
from lora_cli.events import AdaptFinished, AdaptProgress, Notice
from lora_cli.options import DEFAULT_KEYS, VoiceOptions
from lora_cli.ports import FilePort
from lora_cli.store import Store
from lora_cli.transcripts import Emit
from lora_cli.ui.app import MoonshineApp
from lora_cli.ui.dialogs import CorrectDialog, VerdictDialog
from lora_cli.ui.kitty import KeyRelease, ReleasesReported
from lora_cli.ui.teach_screen import TeachScreen
from lora_cli.ui.widgets import AdaptLine, RecordButton, VoicePane, marked_text
from textual.pilot import Pilot
from textual.widgets import Input, Static
from voice_fakes import CountingVoices, LoudnessDetector, ThreadEngine, tone_pcm, until

# Textual gives a key press 30 seconds to be worked off; a machine that is busy with other work can take longer.
Pilot._wait_for_screen.__defaults__ = (300.0,)  # type: ignore[attr-defined]

Scenario = Callable[[MoonshineApp, Pilot[None], FilePort], Awaitable[None]]


def play(folder: Path, scenario: Scenario, *, size: tuple[int, int] = (80, 24), keys: dict | None = None) -> None:  # type: ignore[type-arg]
    port = FilePort()
    options = VoiceOptions(data_dir=folder, prompt_count=2)

    def make_core(emit: Emit) -> VoiceCore:
        return VoiceCore(
            port=port,
            engine=ThreadEngine(CountingVoices("tuned")),
            store=Store(folder, speaker="ada"),
            emit=emit,
            settings=CoreSettings(silence_s=0.3),
            detector=LoudnessDetector,
        )

    async def run() -> None:
        app = MoonshineApp(options, {**DEFAULT_KEYS, **(keys or {})}, make_core)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.core.transcripts.active == "tuned")
            await pilot.pause(0.1)
            await scenario(app, pilot, port)

    asyncio.run(run())


def texts(app: MoonshineApp) -> list[str]:
    return [pane.text for pane in app.main.query(VoicePane)]


async def speak(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
    known = len(app.core.store.entries())
    await pilot.press("space")
    port.play(tone_pcm(0.6))
    await until(pilot, lambda: len(app.core.store.entries()) > known)
    await until(pilot, lambda: len(app.core.store.entries()[0].texts) == 2 and app.core.state.phase == "listening")
    await pilot.pause(0.1)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 12)])
def test_a_spoken_take_shows_both_texts(data_dir: Path, size: tuple[int, int]) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await speak(app, pilot, port)
        left, right = texts(app)
        assert left.startswith("base heard")
        assert right.startswith("tuned heard")

    play(data_dir, scenario, size=size)


def test_a_voice_may_be_named_anything(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        pane = app.main.query(VoicePane).first()
        pane.label("[bold]mine[/x] [@click=app.quit]", "[1.0]")
        await pilot.pause(0.1)
        assert pane._border_title.plain == "[bold]mine[/x] [@click=app.quit]"  # type: ignore[union-attr]

    play(data_dir, scenario)


def test_a_correction_is_saved_and_shown(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await speak(app, pilot, port)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CorrectDialog))
        app.screen.query_one(Input).value = "seven two"
        await pilot.press("enter")
        await until(pilot, lambda: app.core.store.taught_rows())
        assert app.core.store.taught_rows()[0]["text"] == "seven two"
        assert app.core.store.entries()[0].corrected == "seven two"

    play(data_dir, scenario)


def test_holding_the_button_with_the_mouse_records_until_it_is_released(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.mouse_down(RecordButton)
        await until(pilot, lambda: app.core.state.gesture == "hold")
        port.play(tone_pcm(3.0))
        await pilot.pause(0.7)
        assert app.core.state.recording
        await pilot.mouse_up(RecordButton)
        await until(pilot, lambda: app.core.store.entries())

    play(data_dir, scenario)


def test_where_releases_are_reported_a_held_key_records_until_it_comes_up(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        app.post_message(KeyRelease("space"))  # a stray one
        app.post_message(ReleasesReported())
        await until(pilot, lambda: app.reports_releases)
        await pilot.press("space")
        await until(pilot, lambda: app.core.state.gesture == "hold")
        port.play(tone_pcm(3.0))
        await pilot.pause(0.7)
        app.post_message(KeyRelease("space"))
        await until(pilot, lambda: app.core.store.entries())

    play(data_dir, scenario)


def test_the_talk_key_can_be_another_one(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.press("space")
        await pilot.pause(0.2)
        assert not app.core.state.recording
        await pilot.press("f5")
        await until(pilot, lambda: app.core.state.recording)
        await pilot.press("escape")
        await until(pilot, lambda: not app.core.state.recording)
        assert app.core.store.entries() == []

    play(data_dir, scenario, keys={"talk": ("f5",)})


def test_a_blind_vote_hides_the_names_until_it_is_given(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.press("b")
        await speak(app, pilot, port)
        titles = [str(pane.border_title) for pane in app.main.query(VoicePane)]
        assert [title.strip() for title in titles] == ["LEFT", "RIGHT"]
        left = texts(app)[0].split()[0]
        await pilot.press("1")
        await until(pilot, lambda: app.core.store.score())
        assert app.core.store.score() == {left: 1}
        await pilot.pause(0.2)
        assert any("base model" in str(pane.border_title) for pane in app.main.query(VoicePane))

    play(data_dir, scenario)


def test_prompts_are_read_accepted_and_kept(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, TeachScreen))
        screen = app.screen
        assert isinstance(screen, TeachScreen)
        prompt = screen.prompts.current
        await pilot.press("space")
        port.play(tone_pcm(0.6))
        await until(pilot, lambda: screen.complete)
        await pilot.press("enter")
        await until(pilot, lambda: app.core.store.taught_rows())
        row = app.core.store.taught_rows()[0]
        assert (row["text"], row["origin"]) == (prompt, "prompted")
        assert screen.prompts.position == 1

    play(data_dir, scenario)


def test_progress_and_verdict_of_an_adaptation_are_shown(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        app.tell(AdaptProgress("training", 45, 120, "training, loss 0.53"))
        await until(pilot, lambda: app.main.query_one(AdaptLine).display)
        app.tell(AdaptFinished("accept", ("better",), 0.3, 0.1, str(data_dir)))
        await until(pilot, lambda: isinstance(app.screen, VerdictDialog))
        await pilot.press("enter")
        await until(pilot, lambda: app.core.transcripts.active == data_dir.name)

    play(data_dir, scenario)


def test_a_verdict_waits_until_nobody_writes(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await speak(app, pilot, port)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CorrectDialog))
        app.tell(AdaptFinished("accept", ("better",), 0.3, 0.1, str(data_dir)))
        await pilot.pause(0.2)
        assert isinstance(app.screen, CorrectDialog)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, VerdictDialog))

    play(data_dir, scenario)


class EndlessAdaptation:
    """Runs until it is stopped."""

    running = True

    def cancel(self) -> None:
        self.running = False


def test_an_adaptation_is_stopped_and_left_only_by_a_second_press(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        adaptation = EndlessAdaptation()
        app.adaptation = adaptation  # type: ignore[assignment]
        await pilot.press("q", "a")
        await pilot.pause(0.1)
        assert app.is_running
        assert adaptation.running
        await pilot.press("a")
        await until(pilot, lambda: not adaptation.running)

    play(data_dir, scenario)


def test_the_prompts_say_what_is_wrong_with_the_microphone(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, TeachScreen))
        app.tell(Notice("webcam: busy.", "error"))
        await until(pilot, lambda: "webcam: busy" in str(app.screen.query_one("#notice", Static).render()))

    play(data_dir, scenario)


def test_the_screens_can_be_drawn_to_be_looked_at(tmp_path: Path) -> None:
    script = Path(lora_cli.__file__).parents[2] / "render_screens.py"
    command = [sys.executable, str(script), str(tmp_path), "--size", "80x24", "--scene", "two_transcripts"]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "two_transcripts-80x24.svg",
        "two_transcripts-80x24-mono.svg",
    }
    assert "adapter&#160;voice-001" in (tmp_path / "two_transcripts-80x24.svg").read_text(encoding="utf-8")


def test_words_that_only_one_voice_heard_stand_out_without_colour() -> None:
    text = marked_text("four five six", "four nine six")
    assert [(text.plain[span.start : span.end], span.style) for span in text.spans if span.style] == [
        ("five", "bold underline")
    ]


def test_too_little_to_adapt_is_said_not_tried(data_dir: Path) -> None:
    async def scenario(app: MoonshineApp, pilot: Pilot[None], port: FilePort) -> None:
        await pilot.press("a")
        await pilot.pause(0.2)
        assert app.adaptation is None

    play(data_dir, scenario)
