"""Signals that ask a command to end: Ctrl-C, SIGTERM and SIGHUP do the same everywhere.

The first one raises `Stopped` where the main thread is, so that temporary folders are removed on the way out. Work that
must not be torn, a training step, runs in a `deferred` block and asks `requested` when it can stop. The second one
ends the process at once.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
TOGETHER_S = 0.5
"""Signals this close together count as one: torchrun sends SIGTERM right after the terminal's own SIGINT."""


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end. `message` adds what is to be said about it: what was saved, how to resume."""

    def __init__(self, number: signal.Signals, message: str = "") -> None:
        self.signal = number
        self.message = message
        super().__init__(message or f"ended by {number.name}")

    @property
    def exit_code(self) -> int:
        """Return 128 plus the signal's number, as shells do."""
        return 128 + self.signal


class Stop:
    """What a `deferred` block asks: the signal that has come, or None."""

    requested: signal.Signals | None = None


class _State:
    # No dataclasses in this module: an entry point imports it first, and they take as long as Python's own start.
    owner: int | None = None
    received: signal.Signals | None = None
    received_at: float = 0.0
    raised: signal.Signals | None = None
    stop: Stop | None = None


_state = _State()


@contextmanager
def handled() -> Iterator[None]:
    """Answer the signals in this block, in the main thread; an inner block leaves that to the outer one.

    A signal that is ignored when the block begins stays ignored: `nohup` and background jobs of a script rely on it.
    """
    if threading.current_thread() is not threading.main_thread() or _state.owner == os.getpid():
        yield
        return
    before = _install(_on_signal)
    _state.owner, _state.received, _state.raised, _state.stop = os.getpid(), None, None, None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.owner = None


@contextmanager
def deferred() -> Iterator[Stop]:
    """Note a signal in this block instead of raising; one that the block has not answered is raised at its end."""
    outer, stop = _state.stop, Stop()
    _state.stop = stop
    try:
        yield stop
    finally:
        _state.stop = outer
        if outer is not None and stop.requested is not None:
            outer.requested = stop.requested
    if outer is None and stop.requested is not None:
        raise Stopped(stop.requested)


@contextmanager
def immediate() -> Iterator[None]:
    """Let a signal raise `Stopped` in this block, one that waits too, though a `deferred` block is around it."""
    outer, _state.stop = _state.stop, None
    try:
        if outer is not None and outer.requested is not None:
            raise Stopped(outer.requested)
        yield
    finally:
        _state.stop = outer


def received() -> signal.Signals | None:
    """Return the signal that was raised in the `handled` block: what fails after it fails because of it."""
    return _state.raised


def leave_at_once() -> None:
    """Let a signal end this process with one line: for the time when there is nothing to clean up.

    Entry points call this before they import anything large. It stays until the process ends, so it also
    answers a signal during the interpreter's own end.
    """
    _install(_leave)


def _install(
    handler: Callable[[int, FrameType | None], None],
) -> dict[int, Callable[[int, FrameType | None], object] | int | None]:
    wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _on_signal(number: int, _frame: FrameType | None) -> None:
    if _state.owner != os.getpid():  # a forked child, which has nothing to finish
        os._exit(128 + number)
    if _state.received is not None:
        if time.monotonic() - _state.received_at >= TOGETHER_S:
            os._exit(128 + number)
        return
    _state.received, _state.received_at = signal.Signals(number), time.monotonic()
    if _state.stop is None:
        _state.raised = _state.received
        raise Stopped(_state.received)
    _state.stop.requested = _state.received


def _leave(number: int, _frame: FrameType | None) -> None:
    # `sys.stderr` may be in the middle of a write, and another call into it would raise.
    os.write(2, describe(signal.Signals(number)).encode() + b"\n")
    os._exit(128 + number)


def describe(number: signal.Signals) -> str:
    """Return the line that a command ends with."""
    return "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
