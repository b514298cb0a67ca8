"""How a process ends: what the system refuses, signals at any moment, output that nobody reads."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora import signals
from lora.errors import SetupError
from lora.scripts.cli import Command, run_command
from lora.scripts.umbrella import main

ROOT = Path(__file__).parents[1]
AUDIO = sorted((ROOT / "tests/fixtures/v0_1_0/data/test_audio").iterdir())
ENTRIES = {
    "module": ["-m", "lora", "transcribe"],
    "console script": ["-c", "import sys; from lora.scripts.entry import main; sys.exit(main())", "transcribe"],
    "file": [str(ROOT / "scripts/transcribe.py")],
    "voice": ["-m", "lora_cli", "--file"],
}


def start(words: Sequence[object], **options: object) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **options}
    return subprocess.Popen([sys.executable, *map(str, words)], text=True, **options)  # type: ignore[call-overload,no-any-return]


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_until_answered(process: subprocess.Popen[str]) -> None:
    """Wait until SIGTERM has a handler: before, no line of the project was run."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells when a process handles signals")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)
def test_a_signal_at_any_moment_ends_a_command_with_one_line(entry: str, number: signal.Signals) -> None:
    pytest.importorskip("lora_cli") if entry == "voice" else None
    rng = random.Random(f"{entry}{number}")
    for delay_s in [0.0, *(rng.uniform(0, 2) for _ in range(3))]:
        process = start([*ENTRIES[entry], *AUDIO])
        wait_until_answered(process)
        time.sleep(delay_s)
        process.send_signal(number)
        code, _, err = end(process)
        lines = [line for line in err.splitlines() if "\u2501" not in line]
        assert (code, lines) in [(128 + number, [signals.describe(number)]), (0, [])], (delay_s, err)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="a terminal's Ctrl-C reaches a whole group of processes")
def test_the_processes_of_a_command_say_nothing_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    words = "build-manifest --source synthetic --split train --samples 3000 --output"
    for delay_s in (0.7, 1.2, 2.0):
        process = start(["-m", "lora", *words.split(), tmp_path / "m.jsonl"], start_new_session=True)
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = end(process)
        lines = [line for line in err.splitlines() if "\u2501" not in line]
        assert (code, lines[-1]) == (130, "interrupted"), err
        assert len(lines) <= 2, err  # what was built is kept, and that is said
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@dataclass(frozen=True)
class NoOptions:
    """A command without options."""


def refuse(error: OSError, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def fail(_: NoOptions) -> None:
        raise error

    return run_command(Command("train", NoOptions, fail, "", ""), []), capsys.readouterr().err


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOENT, errno.EMFILE, errno.EPIPE]
)
def test_what_the_system_refuses_is_said_with_its_place(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = refuse(OSError(number, os.strerror(number), "/data/x\x1b.jsonl"), capsys)
    assert code == 1
    assert err.startswith(f"error: train: /data/x\\u001b.jsonl: cannot be read or written ({os.strerror(number)}).")
    assert refuse(OSError(number, os.strerror(number)), capsys)[1].startswith("error: train: a file: cannot be")


def test_an_error_of_a_package_keeps_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(OSError("owner/name is not a local folder"), capsys) == (
        1,
        "error: train: owner/name is not a local folder\n",
    )


def test_files_that_the_system_refuses_end_in_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["check", "x" * 300 + ".jsonl"],
        ["check", AUDIO[0] / "x.jsonl"],
        ["transcribe", "x" * 300],
        ["run-stt", AUDIO[0], "--output", AUDIO[0] / "x.json"],
        ["experiment", "--config", tmp_path],
    ):
        assert main([str(word) for word in words]) in (1, 2)
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if "\u2501" not in line]
        assert lines[0].startswith("error: "), err
        assert all(line.startswith("  ") for line in lines[1:]), err


def test_a_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; from lora.scripts.entry import main; os.rmdir(os.getcwd()); sys.argv[1:] = ['check', 'a'];"
        " sys.exit(main())"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert end(start(["-c", code], cwd=gone, env=env)) == (
        1,
        "",
        "error: the current folder does not exist any more. Change into another one.\n",
    )


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"], ["stats", "tests/fixtures/v0_1_0/data/test.jsonl"]])
def test_output_that_nobody_reads_ends_quietly(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(["-m", "lora", *words], stdout=writer)
    os.close(writer)
    code, _, err = end(process)
    assert code == 0 if words == ["check", "--help"] else code == 141  # argparse drops its help without a word
    assert [line for line in err.splitlines() if "\u2501" not in line] == []


def test_output_on_a_full_disk_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        code, _, err = end(start(["-m", "lora", "stats", "tests/fixtures/v0_1_0/data/test.jsonl"], stdout=full))
    assert code == 1
    assert "error: stats: the standard output: cannot be read or written (No space left on device)" in err


def test_a_library_call_gets_the_error_and_not_an_exit_code() -> None:
    from lora.scripts.system_errors import system_errors

    with pytest.raises(SetupError, match="here: a file: cannot be read or written"), system_errors("here"):
        raise PermissionError(errno.EACCES, "Permission denied")
