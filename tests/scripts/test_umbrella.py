"""The umbrella command finds every command, and the entry points that users know are the same code."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from lora.scripts.cli import Command, build_parser
from lora.scripts.umbrella import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_has_its_module_help_and_examples(name: str) -> None:
    command = importlib.import_module(COMMANDS[name].module).COMMAND
    assert isinstance(command, Command)
    assert command.name == name
    assert command.description.strip()
    assert f"moonshine-lora {name}" in command.examples
    assert all(field.metadata.get("help") for field in command.fields.values())
    build_parser(command).format_help()


def test_every_command_module_is_listed() -> None:
    folder = ROOT / "src" / "lora" / "scripts"
    modules = {path.stem for path in folder.glob("*.py") if "COMMAND = " in path.read_text(encoding="utf-8")}
    assert {entry.module.rsplit(".", 1)[1] for entry in COMMANDS.values()} == modules


def test_the_list_of_commands_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in COMMANDS)


def test_no_command_is_an_error_that_shows_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_a_misspelt_command_gets_the_nearest_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run_sst"]) == 2
    assert "unknown command run_sst (did you mean run-stt?)" in capsys.readouterr().err


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: path.name)
def test_a_script_in_the_root_is_the_command_of_that_name(path: Path) -> None:
    name = path.stem.replace("_", "-")
    assert name in COMMANDS
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: moonshine-lora {name} ")
