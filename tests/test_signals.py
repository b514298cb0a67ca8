"""Ctrl-C, SIGTERM and SIGHUP end a command in the same way, and work that must not be torn defers them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lora import signals

EACH = pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@EACH
def test_the_first_signal_raises_and_leaves_the_handlers_as_they_were(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(KeyboardInterrupt) as caught, signals.handled(), signals.handled():
        send(number)
    assert isinstance(caught.value, signals.Stopped)
    assert (caught.value.signal, caught.value.exit_code) == (number, 128 + number)
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before


@EACH
def test_deferred_work_asks_and_is_not_torn(number: signal.Signals) -> None:
    def work() -> None:
        with signals.handled(), signals.deferred() as stop:
            assert stop.requested is None
            send(number)
            assert stop.requested == number
            raise signals.Stopped(stop.requested, "saved")

    with pytest.raises(signals.Stopped, match="saved"):
        work()


def test_a_signal_that_deferred_work_did_not_answer_is_raised_at_its_end() -> None:
    reached = []

    def work() -> None:
        with signals.handled(), signals.deferred():
            with signals.deferred():
                send(signal.SIGTERM)
            reached.append("the end of the inner block")

    with pytest.raises(signals.Stopped):
        work()
    assert reached


def test_after_a_deferred_block_signals_raise_again() -> None:
    def work() -> None:
        with signals.handled():
            with signals.deferred():
                pass
            send(signal.SIGINT)

    with pytest.raises(signals.Stopped):
        work()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


SCRIPT = """
    import atexit, sys, time
    from lora import signals
    atexit.register(print, "clean end")
    with signals.handled():
        try:
            with signals.deferred() as stop:
                print("ready", flush=True)
                while stop.requested is None:
                    time.sleep(0.01)
                print("stopping", flush=True)
                time.sleep(30)
        except signals.Stopped:
            sys.exit(1)
"""


@EACH
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        # torchrun sends its own signal on top of the terminal's: that is still the first request.
        process.send_signal(signal.SIGTERM)
        time.sleep(signals.TOGETHER_S + 0.1)
        assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (128 + number, "", "")


COMMAND = """
    import sys, time
    from dataclasses import dataclass
    from pathlib import Path
    from lora.files import staged_directory
    from lora.scripts.cli import Command, run_command
    @dataclass(frozen=True)
    class Options: pass
    def run(_):
        with staged_directory(Path(sys.argv[1]) / "out"):
            print("ready", flush=True)
            try:
                time.sleep(30)
            except KeyboardInterrupt as error:
                raise RuntimeError("made by a library") from error
    sys.exit(run_command(Command("test", Options, run, "", ""), []))
"""


@EACH
def test_a_command_cleans_up_and_says_so_in_one_line(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMAND), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (128 + number, signals.describe(number) + "\n")
    assert list(tmp_path.iterdir()) == []
