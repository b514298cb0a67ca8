"""Render the app's screens to SVG, with invented takes, to be looked at by eye: no microphone, no model, no terminal.

    python packages/lora-cli/render_screens.py OUT_DIR [--size 80x24] [--scene idle] [--png]

`--png` needs chromium. Every screen is also rendered as NO_COLOR shows it.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from lora_cli import events
from lora_cli.core import VoiceCore
from lora_cli.engine import NoEngine
from lora_cli.history import Entry
from lora_cli.levels import Level
from lora_cli.options import DEFAULT_KEYS, VoiceOptions
from lora_cli.ports import FilePort
from lora_cli.store import Store
from lora_cli.transcripts import Emit
from lora_cli.ui.app import MoonshineApp
from lora_cli.wav import WavWriter
from textual.filter import Monochrome
from textual.pilot import Pilot
from textual.widgets import Input

SIZES = ("80x24", "120x40")
TUNED = "voice-001"
MIC = "Built-in Audio Analog Stereo"
Scene = Callable[["StillCore", MoonshineApp, Pilot[None]], Awaitable[None]]


class StillCore(VoiceCore):
    """A core whose thread never runs: the scenes say what it would tell."""

    def start(self) -> None:
        """Run nothing."""

    def stop(self) -> None:
        """Nothing runs."""

    def tell(self, *messages: events.Message) -> None:
        """Tell the app."""
        for message in messages:
            self._emit(message)


TAKES = (
    ("09:14:02", 2.9, "three seven one", "three seven one", None, "same"),
    ("09:14:40", 4.1, "four nine nine two", "four five nine two", "four five nine two", TUNED),
    ("09:15:21", 3.6, "six six", "six eight zero", None, TUNED),
    ("09:16:03", 5.2, "one two three oh five", "one two three zero five", "one two three zero five", None),
    ("09:16:48", 3.1, "eight one nine", "eight one nine", None, None),
    ("09:17:30", 4.4, "seven nine nine four two", "seven five nine four two", None, None),
)


def fill(store: Store) -> None:
    """Put the invented takes into a store."""
    for number, (clock, seconds, base, tuned, right, vote) in enumerate(TAKES):
        path = store.takes_dir / f"take-{number}.wav"
        writer = WavWriter(path, 16_000)
        writer.write(b"\0" * 64_000)
        writer.close()
        entry = Entry(
            f"take-{number}",
            f"2026-03-02T{clock}+00:00",
            path.name,
            seconds,
            {"base": base, TUNED: tuned},
            {"base": 0.24, TUNED: 0.48},
        )
        store.put(entry)
        if right is not None:
            store.correct(entry.id, right)
        stored = store.entry(entry.id)
        assert stored is not None
        store.put(replace(stored, vote=vote))


async def idle(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """Microphone open, base model and one adapter loaded, some latencies known; nothing was said yet."""
    core.transcripts.voices, core.transcripts.active, core.transcripts.device = ("base", TUNED), TUNED, "cpu"
    for voice, first, final, rtf in (("base", 0.31, 0.24, 0.03), (TUNED, 0.34, 0.48, 0.05)):
        log = core.transcripts.latency.voice(voice)
        log.first_s += [first, first + 0.21]
        log.final_s += [final, final + 0.3]
        log.rtf += [rtf, rtf + 0.04]
    core.tell(
        events.PhaseChanged("listening", None, True, MIC),
        events.ModelState("ready", "", ("base", TUNED), TUNED),
        events.Heard(Level(-52.0, -44.0), 0.0, False),
    )
    await pilot.pause(0.1)


async def loading(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """The first seconds: the microphone is open, the model loads."""
    core.tell(
        events.PhaseChanged("listening", None, True, MIC),
        events.ModelState("loading", "importing Transformers", done=1, total=4),
        events.Heard(Level(-52.0, -44.0), 0.0, False),
    )


async def recording(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A take that runs, with partial texts."""
    await idle(core, app, pilot)
    core.tell(
        events.PhaseChanged("recording", "tap", True, MIC),
        events.TakeStarted("new", "/nowhere/new.wav"),
        events.Words("new", "base", "two nine", False, 1.9, 0.03, 0.31),
        events.Words("new", TUNED, "two five", False, 1.9, 0.05, 0.34),
        events.Heard(Level(-18.0, -9.0), 2.3, True),
    )


