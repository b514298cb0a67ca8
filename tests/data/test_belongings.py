"""What lies around a build belongs to the user: no byte of it changes, whatever it is called."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.outputs import RECORD_NAME
from lora.scripts import build_manifest


def recordings(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(2000), 16_000)
        (folder / f"{name}.txt").write_text(f"words of {name}")
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != RECORD_NAME}


def build(source: str, path: Path, output: Path, *options: str) -> int:
    return build_manifest.main(["--source", source, "--path", str(path), "--output", str(output), *options])


def test_recordings_in_a_folder_that_is_named_as_the_outputs_audio_stay(tmp_path: Path) -> None:
    source = recordings(tmp_path / "data" / "me_audio", "a", "b")
    (source / "notes.md").write_text("mine")
    before = contents(tmp_path)
    for _ in range(2):
        assert build("folder", source, tmp_path / "data" / "me.jsonl") == 0
        assert before.items() <= contents(tmp_path).items()
    assert len(read_manifest(tmp_path / "data" / "me.jsonl")) == 2


def test_the_audio_of_a_table_beside_the_output_stays(tmp_path: Path) -> None:
    recordings(tmp_path / "calls_audio", "a", "b")
    table = tmp_path / "calls.csv"
    table.write_text("audio,text\ncalls_audio/a.wav,one\ncalls_audio/b.wav,two\n")
    before = contents(tmp_path)
    for _ in range(2):
        assert build("csv", table, tmp_path / "calls.jsonl") == 0
        assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    ("source", "path", "output"),
    [
        ("csv", "calls.csv", "calls.csv"),
        ("csv", ".", "calls.csv"),
        ("csv", ".", "other.csv"),
        ("folder", "rec", "rec/metadata.jsonl"),
        ("folder", "rec", "rec/a.wav"),
        ("folder", "plain", "plain/m.jsonl"),
        ("folder", ".", "plain/m.jsonl"),
        ("nemo", "n", "n/m.jsonl"),
        ("nemo", "n/n.json", "n/n.json"),
    ],
)
def test_a_source_is_not_written_over_and_nothing_is_put_where_it_would_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, path: str, output: str
) -> None:
    recordings(tmp_path / "rec", "a")
    recordings(tmp_path / "plain", "a")
    recordings(tmp_path / "n", "a")
    (tmp_path / "calls.csv").write_text("audio,text\nrec/a.wav,one\n")
    (tmp_path / "rec" / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "one"}\n')
    (tmp_path / "n" / "n.json").write_text('{"audio_filepath": "a.wav", "text": "one"}\n')
    before = contents(tmp_path)
    assert build(source, tmp_path / path, tmp_path / output) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


def test_a_table_in_the_folder_of_the_output_is_read_again_and_gives_the_same(tmp_path: Path) -> None:
    recordings(tmp_path / "rec", "a")
    (tmp_path / "rec" / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "one"}\n')
    assert build("folder", tmp_path / "rec", tmp_path / "rec" / "m.jsonl") == 0
    first = contents(tmp_path)
    assert build("folder", tmp_path / "rec", tmp_path / "rec" / "m.jsonl") == 0
    assert contents(tmp_path) == first


def test_a_manifest_of_ours_is_not_built_out_of_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = recordings(tmp_path / "rec", "a")
    output = tmp_path / "m.jsonl"
    assert build("folder", source, output) == 0
    before = contents(tmp_path)
    assert build("nemo", output, output, "--audio-column", "audio") == 2
    assert "also an input" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["mine", None], ids=["foreign", "edited"])
def test_a_manifest_that_is_not_ours_as_it_is_stays(tmp_path: Path, content: str | None) -> None:
    source = recordings(tmp_path / "rec", "a")
    output = tmp_path / "m.jsonl"
    if content is None:
        assert build("folder", source, output) == 0
        content = output.read_text() + "\n"
    output.write_text(content)
    before = contents(tmp_path)
    assert build("folder", source, output) == 2
    assert contents(tmp_path) == before
