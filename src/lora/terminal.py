"""What reaches the terminal: standard output and error pass through `printable_lines` while a command runs.

So no command, library or warning can show outside text raw. Rich's own escape sequences do not come this way
(`lora.console`).
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from lora.escape import printable_lines

# Download bars of other packages begin a write like this, and end every line that they move to.
_BAR_MOVES = re.compile(r"\r?\n*(?:\x1b\[A)*")


class OutputClosedError(BrokenPipeError):
    """Nobody reads standard output any more, as after `| head`."""


@contextmanager
def _told(stream: TextIO) -> Iterator[None]:
    """Let an error say that it was the terminal's; after it the rest of the output is dropped."""
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise OutputClosedError(*error.args) from error
        raise OSError(error.errno, error.strerror, "the standard output") from error


class _Guarded:
    """A text stream that escapes control characters; everything else is the stream's own."""

    def __init__(self, stream: TextIO, *, bars: bool) -> None:
        self.raw = stream
        self._bars = bars

    def write(self, text: str) -> int:
        moves = _BAR_MOVES.match(text)
        kept = moves.end() if self._bars and moves else 0
        with _told(self.raw):
            self.raw.write(text[:kept] + printable_lines(text[kept:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with _told(self.raw):
            self.raw.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self.raw, name)


def guard_streams() -> None:
    """Guard standard output and error until the process ends; a second call changes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream, bars=name == "stderr"))


@contextmanager
def guarded() -> Iterator[None]:
    """Guard standard output and error in this block."""
    before = sys.stdout, sys.stderr
    guard_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream itself, for what moves the cursor on purpose and shows no outside text."""
    return stream.raw if isinstance(stream, _Guarded) else stream
