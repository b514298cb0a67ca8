"""The main screen: two voices side by side, the meter, the takes."""

import random
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import OptionList, Static

from lora_cli import events
from lora_cli.history import Entry
from lora_cli.options import DEFAULT_KEYS
from lora_cli.transcripts import BASE
from lora_cli.ui.dialogs import key_label
from lora_cli.ui.widgets import (
    AdaptLine,
    History,
    LevelMeter,
    RecordButton,
    VoicePane,
    key_bar,
    progress_bar,
    show_notice,
)

if TYPE_CHECKING:
    from lora_cli.ui.app import MoonshineApp

PANES = ("#left", "#right")
DESCRIPTIONS = {
    "talk": "talk: start, stop",
    "discard": "throw the take away",
    "correct": "correct the text",
    "teach": "read prompts aloud",
    "adapt": "adapt to your voice",
    "adapter": "next adapter",
    "blind": "blind comparison",
    "left": "vote for the left",
    "right": "vote for the right",
    "same": "vote for neither",
    "again": "transcribe again",
    "play": "play the recording",
    "copy": "copy the text",
    "delete": "delete the take",
    "microphone": "microphone on, off",
    "devices": "choose a microphone",
    "help": "these keys",
    "quit": "quit",
}
FOOTER_ACTIONS = ("correct", "adapter", "teach", "adapt", "blind", "help", "quit")
WIDE_FOOTER_ACTIONS = ("correct", "adapter", "teach", "adapt", "blind", "again", "play", "copy", "help", "quit")
WIDE = 110


