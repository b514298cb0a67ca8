import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.scripts import build_domain_manifest, build_manifest

SUMMARY = re.compile(r"(?P<path>.+): (?P<utterances>\d+) utterances, (?P<hours>[\d.]+) hours, (?P<speakers>.+)")


@pytest.fixture
def fsdd(tmp_path: Path) -> Path:
    """Write a folder in FSDD's layout: two speakers, digits 0 to 2, one test and two train recordings of each."""
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for number, speaker in enumerate(("jackson", "theo")):
        for digit in range(3):
            for index in (0, 5, 6):
                hz = 200 + 100 * digit + 50 * number + index
                wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(3200) / 8000)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", wave, 8000)
    return folder.parent


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Write a folder in the layout of LibriSpeech on the hub: six test clips of config `other`, 0.5 s each."""
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for number in range(6):
        buffer = io.BytesIO()
        wave = 0.3 * np.sin(2 * np.pi * (300 + number) * np.arange(8000) / 16_000)
        soundfile.write(buffer, wave, 16_000, format="FLAC", subtype="PCM_16")
        audio = {"bytes": buffer.getvalue(), "path": f"{number}.flac"}
        rows.append({"audio": audio, "text": f"TEXT {number}", "speaker_id": number % 2, "chapter_id": 1})
        rows[-1]["id"] = f"{number % 2}-1-{number:04d}"
    path = tmp_path / "librispeech" / "other" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return tmp_path / "librispeech"


def run(
    capsys: pytest.CaptureFixture[str], *arguments: object, main: Any = build_manifest.main
) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_fsdd_form_writes_a_manifest_and_says_what_is_in_it(
    fsdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data" / "us.jsonl"
    arguments = ["--source", "fsdd", "--path", fsdd, "--split", "train", "--speakers", "jackson", "theo"]
    code, out, _ = run(capsys, *arguments, "--samples", 6, "--seed", 7, "--output", output)
    assert code == 0
    manifest = read_manifest(output)
    assert {utterance.speaker_id for utterance in manifest.utterances} == {"jackson", "theo"}
    summary = SUMMARY.fullmatch(out.splitlines()[-1])
    assert summary is not None
    assert (summary["path"], summary["utterances"], summary["speakers"]) == (str(output), "6", "2 speaker(s)")
    seconds = sum(soundfile.info(str(utterance.audio)).duration for utterance in manifest.utterances)
    assert float(summary["hours"]) == pytest.approx(seconds / 3600, abs=0.0006)


def test_the_same_command_gives_the_same_bytes_and_replaces_the_older_file(
    fsdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.jsonl"
    arguments = ["--source", "fsdd", "--path", fsdd, "--split", "test", "--samples", 3, "--output", output]

    def files() -> dict[str, bytes]:
        audio = [utterance.audio for utterance in read_manifest(output).utterances]
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in [output, *audio]}

    assert run(capsys, *arguments)[0] == 0
    first = files()
    assert run(capsys, *arguments, "--seed", 1)[0] == 0
    assert files() != first
    assert run(capsys, *arguments)[0] == 0
    assert files() == first


def test_embedded_audio_makes_no_folder_and_the_same_samples(
    fsdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source", "fsdd", "--path", fsdd, "--split", "test", "--samples", 2]
    assert run(capsys, *arguments, "--output", tmp_path / "files.jsonl")[0] == 0
    assert run(capsys, *arguments, "--output", tmp_path / "inline.jsonl", "--embed-audio")[0] == 0
    assert not list(tmp_path.glob("inline_audio*"))
    files, inline = (read_manifest(tmp_path / f"{name}.jsonl").utterances for name in ("files", "inline"))
    for file, line in zip(files, inline, strict=True):
        np.testing.assert_array_equal(soundfile.read(str(file.audio), dtype="float32")[0], line.audio)


def test_indices_narrow_the_recordings_used(fsdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a.jsonl"
    arguments = ["--source", "fsdd", "--path", fsdd, "--split", "train", "--samples", 8, "--output", output]
    assert run(capsys, *arguments, "--indices", "6-9")[0] == 0
    used = {name for utterance in read_manifest(output).utterances for name in utterance.extra["digits"]}
    assert {name.split("_")[2] for name in used} == {"6.wav"}
    code, _, err = run(capsys, *arguments, "--indices", "9")
    assert (code, "--indices: got '9', expected A-B" in err) == (2, True)


def test_generated_sources_are_narrowed_by_speaker_length_and_hours(
    fsdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.jsonl"
    arguments = ["--source", "fsdd", "--path", fsdd, "--split", "train", "--output", output]
    code, out, _ = run(capsys, *arguments, "--samples", 4, "--exclude-speakers", "theo", "--max-seconds", 2.5)
    assert code == 0
    utterances = read_manifest(output).utterances
    assert [utterance.speaker_id for utterance in utterances] == ["jackson"] * 4
    assert max(soundfile.info(str(utterance.audio)).duration for utterance in utterances) <= 2.5
    assert re.match(r"left out: \d+ longer than 2\.5 s\n", out)
    code, out, _ = run(capsys, *arguments, "--hours", 0.002, "--text-mode", "auto")
    assert code == 0
    seconds = [soundfile.info(str(utterance.audio)).duration for utterance in read_manifest(output).utterances]
    assert 7.2 - 5 < sum(seconds) <= 7.2
    assert out.startswith("text: not ALL CAPS, so it is kept as it is\n")
    code, _, err = run(capsys, *arguments, "--exclude-speakers", "lucas")
    assert (code, "no speaker lucas; present are jackson, theo" in err) == (2, True)


def test_the_librispeech_forms_read_a_local_folder_by_config_and_split(
    librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "domain.jsonl"
    arguments = ["--config", "other", "--split", "test", "--samples", 4, "--seed", 42, "--path", librispeech]
    code, out, _ = run(capsys, *arguments, "--output", output, main=build_domain_manifest.main)
    assert code == 0
    assert out.splitlines()[-1] == f"{output}: 4 utterances, 0.001 hours, 2 speaker(s)"
    first = read_manifest(output).utterances[0]
    assert first.text == f"text {int(first.id[-4:])}"
    assert (first.speaker_id, first.extra) == (int(first.id[0]), {"chapter_id": 1})
    again = tmp_path / "again.jsonl"
    assert run(capsys, "--split", "test.other", *arguments[4:], "--text-mode", "keep", "--output", again)[0] == 0
    assert [u.id for u in read_manifest(again).utterances] == [u.id for u in read_manifest(output).utterances]
    assert read_manifest(again).utterances[0].text == first.text.upper()


def test_a_wrong_librispeech_split_lists_the_right_ones_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--config", "other", "--split", "train.100", "--output", tmp_path / "new" / "a.jsonl")
    assert (code, out) == (2, "")
    assert "no split 'train.100' in config 'other'; expected one of train.500, validation, test" in err
    assert list(tmp_path.iterdir()) == []


def test_a_hub_out_of_reach_is_exit_code_one_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--split", "test", "--samples", 120, "--output", tmp_path / "data" / "heldout_manifest.jsonl"]
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "the hub cannot be reached" in err
    assert list(tmp_path.iterdir()) == []


def test_any_table_is_read_by_its_column_names(
    librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")  # where --no-streaming downloads to
    output = tmp_path / "hub.jsonl"
    arguments = ["--source", "hub", "--path", librispeech, "--split", "test", "--samples", 2, "--output", output]
    code, out, _ = run(capsys, *arguments, "--text-column", "id", "--no-streaming")
    assert code == 0
    assert out.endswith("no speaker ids\n")
    assert all(re.fullmatch(r"\d-1-\d{4}", utterance.text) for utterance in read_manifest(output).utterances)
    code, _, err = run(capsys, *arguments, "--text-column", "sentence", "--speaker-column", "who")
    assert code == 2
    assert "Present are: audio" in err
    assert "text column 'sentence' does not exist" in err
    assert "speaker column 'who' does not exist" in err


def test_a_failure_half_way_leaves_the_older_manifest_and_nothing_else(
    librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.jsonl"
    arguments = ["--path", librispeech, "--config", "other", "--split", "test", "--output", output]
    code, _, err = run(capsys, *arguments, "--samples", 7)
    assert (code, "6 of the 7 clips asked for" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["librispeech"]
    assert run(capsys, *arguments, "--samples", 2)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(capsys, *arguments, "--samples", 7)[0] == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_synthetic_speech_is_built_in_the_voices_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "phone.jsonl"
    arguments = ["--source", "synthetic", "--split", "test", "--voices", "en-us", "--telephone", "--noise-snr-db", 20]
    assert run(capsys, *arguments, "--samples", 3, "--max-digits", 3, "--output", output)[0] == 0
    manifest = read_manifest(output)
    assert all(str(utterance.speaker_id).startswith("en-us+") for utterance in manifest.utterances)
    assert [len(utterance.text.split()) for utterance in manifest.utterances] == [3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (
            ["--source", "fsdd", "--split", "test", "--voices", "en-us", "--no-telephone", "--config", "clean"],
            [
                "--voices does not belong to --source fsdd; it is for synthetic",
                "--telephone does not belong to --source fsdd; it is for synthetic",
                "--config does not belong to --source fsdd; it is for librispeech, hub",
                "--path is missing",
            ],
        ),
        (["--split", "test", "--dataset-id", "a/b"], ["--dataset-id does not belong to --source librispeech"]),
        (["--source", "hub", "--split", "test"], ["expected either --dataset-id (on the hub) or --path"]),
        (
            ["--source", "hub", "--split", "test", "--path", "a", "--dataset-id", "a/b"],
            ["expected either --dataset-id"],
        ),
        (["--source", "synthetic"], ["--split is missing; expected one of train, validation, test"]),
        (["--source", "synthetic", "--split", "dev"], ["unknown split 'dev'; expected one of train, validation, test"]),
        (["--source", "fsdd", "--path", ".", "--split", "dev"], ["unknown split 'dev'; expected one of test, train"]),
        (["--split", "test", "--path", "a", "--revision", "main"], ["--revision is a version on the hub"]),
        (["--split", "test", "--samples", "0", "--seed", "-1"], ["--samples: got 0", "--seed: got -1"]),
        (["--split", "test", "--max-seconds", "3", "--min-seconds", "5"], ["max_seconds: got 3.0, expected more than"]),
        (["--source", "folders", "--split", "test"], ["--source: got", "librispeech"]),
        (["--source", "folder"], ["--path is missing; expected the corpus' folder or table"]),
        (["--source", "csv", "--path", "a", "--split", "test"], ["--split does not belong to --source csv"]),
        (["--source", "fsdd", "--path", "a", "--split", "test", "--samples", "all"], ["fsdd is endless"]),
        (["--split", "test", "--hours", "0", "--workers", "0"], ["--hours: got 0.0", "--workers: got 0"]),
        (["--source", "nemo", "--path", "a", "--balance-speakers"], ["--balance-speakers: expected --samples"]),
        (["--split", "test", "--sample", "5"], ["unknown argument --sample", "did you mean --samples?"]),
        (["--source", "hub", "--dataset-id", "no such id", "--split", "test"], ["not a hub dataset id"]),
        (["--path", "nowhere", "--split", "test"], ["nowhere: no such folder"]),
    ],
)
def test_wrong_options_are_all_named_with_exit_code_two_and_nothing_is_written(
    arguments: list[str], faults: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments, "--output", tmp_path / "out" / "a.jsonl")
    assert (code, out) == (2, "")
    for fault in faults:
        assert fault in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [build_manifest, build_domain_manifest])
def test_help_shows_the_documented_form(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help", main=command.main)
    assert code == 0
    assert "--split test --samples" in out
    assert "clean unless given" in " ".join(out.split())
