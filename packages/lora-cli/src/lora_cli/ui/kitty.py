"""Key releases from terminals that report them (kitty's keyboard protocol), for Textual 8.2.8.

Textual asks for the protocol without event types, and its parser raises ValueError on a release that comes all the
same. Here the driver asks for event types too, and the parser takes them off before Textual sees the sequence. Both
classes are private to Textual: its version is pinned, and tests/voice/test_kitty.py drives them through a pty.
https://sw.kovidgoyal.net/kitty/keyboard-protocol/
"""

import re
from collections.abc import Iterable
from typing import Any

from textual import constants, events
from textual._xterm_parser import XTermParser
from textual.drivers import linux_driver
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Event
from textual.keys import Keys

REPORT_EVENT_TYPES = 2
_PUSH = re.compile(r"\x1b\[>(\d+)u")
_QUERY = "\x1b[?u"
_ANSWER = re.compile(r"\x1b\[\?(\d+)u")
_EVENT_TYPE = re.compile(r"(\x1b\[[\d:]*;\d*):([123])([;\d:]*[u~ABCDEFHPQRS])")
_RELEASE = "3"


class KeyRelease(Event, bubble=True):
    """A key came up. Only terminals with kitty's protocol say so."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def copy(self) -> "KeyRelease":
        """Return a copy, as Textual asks of key events."""
        return KeyRelease(self.key)


class ReleasesReported(Event, bubble=True):
    """The terminal has said that it reports key releases."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""


class ReleaseParser(XTermParser):
    """Textual's parser, which also understands event types."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[Any]:
        answer = _ANSWER.fullmatch(sequence)
        if answer is not None:
            reported = int(answer[1]) & REPORT_EVENT_TYPES
            yield ReleasesReported() if reported else events.Key(Keys.Ignore, sequence)
            return
        typed = _EVENT_TYPE.fullmatch(sequence)
        plain = sequence if typed is None else f"{typed[1]}{typed[3]}"
        try:
            keys = list(super()._sequence_to_key_events(plain, alt))
        except (ValueError, OverflowError):
            # Numbers that are none, or no character: Textual 8.2.8 would end its input thread here.
            keys = [events.Key(Keys.Ignore, sequence)]
        if typed is not None and typed[2] == _RELEASE:
            yield from (KeyRelease(key.key) if key.key != Keys.Ignore else key for key in keys)
            return
        yield from keys


class ReleaseDriver(LinuxDriver):
    """Textual's driver, which also asks for event types and whether the terminal knows them."""

    def write(self, data: str) -> None:
        """Write to the terminal; what pushes the protocol's flags pushes ours."""
        pushed = _PUSH.fullmatch(data)
        if pushed is not None and not constants.DISABLE_KITTY_KEY:
            super().write(f"\x1b[>{int(pushed[1]) | REPORT_EVENT_TYPES}u{_QUERY}")
            return
        super().write(data)


def install_release_parser() -> type[LinuxDriver]:
    """Let Textual's Linux driver use our parser; return the driver to give to the app.

    The parser understands releases even where the driver did not ask for them: a program that left the
    terminal in that mode would otherwise end Textual's input.
    """
    linux_driver.XTermParser = ReleaseParser  # type: ignore[attr-defined]
    return ReleaseDriver
