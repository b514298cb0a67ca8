from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.audio_folder import is_intact
from lora.data.manifest import Manifest, read_manifest
from lora.data.sources.base import Clip, write_clips
from lora.errors import ConfigError, SourceError
from lora.files import sha256_file
from lora.units import Wave


def tone(rate: int = 16_000, level: float = 0.5) -> Wave:
    return (level * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)


def clip(name: str = "a-1") -> Clip:
    return Clip(name, tone(), 16_000, "three seven", "ann", {"kind": "test"})


def visible(folder: Path) -> list[str]:
    """Return the names of all files in a folder, hidden ones left out."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith("."))


def samples_of(manifest: Manifest) -> Wave:
    audio = manifest.utterances[0].audio
    assert isinstance(audio, Path)
    return np.asarray(soundfile.read(audio, dtype="float32")[0])


def test_clips_become_flac_files_and_a_manifest_that_names_them(tmp_path: Path) -> None:
    manifest = read_manifest(write_clips([clip("a-1"), clip("a-2")], tmp_path / "out" / "train.jsonl", total=2))
    assert [utterance.id for utterance in manifest.utterances] == ["a-1", "a-2"]
    first = manifest.utterances[0]
    assert (first.text, first.speaker_id, first.extra) == ("three seven", "ann", {"kind": "test"})
    (folder,) = (tmp_path / "out").glob("train_audio-*")
    assert first.audio == folder / "a-1.flac"
    assert is_intact(folder)
    info = soundfile.info(str(first.audio))
    assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == (
        "FLAC",
        "PCM_16",
        16_000,
        1,
        8000,
    )
    assert visible(tmp_path / "out") == ["train.jsonl", f"{folder.name}/a-1.flac", f"{folder.name}/a-2.flac"]


def test_eight_kilohertz_audio_is_resampled_to_sixteen(tmp_path: Path) -> None:
    slow = replace(clip(), wave=tone(8000), sampling_rate=8000)
    samples = samples_of(read_manifest(write_clips([slow], tmp_path / "m.jsonl")))
    np.testing.assert_allclose(samples[500:-500], tone(16_000)[500:-500], atol=1e-3)


def test_a_clip_beyond_full_scale_is_scaled_down_and_keeps_its_shape(tmp_path: Path) -> None:
    loud = replace(clip(), wave=tone(level=4.0))
    samples = samples_of(read_manifest(write_clips([loud], tmp_path / "m.jsonl")))
    np.testing.assert_allclose(samples, tone(level=1.0), atol=1e-3)


def test_a_quiet_clip_keeps_its_level(tmp_path: Path) -> None:
    quiet = replace(clip(), wave=tone(level=0.01))
    samples = samples_of(read_manifest(write_clips([quiet], tmp_path / "m.jsonl")))
    np.testing.assert_allclose(samples, tone(level=0.01), atol=5e-5)


def test_embedded_audio_holds_the_same_samples_as_the_files_and_makes_no_folder(tmp_path: Path) -> None:
    in_files = samples_of(read_manifest(write_clips([clip()], tmp_path / "files.jsonl")))
    embedded = read_manifest(write_clips([clip()], tmp_path / "inline.jsonl", embed_audio=True)).utterances[0]
    assert isinstance(embedded.audio, np.ndarray)
    assert np.array_equal(embedded.audio, in_files)
    assert embedded.sampling_rate == 16_000
    assert not list(tmp_path.glob("inline_audio*"))


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    def digests() -> list[str]:
        write_clips([clip("a-1"), clip("a-2")], tmp_path / "m.jsonl")
        return [sha256_file(path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]

    assert digests() == digests()


@pytest.mark.parametrize("embed_audio", [False, True])
def test_a_source_that_fails_midway_leaves_nothing(tmp_path: Path, embed_audio: bool) -> None:
    def broken() -> Iterator[Clip]:
        yield clip()
        raise SourceError("the tape tore")

    with pytest.raises(SourceError, match="tape"):
        write_clips(broken(), tmp_path / "m.jsonl", embed_audio=embed_audio)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_older_manifest_and_its_audio(tmp_path: Path) -> None:
    output = write_clips([clip("old")], tmp_path / "m.jsonl")
    before, files = output.read_bytes(), visible(tmp_path)
    with pytest.raises(SourceError, match="was used before"):
        write_clips([clip("new"), clip("new")], output)
    assert output.read_bytes() == before
    assert visible(tmp_path) == files


def test_writing_again_leaves_the_older_audio_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_clips([clip("old")], tmp_path / "m.jsonl")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(output.read_bytes())
    (older,) = tmp_path.glob("m_audio-*")
    write_clips([clip("old")], output)
    assert capsys.readouterr().err == ""
    write_clips([clip("new")], output)
    err = capsys.readouterr().err
    assert str(older) in err
    assert "moonshine-lora clean" in err
    assert len(read_manifest(copy)) == 1
    assert read_manifest(output).utterances[0].id == "new"


def test_a_source_without_clips_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no clips"):
        write_clips([], tmp_path / "new" / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        write_clips([clip()], tmp_path)


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "-rf", "a b", "a:b", "x" * 201])
def test_an_id_that_is_no_portable_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="portable file name"):
        write_clips([clip(name)], tmp_path / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"text": " ,"}, "at least one word"),
        ({"wave": np.array([0.1, np.nan], dtype=np.float32)}, "NaN"),
        ({"wave": np.zeros(0, dtype=np.float32)}, "non-empty"),
        ({"wave": np.zeros((2, 8), dtype=np.float32)}, "mono"),
        ({"extra": {"audio": "x"}}, "extra keys audio"),
        ({"id": "A-1"}, "was used before"),
    ],
)
def test_a_clip_that_a_manifest_cannot_hold_is_named_and_refused(tmp_path: Path, fault: dict, message: str) -> None:  # type: ignore[type-arg]
    bad = replace(clip("a-2"), **fault)
    with pytest.raises(SourceError, match=message) as caught:
        write_clips([clip("a-1"), bad], tmp_path / "m.jsonl")
    assert repr(bad.id) in str(caught.value)
    assert visible(tmp_path) == []
