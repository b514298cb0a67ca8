import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.scripts import merge_manifests, sample, split, stats
from lora.scripts import shift as shift_command

RNG = np.random.default_rng(0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    lines = []
    for number in range(6):
        soundfile.write(tmp_path / "audio" / f"{number}.wav", 0.1 * RNG.standard_normal(8000), 16_000)
        lines.append(
            {"audio": f"audio/{number}.wav", "text": f"word {number}", "speaker_id": number % 3, "duration": 0.5}
        )
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "test.jsonl"


def shift(manifest: Path, output: str, *words: str) -> list[bytes]:
    path = manifest.parent / output
    assert shift_command.main([str(manifest), "--output", str(path), *words]) == 0
    return [utterance.audio.read_bytes() for utterance in read_manifest(path).utterances]  # type: ignore[union-attr]


def test_a_shifted_manifest_keeps_ids_texts_speakers_and_says_how_it_was_made(manifest: Path) -> None:
    shift(manifest, "phone.jsonl", "--transform", "noise:babble:snr=5", "telephone", "--seed", "7")
    before, after = read_manifest(manifest).utterances, read_manifest(manifest.parent / "phone.jsonl").utterances
    assert [(u.id, u.text, u.speaker_id) for u in after] == [(u.id, u.text, u.speaker_id) for u in before]
    assert after[0].extra["origin"] == {
        "manifest": "test.jsonl",
        "id": "test:1",
        "transforms": ["noise:babble:snr=5:voices=4", "telephone"],
        "seed": 7,
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(manifest: Path) -> None:
    words = ("--transform", "noise:pink:snr=0-20", "reverb:rt60=0.2", "drop-freq")
    first = shift(manifest, "a.jsonl", *words)
    assert shift(manifest, "b.jsonl", *words) == first
    assert shift(manifest, "c.jsonl", *words, "--seed", "1") != first


def test_the_order_of_the_rows_and_the_other_rows_do_not_matter(manifest: Path) -> None:
    rows = [json.loads(line) | {"id": f"u{number}"} for number, line in enumerate(manifest.read_text().splitlines())]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = shift(manifest, "a.jsonl", "--transform", "noise:white:snr=0-20")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in (rows[4], rows[1])))
    assert shift(manifest, "b.jsonl", "--transform", "noise:white:snr=0-20") == [whole[4], whole[1]]


def test_speed_changes_the_duration_and_its_key(manifest: Path) -> None:
    shift(manifest, "fast.jsonl", "--transform", "speed:2")
    utterance = read_manifest(manifest.parent / "fast.jsonl").utterances[0]
    assert soundfile.info(str(utterance.audio)).duration == pytest.approx(0.25)
    assert utterance.extra["duration"] == pytest.approx(0.25)


def test_audio_that_would_pass_full_scale_is_scaled_down_and_not_cut(manifest: Path) -> None:
    shift(manifest, "loud.jsonl", "--transform", "level:40")
    before, after = (
        soundfile.read(read_manifest(path).utterances[0].audio)[0]
        for path in (manifest, manifest.parent / "loud.jsonl")
    )
    assert np.abs(after).max() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(after, before / np.abs(before).max(), atol=1e-4)


def test_a_wrong_transform_is_refused_before_anything_is_written(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        shift_command.main([str(manifest), "--transform", "telefone", "--output", str(manifest.parent / "x.jsonl")])
        == 2
    )
    assert "did you mean telephone" in capsys.readouterr().err
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["audio", "test.jsonl"]


def test_a_clip_that_cannot_be_shifted_is_named_by_its_line_and_nothing_is_written(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(manifest.parent / "audio" / "2.wav", np.zeros(8000), 16_000)
    output = manifest.parent / "x.jsonl"
    assert shift_command.main([str(manifest), "--transform", "noise:white", "--output", str(output)]) == 2
    assert f"{manifest}:3: " in capsys.readouterr().err
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["audio", "test.jsonl"]


def test_the_manifest_commands_work_one_after_the_other(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = manifest.parent
    shift(manifest, "phone.jsonl", "--transform", "telephone")
    assert (
        merge_manifests.main([str(manifest), str(folder / "phone.jsonl"), "--output", str(folder / "all.jsonl")]) == 0
    )
    assert split.main([str(folder / "all.jsonl"), "--parts", "train=0.6", "test=rest"]) == 0
    small = folder / "small.jsonl"
    assert sample.main([str(folder / "all_train.jsonl"), "--samples", "3", "--output", str(small)]) == 0
    capsys.readouterr()
    assert stats.main([str(small), str(folder / "all.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| Manifest | Utterances | Hours |")
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["3", "12"]


def test_merging_a_manifest_with_a_copy_of_its_audio_is_refused_with_exit_code_two(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = manifest.with_name("copy.jsonl")
    copy.write_bytes(manifest.read_bytes())
    assert merge_manifests.main([str(manifest), str(copy), "--output", str(manifest.with_name("all.jsonl"))]) == 2
    assert "6 utterance(s) repeat audio" in capsys.readouterr().err
