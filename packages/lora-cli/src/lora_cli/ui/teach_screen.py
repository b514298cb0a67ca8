"""Prompted recording: read a sentence aloud, then accept or repeat it."""

from typing import ClassVar, Protocol

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Static

from lora_cli import events
from lora_cli.options import DEFAULT_KEYS
from lora_cli.session import Phase
from lora_cli.store import Origin, TaughtCounts
from lora_cli.teaching import PromptList
from lora_cli.ui.dialogs import key_label
from lora_cli.ui.widgets import LevelMeter, RecordButton, key_bar, marked_text, progress_bar, show_notice


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
        Binding(",".join(DEFAULT_KEYS[id]), action, description, id=id)
        for id, action, description in (
            ("talk", "talk", "Talk"),
            ("accept", "accept", "Accept"),
            ("again", "repeat", "Repeat"),
            ("skip", "skip", "Skip"),
            ("discard", "leave", "Leave"),
        )
    ]

    def __init__(self, teacher: Teacher, prompts: PromptList, keys: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self._teacher = teacher
        self._keys = {action: key_label(bound[:1]) for action, bound in keys.items()}
        self.prompts = prompts
        self.take_id: str | None = None
        self.complete = False
        self.heard: dict[str, str] = {}
        self._phase: Phase = "idle"

    def compose(self) -> ComposeResult:
        """Yield title, prompt, meter, what was heard, sentences, keys."""
        yield Static("", id="teach-header", markup=False)
        prompt = Vertical(Static("", id="prompt", markup=False), id="prompt-box")
        yield prompt
        with Horizontal(id="record"):
            yield RecordButton(self._teacher.talk_by_mouse, self._teacher.release_talk)
            yield LevelMeter()
        heard = Vertical(Static("", id="heard", markup=False), id="heard-box")
        heard.border_title = "Heard"
        yield heard
        yield Static("", id="notice", markup=False)
        yield Static("", id="mode", markup=False)
        yield Static("", id="keys", markup=False)

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
            case events.Notice():
                show_notice(self.query_one("#notice", Static), message.text, message.severity)
                return
            case events.HistoryChanged():
                pass
            case _:
                return
        self._draw()

    def _draw(self) -> None:
        prompt = self.prompts.current
        counts = self._teacher.taught()
        done, total = self.prompts.position, len(self.prompts.prompts)
        header = Text.assemble("Read aloud   ", progress_bar(done, total), no_wrap=True)
        self.query_one("#teach-header", Static).update(header)
        box = self.query_one("#prompt-box")
        box.border_title = f"{done + 1} of {total}" if prompt is not None else "Done"
        box.border_subtitle = f"{counts.train + counts.heldout} taught, {counts.heldout} of them held out"
        self.query_one("#prompt", Static).update(prompt or "That was the last one. Thank you.")
        lines = [
            Text.assemble((f"{voice:>12}  ", "dim"), marked_text(text, prompt if self.complete else None))
            for voice, text in self.heard.items()
        ]
        self.query_one("#heard", Static).update(Text("\n").join(lines))
        mode, names = self._mode()
        self.query_one("#mode", Static).update(mode)
        self.query_one("#keys", Static).update(key_bar([(self._keys[action], said) for action, said in names]))

    def _mode(self) -> tuple[str, list[tuple[str, str]]]:
        """Return what happens now, and the keys that do something."""
        if self._phase == "recording":
            return "RECORDING  read the sentence", [("talk", "stop"), ("discard", "throw away")]
        if self.prompts.current is None:
            return "DONE", [("discard", "back")]
        if self.complete:
            return "RECORDED  was it read as it stands there?", [
                ("accept", "accept"),
                ("again", "record again"),
                ("skip", "skip"),
                ("discard", "back"),
            ]
        return "READY  record, then read the sentence", [("talk", "record"), ("skip", "skip"), ("discard", "back")]

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
