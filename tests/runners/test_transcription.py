"""File transcription: the same file every time, the same text in any batch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from lora.config import DecodeSettings, PreprocessConfig
from lora.model.adapters import AdapterConfig, add_adapter, save_adapter
from lora.model.load import load_bundle
from lora.scripts import run_stt, transcribe
from lora.units import Wave

DECODE = DecodeSettings(tokens_per_second=10.0, min_token_limit=6)
PREPROCESS = PreprocessConfig(target_rms=0.05)


@pytest.fixture(scope="module")
def manifest(write_toy_manifest: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_manifest(tmp_path_factory.mktemp("stt") / "test.jsonl", count=7, seed=21)


@pytest.fixture(scope="module")
def adapter_dir(toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the toy model writes, trained by no one."""
    bundle = load_bundle(str(toy_checkpoint), torch.device("cpu"))
    model = add_adapter(bundle, AdapterConfig("lora", rank=4, alpha=8.0, dropout=0.0, targets="all-linear"), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("stt-adapter") / "lora_adapter"
    save_adapter(model, bundle, folder, preprocess=PREPROCESS, decode=DECODE)
    return folder


@pytest.fixture
def audio(make_wave: Callable[[int, int], Wave], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first.wav", tmp_path / "second.flac"]
    for seed, path in enumerate(paths):
        soundfile.write(path, make_wave(9_000 + 4_000 * seed, seed), 16_000)
    return paths


def written(words: list[Any], output: Path) -> Any:
    assert run_stt.main([*map(str, words), "--output", str(output)]) == 0
    return json.loads(output.read_text())


def test_the_same_call_writes_the_same_file(
    toy_checkpoint: Path, manifest: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    words = ["--model-id", toy_checkpoint, "--manifest", manifest, "--adapter-dir", adapter_dir, "--device", "cpu"]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert written(words, first) == written(words, second)
    assert first.read_bytes() == second.read_bytes()


def test_a_manifest_is_scored_and_every_utterance_reported(
    toy_checkpoint: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = written(["--model-id", toy_checkpoint, "--manifest", manifest], tmp_path / "out.json")
    rows = document["utterances"]
    assert document["samples"] == len(rows) == 7
    assert [row["id"] for row in rows] == [f"toy-21-{number}" for number in range(7)]
    assert document["wer"] == pytest.approx(sum(row["errors"] for row in rows) / sum(row["words"] for row in rows))
    assert document["adapter"] is None
    assert "7 samples, WER" in capsys.readouterr().out


def test_the_batch_size_does_not_change_the_text(toy_checkpoint: Path, manifest: Path, tmp_path: Path) -> None:
    texts = [
        [
            row["text"]
            for row in written(
                ["--model-id", toy_checkpoint, "--manifest", manifest, "--batch-size", size], tmp_path / "out.json"
            )["utterances"]
        ]
        for size in (1, 3, 64)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert any(texts[0])


def test_an_adapter_is_heard_and_brings_its_own_settings(
    toy_checkpoint: Path, manifest: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    words = ["--model-id", toy_checkpoint, "--manifest", manifest]
    base = written(words, tmp_path / "base.json")
    tuned = written([*words, "--adapter-dir", adapter_dir], tmp_path / "tuned.json")
    assert [row["text"] for row in base["utterances"]] != [row["text"] for row in tuned["utterances"]]
    assert base["decode"] == {"tokens_per_second": 6.5, "min_token_limit": 4}
    assert tuned["decode"] == {"tokens_per_second": 10.0, "min_token_limit": 6}
    assert tuned["preprocess"]["target_rms"] == 0.05
    assert tuned["adapter"]["dir"] == str(adapter_dir)


def test_a_setting_that_is_overridden_is_recorded_and_the_others_stay_the_adapters(
    toy_checkpoint: Path, manifest: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    words = ["--model-id", toy_checkpoint, "--manifest", manifest, "--adapter-dir", adapter_dir]
    document = written([*words, "--tokens-per-second", "8"], tmp_path / "out.json")
    assert document["decode"] == {"tokens_per_second": 8.0, "min_token_limit": 6}


def test_files_lists_and_folders_of_audio_are_the_same_input(
    toy_checkpoint: Path, audio: list[Path], tmp_path: Path
) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("first.wav\n\nsecond.flac\n")
    model = ["--model-id", toy_checkpoint]
    by_name = written([*model, *audio], tmp_path / "out.json")
    by_list = written([*model, "--audio-list", listing], tmp_path / "out.json")
    by_option = written([*model, "--audio-list", *audio], tmp_path / "out.json")
    by_folder = written([*model, tmp_path], tmp_path / "out.json")
    assert by_name["utterances"] == by_list["utterances"] == by_option["utterances"] == by_folder["utterances"]
    assert (by_name["samples"], by_name["wer"], by_name["cer"]) == (2, None, None)
    assert [row["seconds"] for row in by_name["utterances"]] == [0.5625, 0.8125]


def test_a_runs_processor_folder_may_be_named(toy_checkpoint: Path, audio: list[Path], tmp_path: Path) -> None:
    processor = tmp_path / "processor"
    load_bundle(str(toy_checkpoint), torch.device("cpu")).processor.save_pretrained(processor)
    words = ["--model-id", toy_checkpoint, *audio]
    plain = written(words, tmp_path / "plain.json")
    assert written([*words, "--processor-dir", processor], tmp_path / "named.json") == plain


def test_without_output_the_document_goes_to_standard_output(
    toy_checkpoint: Path, audio: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stt.main(["--model-id", str(toy_checkpoint), str(audio[0])]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1


def test_transcribe_prints_the_text_alone_for_one_file_and_names_for_several(
    toy_checkpoint: Path, audio: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model-id", str(toy_checkpoint), "--output", str(tmp_path / "out.json")]
    assert transcribe.main([*words, str(audio[0])]) == 0
    [row] = json.loads((tmp_path / "out.json").read_text())["utterances"]
    assert row["text"]
    assert capsys.readouterr().out == f"{row['text']}\n"
    assert transcribe.main([*words, *map(str, audio)]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["utterances"]
    assert capsys.readouterr().out == "".join(f"{row['id']}\t{row['text']}\n" for row in rows)


def refused(words: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """Run the command, check exit code 2 and that nothing was written, and return the message."""
    output = tmp_path / "refused" / "out.json"
    assert run_stt.main([*map(str, words), "--output", str(output)]) == 2
    assert not output.parent.exists()
    return capsys.readouterr().err


def test_every_unusable_file_is_listed(
    toy_checkpoint: Path, audio: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("this is not audio")
    shutil.copy(tmp_path / "text.wav", tmp_path / "other.flac")
    words = ["--model-id", toy_checkpoint, audio[0], tmp_path / "text.wav", tmp_path / "other.flac"]
    error = refused(words, capsys, tmp_path)
    assert "2 of 3 audio files cannot be used" in error
    assert "text.wav: cannot be decoded" in error
    assert "other.flac: cannot be decoded" in error


def test_every_missing_file_and_empty_list_is_listed(
    toy_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "hollow").mkdir()
    words = ["--model-id", toy_checkpoint, tmp_path / "gone.wav", tmp_path / "hollow"]
    error = refused([*words, "--audio-list", tmp_path / "empty.txt"], capsys, tmp_path)
    assert "gone.wav: no such audio file" in error
    assert "empty.txt: the list is empty" in error
    assert "hollow: no audio files" in error


def test_wrong_options_are_listed_together(
    audio: list[Path], manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [audio[0], "--manifest", manifest, "--batch-size", "0", "--tokens-per-second", "0"]
    error = refused(words, capsys, tmp_path)
    assert "give either audio files" in error
    assert "--batch-size 0: expected at least 1" in error
    assert "--tokens-per-second 0.0: expected 0.1 to 1000" in error
    assert "give either audio files" in refused([], capsys, tmp_path)


def test_an_adapter_of_another_base_is_refused_with_both_hashes(
    checkpoints: dict[str, Path],
    adapter_dir: Path,
    audio: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refused(["--model-id", checkpoints["moonshine"], "--adapter-dir", adapter_dir, audio[0]], capsys, tmp_path)
    record = json.loads((adapter_dir / "moonshine_lora.json").read_text())
    assert record["base_sha256"] in error
    assert load_bundle(str(checkpoints["moonshine"]), torch.device("cpu")).sha256 in error


def test_a_missing_processor_folder_and_manifest_are_named(
    toy_checkpoint: Path, audio: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model-id", toy_checkpoint]
    error = refused([*words, audio[0], "--processor-dir", tmp_path / "gone"], capsys, tmp_path)
    assert "gone: no such processor folder" in error
    assert "no such manifest" in refused([*words, "--manifest", tmp_path / "gone.jsonl"], capsys, tmp_path)