async def clipping(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A held take that is too loud."""
    await idle(core, app, pilot)
    app.reports_releases = True
    core.tell(
        events.PhaseChanged("recording", "hold", True, MIC),
        events.TakeStarted("new", "/nowhere/new.wav"),
        events.Words("new", "base", "two", False, 1.1, 0.03, 0.31),
        events.Heard(Level(-3.0, 0.0, 40), 71.4, True),
        events.Notice("The recording clips: turn the microphone's level down, or move away from it.", "warning"),
    )


async def two_transcripts(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """The newest take with both texts."""
    await idle(core, app, pilot)
    app.main.take_id = "take-5"
    app.main.draw_all()


async def base_alone(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """No adapter was given."""
    await idle(core, app, pilot)
    core.transcripts.voices, core.transcripts.active = ("base",), None
    app.main.take_id = "take-5"
    core.tell(events.ModelState("ready", "", ("base",), None))


async def blind(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A vote that is open."""
    await idle(core, app, pilot)
    app.main.take_id = "take-5"
    await pilot.press("b")


async def correcting(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A transcript edited in place."""
    await two_transcripts(core, app, pilot)
    await pilot.press("c")
    await pilot.pause(0.2)
    app.screen.query_one(Input).value = "seven five nine four zero"


async def teaching(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A prompt that was read."""
    await idle(core, app, pilot)
    await pilot.press("t")
    await pilot.pause(0.2)
    core.tell(
        events.PhaseChanged("listening", None, True, MIC),
        events.TakeStarted("new", "/nowhere/new.wav"),
        events.TakeFinished("new", 3.2, "silence"),
        events.Words("new", "base", "four nine two", True, 3.2, 0.03, 0.31),
        events.Words("new", TUNED, "four five two", True, 3.2, 0.05, 0.34),
        events.Heard(Level(-50.0, -44.0), 0.0, False),
    )


async def adapting(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A training beside the app."""
    await two_transcripts(core, app, pilot)
    core.tell(events.AdaptProgress("training", 45, 80, "training, loss 0.53"))


async def verdict(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """The end of an adaptation."""
    await two_transcripts(core, app, pilot)
    core.tell(
        events.AdaptFinished(
            "inconclusive",
            ("the domain gains 16.0 points (interval 2.1 to 29.8), on 50 words", "the guardrail loses 0.2 points"),
            0.36,
            0.2,
            "/adapters/voice-002/lora_adapter",
            guardrails=(("guardrail", 0.012, 0.014),),
        )
    )


async def failed_adapting(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """An adaptation that did not work."""
    await two_transcripts(core, app, pilot)
    core.tell(events.AdaptFinished("failed", error="error: train.jsonl:3: audio/x.wav: no such file. Delete the row."))


async def error(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A microphone that was unplugged."""
    await two_transcripts(core, app, pilot)
    core.tell(
        events.PhaseChanged("idle", None, False, MIC),
        events.Notice(
            f"{MIC}: unplugged. What was recorded so far is kept. Choose a microphone with F2.",
            "error",
        ),
    )


async def no_model(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """A model that cannot be loaded."""
    core.tell(
        events.PhaseChanged("listening", None, True, MIC),
        events.ModelState("failed", "some/model: no such folder, and the hub could not be reached. Check the name."),
        events.Heard(Level(-52.0, -44.0), 0.0, False),
    )


async def keys(core: StillCore, app: MoonshineApp, pilot: Pilot[None]) -> None:
    """The list of keys."""
    await two_transcripts(core, app, pilot)
    await pilot.press("question_mark")


SCENES: tuple[Scene, ...] = (
    loading,
    idle,
    recording,
    clipping,
    two_transcripts,
    base_alone,
    blind,
    correcting,
    teaching,
    adapting,
    verdict,
    failed_adapting,
    error,
    no_model,
    keys,
)


async def render(scene: Scene, size: tuple[int, int], *, colour: bool) -> str:
    """Return one screen as SVG."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), speaker="ada")
        if scene not in (loading, idle, no_model):
            fill(store)

        def make_core(emit: Emit) -> StillCore:
            return StillCore(port=FilePort(), engine=NoEngine(), store=store, emit=emit)

        app = MoonshineApp(VoiceOptions(data_dir=Path(folder)), dict(DEFAULT_KEYS), make_core)
        if not colour:
            app._filters.append(Monochrome())
        async with app.run_test(size=size) as pilot:
            assert isinstance(app.core, StillCore)
            await scene(app.core, app, pilot)
            await pilot.pause(0.3)
            return app.export_screenshot(title=f"{scene.__name__} {size[0]}x{size[1]}")


def to_png(svg: Path, size: tuple[int, int]) -> None:
    """Let a browser draw an SVG."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("chromium is not installed; leave --png out, or apt install chromium")
    words = [chromium, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
    window = f"--window-size={round(size[0] * 12.2) + 20},{round(size[1] * 24.4) + 60}"
    subprocess.run(
        [*words, window, f"--screenshot={svg.with_suffix('.png')}", svg.absolute().as_uri()],
        check=True,
        capture_output=True,
    )


def main() -> None:
    """Render every scene in every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", action="append", help="columns x lines; 80x24 and 120x40 unless given")
    parser.add_argument("--scene", action="append", choices=[scene.__name__ for scene in SCENES])
    parser.add_argument("--png", action="store_true", help="also draw PNG files, by chromium")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for text in options.size or SIZES:
        columns, lines = map(int, text.split("x"))
        for scene in SCENES:
            if options.scene and scene.__name__ not in options.scene:
                continue
            for colour in (True, False):
                name = f"{scene.__name__}-{text}{'' if colour else '-mono'}.svg"
                svg = options.output / name
                svg.write_text(asyncio.run(render(scene, (columns, lines), colour=colour)), encoding="utf-8")
                if options.png:
                    to_png(svg, (columns, lines))
                sys.stdout.write(f"{svg}\n")


if __name__ == "__main__":
    main()
