"""Commands leave what is the user's as it is, byte by byte: at the output's place, beside it, and in the input."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora import files
from lora.data.manifest import Utterance, write_manifest
from lora.outputs import RECORD_NAME, output_folder, write_output
from lora.scripts.umbrella import main

KEPT = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "runs"


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what is in a folder: the bytes of files, the targets of links, without our records."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink())
        elif path.is_file() and path.name != RECORD_NAME:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two finished runs and what a person keeps there."""
    for seed in ("42", "43"):
        shutil.copytree(KEPT / f"seed-{seed}" / "lora_adapter", tmp_path / "runs" / seed / "lora_adapter")
    shutil.copytree(KEPT / "seed-42", tmp_path / "finished", ignore=shutil.ignore_patterns("report.*", "plots"))
    (tmp_path / "models" / "precious").mkdir(parents=True)
    (tmp_path / "models" / "precious" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def speech(here: Path) -> Path:
    """A recording, a manifest that this tool wrote with its audio, and one more file of the user's."""
    with output_folder(here / "m_audio") as stage:
        for number, name in enumerate(("one", "two", "three"), start=1):
            wave = (0.1 * np.sin(np.arange(8000) / 10 * number)).astype(np.float32)
            soundfile.write(stage / f"{name}.flac", wave, 16_000)
    shutil.copy(here / "m_audio" / "two.flac", here / "talk.flac")
    rows = [Utterance(name, name, here / "m_audio" / f"{name}.flac", name) for name in ("one", "two", "three")]
    write_manifest(here / "draft.jsonl", rows)
    write_output(here / "m.jsonl", (here / "draft.jsonl").read_text())
    (here / "mine.json").write_text("mine")
    return here


MERGE = ["merge", "--adapter-dir", "runs/42/lora_adapter"]
AVERAGE = ["average", "runs/42/lora_adapter", "runs/43/lora_adapter"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*MERGE, "--output", "models"], "thesis.txt"),
        ([*MERGE, "--output", "models", "--model-id", "models/precious"], "is read, and lies in it"),
        ([*MERGE, "--output", "runs/42/lora_adapter"], "also an input"),
        ([*MERGE, "--output", "runs/42"], "is read, and lies in it"),
        ([*MERGE, "--output", "runs/42", "--overwrite"], "is read, and lies in it"),
        ([*MERGE, "--output", "models/precious/thesis.txt"], "is no folder"),
        ([*MERGE, "--output", "."], "is read, and lies in it"),
        ([*AVERAGE, "--output", "runs"], "is read, and lies in it"),
        ([*AVERAGE, "--output", "models"], "thesis.txt"),
        ([*AVERAGE, "--output", "runs/43/lora_adapter"], "also an input"),
    ],
)
def test_no_folder_of_the_users_becomes_a_model(
    words: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("words", [MERGE, AVERAGE], ids=["merge", "average"])
def test_a_link_as_output_stays_and_leads_to_the_new_result(words: list[str], here: Path) -> None:
    (here / "disk").mkdir()
    (here / "link").symlink_to("disk")
    for _ in range(2):
        assert main([*words, "--output", "link"]) == 0
        assert (here / "link").readlink() == Path("disk")
    assert len(contents(here / "disk")) > 2
    (here / "theirs").symlink_to("models")
    before = contents(here)
    assert main([*words, "--output", "theirs"]) == 2
    assert contents(here) == before


@pytest.mark.parametrize("words", [MERGE, AVERAGE], ids=["merge", "average"])
def test_with_overwrite_the_users_files_stay_beside_the_new_ones(words: list[str], here: Path) -> None:
    assert main([*words, "--output", "out"]) == 0
    made = contents(here / "out")
    (here / "out" / "notes.md").write_text("mine")
    assert main([*words, "--output", "out"]) == 2
    assert main([*words, "--output", "out", "--overwrite"]) == 0
    assert contents(here / "out") == made | {"notes.md": b"mine"}


def test_one_kind_of_result_does_not_replace_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*AVERAGE, "--output", "out"]) == 0
    before = contents(here)
    assert main([*MERGE, "--output", "out", "--overwrite"]) == 2
    assert "holds an averaged adapter" in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_changed_adapters_are_not_averaged(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "runs" / "43" / "lora_adapter" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert main([*AVERAGE, "--output", "out"]) == 2
    assert "differs from the record's" in capsys.readouterr().err
    assert not (here / "out").exists()


@pytest.mark.parametrize("command", ["run-stt", "transcribe"])
@pytest.mark.parametrize(
    ("words", "output", "told"),
    [
        (["talk.flac"], "talk.flac", "also an input"),
        (["talk.flac"], "twin.flac", "also an input"),
        (["talk.flac"], "mine.json", "not an earlier output"),
        (["talk.flac"], "models", "is a folder"),
        (["talk.flac"], "m.jsonl", "not an earlier output"),
        (["talk.flac"], "mine.json/out.json", "is a file"),
        (["."], "talk.flac", "also an input"),
        (["--manifest", "m.jsonl"], "m.jsonl", "also an input"),
        (["--manifest", "m.jsonl"], "m_audio/one.flac", "also an input"),
        (["--audio-list", "list.txt"], "list.txt", "also an input"),
        (["talk.flac", "--adapter-dir", "runs/42/lora_adapter"], "runs/42/lora_adapter/moonshine_lora.json", "input"),
    ],
)
def test_a_transcription_is_written_over_nothing_of_the_users(
    command: str, words: list[str], output: str, told: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (speech / "list.txt").write_text("talk.flac\n")
    os.link(speech / "talk.flac", speech / "twin.flac")
    before = contents(speech)
    assert main([command, *words, "--output", output]) == 2
    assert told in capsys.readouterr().err
    assert contents(speech) == before


@pytest.mark.parametrize(("command", "pages"), [("check", 3), ("manifest-diagnostics", 2)])
def test_a_report_folder_keeps_what_the_user_has_there(
    command: str, pages: int, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "--manifests", "m.jsonl", "--output", "models"]
    before = contents(speech)
    for _ in range(2):
        assert main(words) == 0
    written = contents(speech)
    assert before.items() <= written.items()
    assert len(written) == len(before) + pages
    [page, *_] = (speech / "models").glob("*.md")
    page.write_text("my notes on it")
    before = contents(speech)
    assert main(words) == 2
    assert "changed since it was written" in capsys.readouterr().err
    assert contents(speech) == before


@contextmanager
def refused(monkeypatch: pytest.MonkeyPatch, code: int) -> Iterator[None]:
    """Let no file be put in its place, as on a full disk or one that turned read-only."""

    def fsync(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        yield


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "merge": lambda output: [*MERGE, "--output", output],
    "average": lambda output: [*AVERAGE, "--output", output],
    "run-stt": lambda output: ["run-stt", "talk.flac", "--output", output],
    "transcribe": lambda output: ["transcribe", "talk.flac", "--output", output],
    "check": lambda output: ["check", "m.jsonl", "--output", output],
    "manifest-diagnostics": lambda output: ["manifest-diagnostics", "--manifests", "m.jsonl", "--output", output],
    "training-report": lambda output: ["training-report", "finished", "--output", output],
}


def test_a_report_that_does_not_fit_on_the_disk_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    with refused(monkeypatch, errno.ENOSPC):
        assert main(["report", "finished"]) == 1
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert contents(here) == before


def test_a_base_model_is_trained_over_nothing_of_the_users(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here)
    for words, told in (
        (["--output", "models", "--fsdd", "runs"], "thesis.txt"),
        (["--output", "models", "--fsdd", "models/precious"], "is read, and lies in it"),
        (["--output", "runs/42", "--init-from", "runs/42/lora_adapter"], "is read, and lies in it"),
    ):
        assert main(["train-builtin", *words]) == 2
        assert told in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_is_said_and_nothing_is_left(
    name: str, code: int, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(speech)
    with refused(monkeypatch, code):
        assert main(COMMANDS[name]("out")) == 1
    error = capsys.readouterr().err
    assert "out" in error
    assert os.strerror(code) in error
    assert "Traceback" not in error
    assert contents(speech) == before


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of one MiB at `disk`."""
    disk = here / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_model_that_does_not_fit_on_the_disk_is_said(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small_disk / "notes.md").write_text("mine")
    assert main([*MERGE, "--output", "disk/merged"]) == 1
    assert "its files cannot be written" in capsys.readouterr().err
    assert contents(small_disk) == {"notes.md": b"mine"}
    assert [path.name for path in small_disk.iterdir()] == ["notes.md"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_that_is_too_long_is_said(name: str, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(speech)
    assert main(COMMANDS[name]("x" * 300)) in (1, 2)
    assert os.strerror(errno.ENAMETOOLONG) in capsys.readouterr().err
    assert contents(speech) == before
