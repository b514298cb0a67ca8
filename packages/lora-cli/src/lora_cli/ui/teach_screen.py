"""Prompted recording: read a sentence aloud, then accept or repeat it."""

from typing import ClassVar, Protocol

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Static

from lora_cli import events
from lora_cli.session import Phase
from lora_cli.store import Origin, TaughtCounts
from lora_cli.teaching import PromptList
from lora_cli.ui.widgets import LevelMeter, RecordButton


class Teacher(Protocol):
    """What the screen needs of the app."""

    def talk(self) -> None:
        """The talk key or button went down."""

    def talk_by_mouse(self) -> None:
        """The button went down; its release will follow."""

    def release_talk(self) -> None:
        """The button came up."""

    def teach(self, take_id: str, text: str, origin: Origin) -> None:
        """Save a take with its text."""

    def delete_take(self, take_id: str) -> None:
        """Throw a recorded take away."""

    def discard(self) -> None:
        """Throw the running take away."""

    def taught(self) -> TaughtCounts:
        """Return how much was taught."""


class TeachScreen(Screen[None]):
    """Goes through the prompts. A take that was not accepted leaves nothing behind."""

    BINDINGS: ClassVar = [
        Binding("space", "talk", "Talk", id="talk"),
        Binding("enter", "accept", "Accept"),
        Binding("r", "repeat", "Repeat"),
        Binding("s", "skip", "Skip"),
        Binding("escape", "leave", "Leave"),
    ]

    def __init__(self, teacher: Teacher, prompts: PromptList) -> None:
        super().__init__()
        self._teacher = teacher
        self.prompts = prompts
        self.take_id: str | None = None
        self.complete = False
        self.heard: dict[str, str] = {}
        self._phase: Phase = "idle"

    def compose(self) -> ComposeResult:
        """Yield prompt, meter, what was heard, keys."""
        prompt = Vertical(Static("", id="prompt", markup=False), id="prompt-box")
        prompt.border_title = "Read aloud"
        yield prompt
        with Horizontal(id="record"):
            yield RecordButton(self._teacher.talk_by_mouse, self._teacher.release_talk)
            yield LevelMeter()
        heard = Vertical(Static("", id="heard", markup=False), id="heard-box")
        heard.border_title = "Heard"
        yield heard
        yield Static("", id="teach-mode", markup=False)

    def on_mount(self) -> None:
        """Show the first prompt."""
        self._draw()

    def show(self, message: events.Message) -> None:
        """Take in a message of the core."""
        match message:
            case events.PhaseChanged():
                self._phase = message.phase
                self.query_one(RecordButton).show_phase(message.phase)
                self.query_one(LevelMeter).show_phase(message.phase)
            case events.Heard():
                self.query_one(LevelMeter).show(message)
                return
            case events.TakeStarted():
                self._drop()
                self.take_id = message.take_id
            case events.TakeFinished() if message.take_id == self.take_id:
                self.complete = True
            case events.TakeDiscarded() if message.take_id == self.take_id:
                self.take_id, self.complete, self.heard = None, False, {}
            case events.Words() if message.take_id == self.take_id:
                self.heard[message.voice] = message.text
            case _:
                return
        self._draw()

    def _draw(self) -> None:
        prompt = self.prompts.current
        counts = self._teacher.taught()
        done = f"{min(self.prompts.position + 1, len(self.prompts.prompts))} of {len(self.prompts.prompts)}"
        total = counts.train + counts.heldout
        box = self.query_one("#prompt-box")
        box.border_subtitle = f" {total} taught, {counts.heldout} held out · {done} "
        self.query_one("#prompt", Static).update(prompt or "That was the last one. Thank you.")
        lines = [Text.assemble((f"{voice}  ", "dim"), text or "…") for voice, text in self.heard.items()]
        self.query_one("#heard", Static).update(Text("\n").join(lines))
        if self._phase == "recording":
            keys = "RECORDING  Space stops, silence too · Esc throws it away"
        elif self.complete:
            keys = "Enter accepts · Space or r records again · Esc leaves"
        else:
            keys = "Space records · s skips · Esc leaves"
        self.query_one("#teach-mode", Static).update(keys)

    def action_talk(self) -> None:
        """Record."""
        if self.prompts.current is not None:
            self._teacher.talk()

    def action_accept(self) -> None:
        """Save the take with the prompt as its text."""
        prompt = self.prompts.current
        if self.take_id is None or not self.complete or prompt is None:
            return
        self._teacher.teach(self.take_id, prompt, "prompted")
        self.prompts.advance()
        self.take_id, self.complete, self.heard = None, False, {}
        self.set_timer(0.15, self._draw)
        self._draw()

    def action_repeat(self) -> None:
        """Throw the take away and record again."""
        if self._phase != "recording" and self.prompts.current is not None:
            self._drop()
            self._teacher.talk()

    def action_skip(self) -> None:
        """Go on without this prompt."""
        if self._phase != "recording":
            self._drop()
            self.prompts.advance()
            self._draw()

    def action_leave(self) -> None:
        """Throw the running take away; without one, leave."""
        if self._phase == "recording":
            self._teacher.discard()
            return
        self._drop()
        self.dismiss(None)

    def _drop(self) -> None:
        if self.take_id is not None and self.complete:
            self._teacher.delete_take(self.take_id)
        self.take_id, self.complete, self.heard = None, False, {}
