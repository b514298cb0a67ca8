"""The parts of the main screen. Each shows what it is told; none knows the core."""

from collections.abc import Callable, Sequence
from itertools import groupby

from rich.text import Text
from textual import events as textual_events
from textual.containers import VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from lora.units import Seconds
from lora_cli.diff import Piece, word_difference
from lora_cli.events import AdaptProgress, Heard, Severity
from lora_cli.history import Entry
from lora_cli.levels import Level
from lora_cli.session import Phase

PHASE_LABELS: dict[Phase, str] = {
    "idle": "○ MIC OFF",
    "listening": "○ READY",
    "recording": "● REC",
    "transcribing": "… WRITING",
}
METER_FLOOR_DB = -60.0
MIN_METER, MAX_METER = 10, 40


class VoicePane(VerticalScroll):
    """The text of one voice: dim and open-ended while it grows, plain when final."""

    can_focus = False

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._body = Static("", markup=False)
        self.text = ""
        self.final = False

    def compose(self) -> "Sequence[Static]":
        """Yield the text."""
        return [self._body]

    def show_text(self, text: str, *, final: bool, other: str | None = None, note: str = "") -> None:
        """Show a text; a partial one ends in a mark that needs no colour.

        Args:
            other: the other voice's text; words that differ from it are marked.
            note: a remark below the text.
        """
        self.text, self.final = text, final
        shown = Text("(nothing heard)", style="dim") if final and not text else marked_text(text, other)
        if not final:
            shown.append(" …" if text else "…", style="dim")
        if note:
            shown.append(f"\n\n{note}", style="dim")
        self._body.update(shown)
        self.set_class(not final, "partial")
        self.scroll_end(animate=False)

    def show_hint(self, hint: Text | str) -> None:
        """Show a sentence that is not a transcript."""
        self.text, self.final = "", False
        self.set_class(False, "partial")
        self._body.update(Text(hint, style="dim") if isinstance(hint, str) else hint)

    def label(self, title: str, figures: str) -> None:
        """Name the voice, and say what it took."""
        # Plain strings would be read as markup, and an adapter's folder may be named anything.
        self.border_title, self.border_subtitle = Text(title), Text(figures)


class RecordButton(Static):
    """The button that is held or clicked to talk."""

    def __init__(self, press: Callable[[], None], release: Callable[[], None]) -> None:
        super().__init__("○ TALK", id="button", markup=False)
        self._press, self._release = press, release

    def on_mouse_down(self, event: textual_events.MouseDown) -> None:
        """Press."""
        event.stop()
        self.capture_mouse()
        self._press()

    def on_mouse_up(self, event: textual_events.MouseUp) -> None:
        """Release, wherever the pointer is by now."""
        event.stop()
        self.release_mouse()
        self._release()

    def show_phase(self, phase: Phase) -> None:
        """Show where the session is, in words."""
        self.update(PHASE_LABELS[phase])
        self.set_class(phase == "recording", "recording")
        self.set_class(phase == "idle", "off")


class LevelMeter(Static):
    """Elapsed time, level bar with peak, clipping."""

    def __init__(self) -> None:
        super().__init__("", id="meter", markup=False)
        self._phase: Phase = "idle"
        self._peak_db = -90.0
        self._clip_left = 0

    def show_phase(self, phase: Phase) -> None:
        """Note the phase; without a microphone the bar is empty."""
        self._phase = phase
        if phase == "idle":
            self.update(Text("microphone closed", style="dim"))

    def show(self, heard: Heard) -> None:
        """Draw the meter."""
        level = heard.level
        self._peak_db = max(level.peak_db, self._peak_db - 1.5)
        self._clip_left = 12 if level.clipping else max(self._clip_left - 1, 0)
        cells = min(max(self.size.width - 32, MIN_METER), MAX_METER)
        text = Text(no_wrap=True)
        text.append(clock(heard.seconds) if self._phase == "recording" else "  –:– ", style="bold")
        text.append("  ")
        text.append_text(meter_bar(level, self._peak_db, cells))
        text.append(f" {level.rms_db:4.0f} dB ")
        if self._clip_left:
            text.append(" CLIP ", style="reverse bold")
        elif heard.speech:
            text.append(" speech", style="bold")
        if heard.dropped:
            text.append(f" {heard.dropped} gaps", style="bold")
        self.update(text)


