"""The small screens over the main one: correcting, microphones, verdict, help."""

from collections.abc import Callable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from lora.errors import LoraError
from lora_cli.devices import Microphone, list_microphones
from lora_cli.diff import word_difference
from lora_cli.events import AdaptFinished
from lora_cli.ui.widgets import difference_text

KEY_LABELS = {
    "question_mark": "?",
    "escape": "Esc",
    "space": "Space",
    "tab": "Tab",
    "delete": "Del",
    "enter": "Enter",
    **{f"f{number}": f"F{number}" for number in range(1, 13)},
}


class Dialog(ModalScreen[str | None]):
    """A box in the middle that Escape leaves."""

    BINDINGS: ClassVar = [Binding("escape", "leave", "Leave")]
    title_text = ""
    hint_text = "Esc leaves"

    def compose(self) -> ComposeResult:
        """Yield the box."""
        box = Vertical(*self.contents(), Static(self.hint_text, classes="hint", markup=False), classes="dialog")
        box.border_title = self.title_text
        yield box

    def contents(self) -> list[Static | Input | OptionList]:
        """Return what is in the box."""
        raise NotImplementedError

    def action_leave(self) -> None:
        """Close without a result."""
        self.dismiss(None)


class CorrectDialog(Dialog):
    """Edit a transcript in place, with the difference shown; the result is the right text."""

    title_text = "Correct"
    hint_text = "Enter saves text and audio as training data · Esc leaves"

    def __init__(self, heard: str) -> None:
        super().__init__()
        self._heard = heard

    def contents(self) -> list[Static | Input | OptionList]:
        """Return the heard text, the input and the difference."""
        return [
            Static(Text.assemble(("heard  ", "dim"), self._heard or "(nothing)"), markup=False),
            Input(self._heard, id="right", placeholder="what was said", select_on_focus=False),
            Static("", id="difference", markup=False),
        ]

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the difference as it grows."""
        pieces = word_difference(self._heard, event.value)
        text = Text.assemble(("saved  ", "dim")) + difference_text(pieces)
        self.query_one("#difference", Static).update(text)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Save."""
        if any(char.isalnum() for char in event.value):
            self.dismiss(" ".join(event.value.split()))


class DeviceDialog(Dialog):
    """Choose a microphone by name."""

    title_text = "Microphones"
    hint_text = "Enter chooses · Esc leaves"

    def __init__(self, listing: Callable[[], list[Microphone]] = list_microphones) -> None:
        super().__init__()
        self._listing = listing

    def contents(self) -> list[Static | Input | OptionList]:
        """Return the list."""
        return [Static("looking …", id="looking", markup=False), OptionList(id="microphones", markup=False)]

    def on_mount(self) -> None:
        """Look for microphones without holding the screen up."""
        self._look()

    @work(thread=True)
    def _look(self) -> None:
        try:
            found = self._listing()
            problem = "" if found else "No microphone was found. Plug one in."
        except LoraError as error:
            found, problem = [], str(error)
        self.app.call_from_thread(self._show, found, problem)

    def _show(self, found: list[Microphone], problem: str) -> None:
        looking = self.query_one("#looking", Static)
        looking.update(problem)
        looking.display = bool(problem)
        rows = [
            Option(f"{'* ' if item.default else '  '}{item.description}\n  {item.name}", id=item.name) for item in found
        ]
        microphones = self.query_one("#microphones", OptionList)
        microphones.add_options(rows)
        microphones.display = bool(rows)
        microphones.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose."""
        self.dismiss(event.option.id)


class VerdictDialog(Dialog):
    """What the adaptation came to; the result is the adapter to load, if the person wants it."""

    BINDINGS: ClassVar = [Binding("enter", "load", "Load")]
    title_text = "Verdict"

    def __init__(self, outcome: AdaptFinished) -> None:
        super().__init__()
        self.outcome = outcome
        if outcome.adapter_dir is not None:
            self.hint_text = "Enter lets you hear the new adapter · Esc keeps things as they are"

    def contents(self) -> list[Static | Input | OptionList]:
        """Return the verdict and its figures."""
        outcome = self.outcome
        if outcome.error is not None:
            return [Static(Text.assemble(("Adapting did not work\n\n", "bold"), outcome.error), markup=False)]
        style = {"accept": "bold green", "reject": "bold red"}.get(outcome.decision, "bold yellow")
        heading = Text.assemble("The verdict is ", (outcome.decision.upper(), style), ".")
        return [
            Static(heading, markup=False),
            Static(verdict_table(outcome)),
            Static(Text("\n".join(f"- {reason}" for reason in outcome.reasons)), markup=False),
        ]

    def action_load(self) -> None:
        """Load the adapter."""
        self.dismiss(self.outcome.adapter_dir)


def verdict_table(outcome: AdaptFinished) -> Table:
    """Return word error rates before and after."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("word error rate", "base", "adapted"):
        table.add_column(column, justify="left" if column.startswith("word") else "right")
    rows = [("your held-out takes", outcome.baseline_wer, outcome.tuned_wer)]
    rows += [
        (name if name.startswith("guardrail") else f"guardrail {name}", before, after)
        for name, before, after in outcome.guardrails
    ]
    for name, before, after in rows:
        table.add_row(name, percent(before), percent(after))
    return table


def percent(rate: float | None) -> str:
    """Return a rate in percent."""
    return "undefined" if rate is None else f"{100 * rate:.1f}%"


class HelpDialog(Dialog):
    """The keys."""

    title_text = "Keys"

    def __init__(self, keys: dict[str, tuple[str, ...]], descriptions: dict[str, str]) -> None:
        super().__init__()
        self._keys, self._descriptions = keys, descriptions

    def contents(self) -> list[Static | Input | OptionList]:
        """Return a table of keys."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column()
        table.add_column(style="bold")
        table.add_column()
        rows = [(key_label(self._keys[action]), text) for action, text in self._descriptions.items()]
        half = -(-len(rows) // 2)
        for index in range(half):
            right = rows[half + index] if half + index < len(rows) else ("", "")
            table.add_row(*rows[index], *right)
        mouse = "Hold the talk button with the mouse to record while you hold it; a short click starts and stops."
        return [Static(table), Static(Text(f"\n{mouse}"), markup=False)]


def key_label(keys: tuple[str, ...]) -> str:
    """Return keys as people write them."""
    return " ".join(KEY_LABELS.get(key) or key.replace("ctrl+", "^") for key in keys)
