"""Every command of the section Sources of docs/data.md runs, on files made here in the layouts that it names."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.runners.build import SourceName
from lora.scripts import umbrella
from lora.scripts.build_manifest import COMMAND

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"


def section() -> str:
    found = re.search(r"^## Sources\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", section(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def tone(hz: int, name: str = "x.flac") -> bytes:
    buffer = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(4000) / 8000)
    soundfile.write(buffer, wave, 8000, format=Path(name).suffix[1:].upper())
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))


def write_parquet(path: Path, *rows: dict[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files that the commands name, and go to their folder."""
    write(tmp_path / "recordings" / "ann" / "a.wav", tone(300, "a.wav"))
    write(tmp_path / "recordings" / "ann" / "a.txt", "One two\n")
    write(tmp_path / "calls" / "1.wav", tone(310, "1.wav"))
    write(tmp_path / "calls" / "calls.csv", 'agent,file,transcript\nbob,1.wav,"Hello, you"\n')
    write(tmp_path / "nemo" / "1.wav", tone(320, "1.wav"))
    row = {"audio_filepath": "1.wav", "text": "one", "duration": 0.5}
    write(tmp_path / "nemo" / "train_manifest.json", json.dumps(row) + "\n")
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    write(chapter / "84-121123-0000.flac", tone(330))
    write(chapter / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    write(tmp_path / "LibriSpeech" / "SPEAKERS.TXT", "84   | F | dev-clean | 8.02 | Christie Nowak\n")
    for split in ("train", "test"):
        rows = [f"c{number}\t{split}{number}.mp3\tA sentence.\n" for number in range(3)]
        write(tmp_path / "cv-corpus" / "en" / f"{split}.tsv", "client_id\tpath\tsentence\n" + "".join(rows))
        for number in range(3):
            write(tmp_path / "cv-corpus" / "en" / "clips" / f"{split}{number}.mp3", tone(340 + number, "x.mp3"))
    audio = {"bytes": tone(350), "path": "1.flac"}
    write_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet", {"audio": audio, "sentence": "One."})
    rows_of_corpus = [
        {
            "audio": {"bytes": tone(360 + n), "path": None},
            "text": "ONE",
            "speaker_id": 1,
            "chapter_id": 2,
            "id": f"1-2-{n}",
        }
        for n in range(2)
    ]
    write_parquet(tmp_path / "librispeech_parquet" / "other" / "test-00000-of-00001.parquet", *rows_of_corpus)
    for digit in range(3):
        write(tmp_path / "fsdd" / "recordings" / f"{digit}_theo_0.wav", tone(370 + digit, "x.wav"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_builds_a_manifest(line: str, corpora: None, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(line)
    assert program == "moonshine-lora"
    assert umbrella.main(arguments) == 0, capsys.readouterr().err
    manifest = read_manifest(Path(arguments[arguments.index("--output") + 1]))
    assert all(isinstance(utterance.audio, Path) for utterance in manifest.utterances)


def test_every_source_has_a_documented_command() -> None:
    documented = {re.search(r"--source (\S+)", line)[1] for line in commands()}  # type: ignore[index]
    assert documented == set(get_args(SourceName))


def test_every_option_named_in_the_section_exists() -> None:
    named = {name.replace("-", "_") for name in re.findall(r"--(?:no-)?([a-z][a-z-]+)", section())}
    assert named <= set(COMMAND.fields)
