"""Key releases: the parser alone, and the whole app in a pty that speaks kitty's protocol."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_cli.history import Entry
from lora_cli.store import Store
from lora_cli.ui.kitty import KeyRelease, ReleaseParser, ReleasesReported
from textual import events

from lora import signals

APP = Path(__file__).with_name("pty_app.py")


def parsed(data: str) -> list[object]:
    return list(ReleaseParser().feed(data))


def test_press_repeat_and_release_of_a_key_are_told_apart() -> None:
    press, repeat, release = parsed("\x1b[32;1:1u\x1b[32;1:2u\x1b[32;1:3u")
    assert isinstance(press, events.Key)
    assert isinstance(repeat, events.Key)
    assert isinstance(release, KeyRelease)
    assert press.key == repeat.key == release.key == "space"


def test_a_key_without_event_type_and_plain_letters_are_as_before() -> None:
    assert [event.key for event in parsed("\x1b[32u") + parsed("ab")] == ["space", "a", "b"]  # type: ignore[attr-defined]


def test_functional_keys_with_event_types_are_read() -> None:
    (up, release) = parsed("\x1b[1;1:1A\x1b[1;1:3A")
    assert isinstance(up, events.Key)
    assert isinstance(release, KeyRelease)
    assert up.key == release.key == "up"


def test_the_terminals_answer_says_whether_releases_are_reported() -> None:
    assert isinstance(parsed("\x1b[?27u")[0], ReleasesReported)
    assert parsed("\x1b[?1u") == []


@settings(deadline=None)
@given(st.text(alphabet="0123456789:;u~A\x1b[?<M", max_size=30))
def test_no_sequence_of_a_terminal_escapes_the_parser(tail: str) -> None:
    parser = ReleaseParser()
    list(parser.feed(f"\x1b[{tail}"))


class Terminal:
    """A pty that answers kitty's query, with the app in it."""

    def __init__(self, log: Path, *, kitty: bool) -> None:
        self.kitty, self.log, self.seen = kitty, log, b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(
                sys.executable,
                [sys.executable, str(APP), str(log)],
                os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
            )
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def pump(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    data = os.read(self.fd, 65_536)
                except OSError as error:
                    raise AssertionError(f"the app has ended: {self.seen[-2000:]!r}") from error
                self.seen += data
                if self.kitty and b"\x1b[?u" in data:
                    self.send(b"\x1b[?27u")

    def read_to_end(self) -> None:
        """Read what is left until the app has ended: a pty then answers with an error, or with nothing."""
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65_536):
                self.seen += data

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def wait_log(self, word: str, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while word not in self.lines():
            assert time.monotonic() < until, f"{word!r} is not in {self.lines()}; {self.seen[-600:]!r}"
            try:
                self.pump(0.05)
            except AssertionError:
                if word not in self.lines():  # it may have been the last thing that the app did
                    raise

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.mark.parametrize("kitty", [True, False])
def test_hold_and_tap_in_a_terminal(tmp_path: Path, kitty: bool) -> None:
    terminal = Terminal(tmp_path / "log", kitty=kitty)
    try:
        terminal.wait_log("listening None")
        terminal.pump(0.5)
        if kitty:
            assert re.search(rb"\x1b\[>27u", terminal.seen)
            terminal.send(b"\x1b[32;1:3u")  # a stray release
            terminal.send(b"\x1b[32;1:1u")
            terminal.wait_log("recording hold")
            for _ in range(3):
                terminal.pump(0.2)
                terminal.send(b"\x1b[32;1:2u")
            terminal.send(b"\x1b[32;1:3u")
        else:
            terminal.send(b" ")
            terminal.wait_log("recording tap")
            terminal.send(b"\x1b[32;1:3u")  # a terminal left in kitty's mode by another program
            terminal.pump(0.6)
            terminal.send(b" ")
        terminal.wait_log(f"finished {'release' if kitty else 'key'}")
        terminal.send(b"\x1b[113u" if kitty else b"q")
        terminal.wait_log("left 0")
        terminal.read_to_end()
        assert terminal.seen.count(b"\x1b[<u") == 1
        assert terminal.seen.rstrip().endswith(b"\x1b[?1004l") or b"\x1b[?1049l" in terminal.seen
    finally:
        terminal.close()


@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_app_and_gives_the_terminal_back(tmp_path: Path, number: signal.Signals) -> None:
    terminal = Terminal(tmp_path / "log", kitty=True)
    try:
        terminal.wait_log("listening None")
        terminal.send(b"\x1b[32;1:1u")
        terminal.wait_log("recording hold")
        terminal.pump(0.6)
        os.kill(terminal.pid, number)
        terminal.read_to_end()
        terminal.wait_log("left 0")
        assert {"finished quit", "unmounted"} <= set(terminal.lines())
        said = terminal.seen.partition(b"\x1b[?1049l")[2]  # the alternate screen was left
        assert said.strip().endswith(signals.describe(number).encode())
        assert b"Traceback" not in said
        assert terminal.seen.count(b"\x1b[<u") == 1
    finally:
        terminal.close()


def test_a_terminal_that_is_gone_ends_the_app_and_keeps_the_recording(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "log", kitty=True)
    terminal.wait_log("listening None")
    terminal.send(b"\x1b[32;1:1u")
    terminal.wait_log("recording hold")
    terminal.pump(0.6)
    os.close(terminal.fd)
    until, ended = time.monotonic() + 60, 0
    while not ended and time.monotonic() < until:
        ended, status = os.waitpid(terminal.pid, os.WNOHANG)
        time.sleep(0.1)
    if not ended:
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)
    assert ended, "the app goes on without a terminal"
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert "finished quit" in terminal.lines()


def test_what_was_heard_and_what_failed_moves_no_cursor(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202ednuor\udcff"
    store = Store(tmp_path / "data", speaker="ana")
    (tmp_path / "data/takes/a.wav").write_bytes(b"")
    entry = Entry("a", "2026-01-01T12:00:00+00:00", "a.wav", 1.0, {"base": f"before {hostile} after"}, failure=hostile)
    store.put(entry)
    store.close()
    terminal = Terminal(tmp_path / "log", kitty=True)
    try:
        terminal.wait_log("listening None")
        terminal.send(b"\x1b[B")
        terminal.pump(1.0)
        shown = terminal.seen.decode("utf-8")
        assert "before" in shown
        assert "owned31mdnuor after" in shown
        assert not set(shown) & set("\x9b\u202e")
        assert "\x1b]0" not in shown
    finally:
        terminal.close()


def test_hold_with_the_mouse_in_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "log", kitty=False)
    try:
        terminal.wait_log("listening None")
        (button,) = (line.split()[1] for line in terminal.lines() if line.startswith("button"))
        terminal.send(f"\x1b[<0;{button}m".encode())  # a stray release
        terminal.send(f"\x1b[<0;{button}M".encode())
        terminal.wait_log("recording hold")
        terminal.pump(0.6)
        terminal.send(f"\x1b[<0;{button}m".encode())
        terminal.wait_log("finished release")
    finally:
        terminal.close()