def meter_bar(level: Level, peak_db: float, cells: int) -> Text:
    """Return the bar: level filled, held peak as a mark, colours from quiet to loud."""
    filled, peak = _cells(level.rms_db, cells), _cells(peak_db, cells)
    drawn: list[tuple[str, str]] = []
    for cell in range(cells):
        loud = cell / cells
        style = "red" if loud > 0.93 else "yellow" if loud > 0.8 else "green"
        if cell < filled:
            drawn.append(("█", style))
        elif cell == peak - 1:
            drawn.append(("│", style))
        else:
            drawn.append(("·", "dim"))
    # One piece a colour: a style for each cell would be ten times the bytes, twelve times a second, over SSH too.
    pieces = [("".join(mark for mark, _ in same), style) for style, same in groupby(drawn, key=lambda cell: cell[1])]
    return Text.assemble("▕", *pieces, "▏")


def _cells(db: float, cells: int) -> int:
    return round(cells * min(max((db - METER_FLOOR_DB) / -METER_FLOOR_DB, 0.0), 1.0))


def clock(seconds: Seconds) -> str:
    """Return minutes, seconds and tenths."""
    minutes, rest = divmod(int(seconds * 10), 600)
    return f"{minutes:2d}:{rest // 10:02d}.{rest % 10}"


class History(OptionList):
    """The takes, newest first."""

    BORDER_TITLE = "Takes"

    def show_entries(self, entries: Sequence[Entry], voice: str | None, *, hide_voices: bool) -> None:
        """List the takes with the text of `voice`; the highlighted one stays highlighted."""
        highlighted = self.highlighted_take
        self.clear_options()
        if not entries:
            self.add_option(Option(Text("What you say is listed here.", style="dim"), disabled=True))
        self.add_options([Option(history_line(entry, voice, hide=hide_voices), id=entry.id) for entry in entries])
        if highlighted is not None and any(entry.id == highlighted for entry in entries):
            self.highlighted = self.get_option_index(highlighted)

    @property
    def highlighted_take(self) -> str | None:
        """Return the highlighted take's id."""
        return None if self.highlighted is None else self.get_option_at_index(self.highlighted).id


def history_line(entry: Entry, voice: str | None, *, hide: bool) -> Text:
    """Return a take in one line: time, length, marks, text."""
    text = entry.corrected or entry.texts.get(voice or "", "") or next(iter(entry.texts.values()), "")
    marks = ("✎" if entry.corrected else " ") + ("!" if entry.failure else " ")
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{entry.time[11:19]}  {entry.seconds:5.1f} s  {marks} ", style="dim")
    if hide and entry.vote is None:
        line.append("(vote first)", style="dim italic")
    elif text:
        line.append(text)
    else:
        line.append(entry.failure or "(nothing heard)" if entry.failure or entry.texts else "…", style="dim")
    return line


def progress_bar(done: int, total: int, cells: int = 20) -> Text:
    """Return a bar with its numbers."""
    filled = round(cells * min(done / total, 1.0))
    return Text.assemble("█" * filled, ("·" * (cells - filled), "dim"), f" {done}/{total}")


def show_notice(widget: Static, text: str, severity: Severity) -> None:
    """Show a sentence, its severity in words too."""
    prefix = {"info": "", "warning": "! ", "error": "ERROR  "}[severity]
    widget.set_classes(severity)
    widget.update(f"{prefix}{' '.join(text.split())}")


def key_bar(keys: Sequence[tuple[str, str]]) -> Text:
    """Return keys and what they do in one line."""
    bar = Text(no_wrap=True, overflow="ellipsis")
    for key, action in keys:
        bar.append(f" {key} ", style="reverse").append(f" {action}  ")
    return bar


def marked_text(text: str, other: str | None) -> Text:
    """Return a text in which the words that `other` has not at that place stand out, without colour too."""
    if other is None:
        return Text(text)
    kept = [piece for piece in word_difference(other, text) if piece.change != "removed"]
    styles = {"same": "", "added": "bold underline"}
    return Text(" ").join(Text(piece.text, style=styles[piece.change]) for piece in kept)


class AdaptLine(Static):
    """One line of training progress, there only while an adaptation runs."""

    def __init__(self) -> None:
        super().__init__("", id="adapt", markup=False)
        self.display = False

    def show(self, progress: AdaptProgress | None) -> None:
        """Show progress; None hides the line."""
        self.display = progress is not None
        if progress is None:
            return
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(" ADAPTING ", style="reverse bold")
        text.append(" ")
        if progress.total:
            text.append_text(progress_bar(progress.done, progress.total)).append("  ")
        text.append(progress.detail or progress.stage)
        self.update(text)


def difference_text(pieces: Sequence[Piece]) -> Text:
    """Return a word difference with marks and colours."""
    text = Text()
    for piece in pieces:
        if text:
            text.append(" ")
        match piece.change:
            case "same":
                text.append(piece.text)
            case "removed":
                text.append(f"[-{piece.text}-]", style="red strike")
            case "added":
                text.append(f"{{+{piece.text}+}}", style="bold green")
    return text
