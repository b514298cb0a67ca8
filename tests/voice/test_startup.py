"""A quick start: nothing heavy before the first frame."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lora_cli.main import main


def loaded_after(statement: str, names: tuple[str, ...]) -> list[str]:
    report = f"import sys\n{statement}\nprint('loaded:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("words", [["--help"], ["devices", "--help"], ["latency", "--help"]])
def test_help_loads_neither_torch_nor_textual(words: list[str]) -> None:
    names = ("torch", "transformers", "textual", "sounddevice", "onnxruntime")
    assert loaded_after(f"from lora_cli.main import main\nassert main({words!r}) == 0", names) == []


def test_the_core_knows_no_textual_and_the_shell_no_torch() -> None:
    assert loaded_after("import lora_cli.core, lora_cli.bench, lora_cli.headless", ("textual", "torch")) == []
    assert loaded_after("import lora_cli.ui.start", ("torch", "transformers", "peft")) == []


def test_without_a_terminal_the_app_says_what_works_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--file talk.wav" in capsys.readouterr().err


def test_wrong_options_are_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--max-seconds", "0", "--json", "--adapter-dir", "/nowhere", "--keep-days", "0"]
    assert main([*words, "--record-only", "--no-history"]) == 2
    assert capsys.readouterr().err.count("\n  - ") == 5


def test_the_first_frame_comes_before_the_model(tmp_path: Path) -> None:
    """Wall time of a busy test machine says little: the frame must come in 1.5 s of the process's own work."""
    pid, fd = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "lora_cli", "--data-dir", str(tmp_path), "--model-id", str(tmp_path / "none")]
        os.execve(sys.executable, words, os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"})
    started, seen = time.monotonic(), b""
    try:
        while b"READY" not in seen and b"MIC OFF" not in seen and b"TALK" not in seen:
            assert time.monotonic() - started < 30, seen[-500:]
            if select.select([fd], [], [], 0.1)[0]:
                seen += os.read(fd, 65_536)
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
        work_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        assert work_s < 1.5
        assert b"/torch/" not in Path(f"/proc/{pid}/maps").read_bytes()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(fd)
