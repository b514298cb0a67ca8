"""The small real run: manifests of a corpus in FSDD's layout, one experiment, its metrics under a name of their own."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.scripts import real_small

SPEAKERS = ("jackson", "theo", "nicolas", "yweweler")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten digits of four speakers: recordings 0 and 1 for tests, 5 and 6 for development, 10 and 11 for training."""
    folder = tmp_path / "fsdd"
    (folder / "recordings").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for speaker in SPEAKERS:
        for digit in range(10):
            for index in (0, 1, 5, 6, 10, 11):
                samples = rng.normal(0, 0.05, 700 + int(rng.integers(100)))
                soundfile.write(folder / "recordings" / f"{digit}_{speaker}_{index}.wav", samples, 8_000)
    return folder


def test_it_trains_and_reports_on_recordings_that_are_apart(
    corpus: Path, toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The toy model knows four words in one order, so the check would rightly refuse this corpus.
    monkeypatch.setattr("lora.training.alignment.CLEARLY_LOWER", 100.0)
    output = tmp_path / "out" / "small"
    words = ["--fsdd", str(corpus), "--output-dir", str(output), "--model-id", str(toy_checkpoint), "--device", "cpu"]
    assert real_small.main([*words, "--max-steps", "1", "--seed", "7"]) == 0
    metrics = json.loads((output / "real_metrics.json").read_text())
    assert metrics == json.loads((output / "experiment_metrics.json").read_text())
    assert metrics["seed"] == 7
    assert (output / "lora_adapter" / "adapter_model.safetensors").is_file()
    assert (output / "processor").is_dir()
    data = tmp_path / "out" / "small-data"
    speakers = {
        name: {row.speaker_id for row in read_manifest(data / f"{name}.jsonl").utterances}
        for name in ("train", "domain", "guardrail", "replay")
    }
    assert speakers["train"] == speakers["domain"] == {"nicolas", "yweweler"}
    assert speakers["guardrail"] == speakers["replay"] == {"jackson", "theo"}


def test_a_missing_corpus_gives_exit_code_2_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real_small.main(["--fsdd", str(tmp_path / "gone"), "--output-dir", str(tmp_path / "out" / "small")]) == 2
    assert "gone" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_of_the_users_is_refused_before_anything_is_built(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "real_metrics.json").write_text("mine")
    assert real_small.main(["--fsdd", str(corpus), "--output-dir", str(tmp_path / "small")]) == 2
    assert "small" in capsys.readouterr().err
    assert not (tmp_path / "small-data").exists()
    assert (tmp_path / "small" / "real_metrics.json").read_text() == "mine"