class MainScreen(Screen[None]):
    """Shows the current take: the newest, or the one that is highlighted in the list."""

    BINDINGS: ClassVar = [
        Binding(",".join(keys), f"app.do('{action}')", DESCRIPTIONS[action], id=action)
        for action, keys in DEFAULT_KEYS.items()
        if action in DESCRIPTIONS
    ]

    def __init__(self) -> None:
        super().__init__()
        self.take_id: str | None = None
        self.blind = False
        self._order = [0, 1]
        self._phase = events.PhaseChanged("idle", None, False, "")
        self._model = events.ModelState("loading", "starting")
        self._partial: dict[str, str] = {}

    @property
    def voice_app(self) -> "MoonshineApp":
        """The app."""
        return cast("MoonshineApp", self.app)

    def compose(self) -> ComposeResult:
        """Yield the parts from top to bottom."""
        yield Static("", id="header", markup=False)
        with Horizontal(id="panes"):
            yield VoicePane(id="left")
            yield VoicePane(id="right")
        with Horizontal(id="record"):
            yield RecordButton(self.voice_app.talk_by_mouse, self.voice_app.release_talk)
            yield LevelMeter()
        yield AdaptLine()
        yield History(id="history", markup=False)
        yield Static("", id="notice", markup=False)
        yield Static("", id="mode", markup=False)
        yield Static("", id="keys", markup=False)

    def on_mount(self) -> None:
        """Draw what is there."""
        self.query_one(History).focus()
        self.draw_all()

    def on_screen_resume(self) -> None:
        """Show the verdict that came while another screen was open."""
        self.voice_app.show_verdict()

    def show(self, message: events.Message) -> None:
        """Take in a message of the core."""
        match message:
            case events.Heard():
                self.query_one(LevelMeter).show(message)
            case events.PhaseChanged():
                self._phase = message
                self.query_one(RecordButton).show_phase(message.phase)
                self.query_one(LevelMeter).show_phase(message.phase)
                self._draw_header()
                self.draw_mode()
                self.voice_app.show_verdict()
            case events.ModelState():
                self._model = message
                self.draw_all()
            case events.TakeStarted():
                self.take_id, self._partial = message.take_id, {}
                random.shuffle(self._order)
                self.query_one(History).highlighted = None
                self._draw_panes()
            case events.TakeDiscarded():
                self.take_id, self._partial = None, {}
                self.notice("Thrown away.")
                self._draw_panes()
            case events.Words() if message.take_id == self.take_id and not message.final:
                self._partial[message.voice] = message.text
                self._draw_panes()
            case events.Failed() if message.take_id == self.take_id:
                self.notice(f"{message.voice}: {message.message}", "error")
            case events.HistoryChanged():
                self._draw_history()
                self._draw_panes()
                self.draw_mode()
            case events.Notice():
                self.notice(message.text, message.severity)
            case _:
                pass

    def draw_all(self) -> None:
        """Draw everything anew."""
        self._draw_header()
        self._draw_panes()
        self._draw_history()
        self.draw_mode()

    def entry(self) -> Entry | None:
        """Return the current take as it is kept."""
        return None if self.take_id is None else self.voice_app.core.store.entry(self.take_id)

    @property
    def shown(self) -> list[str]:
        """The voices of the panes, left to right; shuffled while a blind vote is open."""
        second = self._model.active
        voices = [BASE] if second is None else [BASE, second]
        return [voices[index] for index in self._order] if self.is_secret and len(voices) == 2 else voices

    @property
    def is_secret(self) -> bool:
        """Tell whether the panes must not say whose text they show."""
        entry = self.entry()
        return self.blind and (entry is None or entry.vote is None)

    def _draw_header(self) -> None:
        model = self.voice_app.options.model_id
        device = self.voice_app.core.transcripts.device
        states = {"loading": " · loading", "ready": f" on {device}" if device else "", "failed": " · FAILED"}
        state = states[self._model.stage]
        microphone = self._phase.mic_name if self._phase.mic_open else "closed"
        left, right = f" Moonshine LoRA · {model}{state}", f"mic: {microphone} "
        width = max(self.size.width, 40)
        right = right if len(right) <= width // 2 else f"{right[: width // 2 - 2]}… "
        left = left if len(left) + len(right) < width else f"{left[: width - len(right) - 2]}…"
        self.query_one("#header", Static).update(left + " " * (width - len(left) - len(right)) + right)

    def _draw_panes(self) -> None:
        entry, voices = self.entry(), self.shown
        for place, selector in enumerate(PANES):
            pane = self.query_one(selector, VoicePane)
            pane.display = place < len(voices)
            if place >= len(voices):
                continue
            voice = voices[place]
            name = ("LEFT", "RIGHT")[place] if self.is_secret else self._voice_name(voice, entry)
            mark = " ◀ voted" if entry is not None and entry.vote == voice else ""
            width = self.size.width // len(voices) - 6
            figures = "" if self.is_secret else self.voice_app.core.transcripts.latency.line(voice, width)
            pane.label(f"{name}{mark}", figures)
            self._draw_text(pane, voice, entry)

    def _voice_name(self, voice: str, entry: Entry | None) -> str:
        """Return a pane's title; a take of an earlier visit may have been heard by another base model."""
        known = entry.model if entry is not None else ""
        another = f" of {known}" if known and known != self.voice_app.options.model_id else ""
        return f"base model{another}" if voice == BASE else f"adapter {voice}{another}"

    def _draw_text(self, pane: VoicePane, voice: str, entry: Entry | None) -> None:
        if self.is_secret and len(self.shown) == 2:
            self._draw_secret(pane, voice, entry)
        elif entry is not None and voice in entry.texts:
            others = [entry.texts[name] for name in self.shown if name != voice and name in entry.texts]
            after = entry.final_s.get(voice)
            note = "" if after is None else f"{after:.2f} s after the stop"
            pane.show_text(entry.texts[voice], final=True, other=others[0] if others else None, note=note)
        elif self._partial.get(voice):
            pane.show_text(self._partial[voice], final=False)
        elif entry is not None and entry.failure is not None:
            pane.show_hint(f"{entry.failure} The recording is kept; {self._key('again')} tries again.")
        elif self._model.stage == "loading" and self.take_id is None:
            pane.show_hint(self._loading_hint())
        elif self._model.stage == "failed":
            pane.show_hint(self._model.detail)
        elif self.take_id is None:
            pane.show_hint(f"Press {self._key('talk')} and speak.")
        elif entry is not None and self._phase.phase == "listening":
            pane.show_hint(f"Not transcribed by this voice; {self._key('again')} does it.")
        else:
            pane.show_text("", final=False)

    def _loading_hint(self) -> Text:
        bar = progress_bar(self._model.done, self._model.total) if self._model.total else Text("")
        said = f"\n\nPress {self._key('talk')} and speak: what you record now is written as soon as the model is there."
        return Text.assemble("Loading the model\n\n", bar, f"  {self._model.detail}", (said, "dim"))

    def _draw_secret(self, pane: VoicePane, voice: str, entry: Entry | None) -> None:
        """Show both texts at once or none: whose comes first would tell whose it is."""
        shown = self.shown
        if entry is not None and all(name in entry.texts for name in shown):
            (other,) = (entry.texts[name] for name in shown if name != voice)
            pane.show_text(entry.texts[voice], final=True, other=other)
        elif entry is not None and entry.failure is not None:
            pane.show_hint(entry.failure)
        else:
            pane.show_text(self._partial[voice] if all(name in self._partial for name in shown) else "", final=False)

    def _draw_history(self) -> None:
        entries = self.voice_app.core.store.entries()
        history = self.query_one(History)
        history.show_entries(entries, self._model.active or BASE, hide_voices=self.blind and len(self.shown) == 2)
        counts = self.voice_app.core.store.taught_counts()
        score = self._score()
        private = "" if self.voice_app.core.store.keep_history else "not kept · "
        history.border_subtitle = f"{private}{score}{counts.train + counts.heldout} taught"

    def _score(self) -> str:
        won = self.voice_app.core.store.score()
        return f"blind votes: {', '.join(f'{voice} {won[voice]}' for voice in sorted(won))} · " if won else ""

    def draw_mode(self) -> None:
        """Draw the two lines at the bottom: how talking works now, and the keys."""
        talk, gesture = self._key("talk"), self._phase.gesture
        if gesture == "hold":
            mode = f"HOLD  release {talk} to stop · {self._key('discard')} throws it away"
        elif gesture == "tap":
            silence = ", silence too" if self.voice_app.options.stop_on_silence else ""
            mode = f"TAP  {talk} stops{silence} · {self._key('discard')} throws it away"
        elif self.is_secret and self._can_vote():
            votes = " · ".join(f"{self._key(action)} {action}" for action in ("left", "right", "same"))
            mode = f"BLIND  which is better?  {votes}"
        elif self.voice_app.reports_releases:
            mode = f"TAP OR HOLD  {talk} to talk, or the button with the mouse"
        else:
            mode = f"TAP  {talk} to talk, or hold the button with the mouse"
        if self.blind and not mode.startswith("BLIND"):
            mode += "   [blind]"
        self.query_one("#mode", Static).update(Text(mode, no_wrap=True, overflow="ellipsis"))
        shown = [
            (key_label(self.voice_app.keys[action][:1]), action)
            for action in (WIDE_FOOTER_ACTIONS if self.size.width >= WIDE else FOOTER_ACTIONS)
            if action != "adapter" or len(self._model.voices) > 1
        ]
        self.query_one("#keys", Static).update(key_bar(shown))

    def _can_vote(self) -> bool:
        entry = self.entry()
        return entry is not None and entry.vote is None and all(voice in entry.texts for voice in self.shown)

    def vote(self, place: int | None) -> None:
        """Vote for a pane, None for neither."""
        entry, voices = self.entry(), self.shown
        if entry is None or len(voices) < 2 or not self._can_vote():
            self.notice("There is nothing to vote on: turn blind comparison on, and speak.", "warning")
            return
        if entry.texts[voices[0]] == entry.texts[voices[1]]:
            place = None
        winner = "same" if place is None else voices[place]
        self.voice_app.core.vote(entry.id, winner)
        said = "the same" if winner == "same" else winner
        self.notice(f"Left was {voices[0]}, right was {voices[1]}. Your vote: {said}.")

    def notice(self, text: str, severity: events.Severity = "info") -> None:
        """Show a sentence until the next one."""
        show_notice(self.query_one("#notice", Static), text, severity)

    def _key(self, action: str) -> str:
        return key_label(self.voice_app.keys[action])

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Show the take that was moved to."""
        if event.option.id is not None and event.option.id != self.take_id and self._phase.phase != "recording":
            self.take_id, self._partial = event.option.id, {}
            self._draw_panes()
            self.draw_mode()

    def on_resize(self) -> None:
        """Fit the lines to the width."""
        self._draw_header()
        self._draw_panes()
        self.draw_mode()
