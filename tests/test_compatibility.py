"""What users have of earlier versions keeps loading: `fixtures/v0_1_0` was written by that version."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lora.data.manifest import iter_manifest, read_manifest
from lora.files import read_json, sha256_file
from lora.scripts.umbrella import main

if TYPE_CHECKING:
    from lora.model.load import Bundle

KEPT = Path(__file__).parent / "fixtures" / "v0_1_0"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the kept examples, the current folder, as it was where they were made."""
    shutil.copytree(KEPT, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bytes_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def texts_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Return what `run-stt` hears, by the utterance's id."""
    capsys.readouterr()
    assert main(["run-stt", "--device", "cpu", *words]) == 0
    return {row["id"]: row["text"] for row in json.loads(capsys.readouterr().out)["utterances"]}


def base_model() -> "Bundle":
    import torch

    from lora.model.load import load_bundle

    return load_bundle("builtin:digits", torch.device("cpu"))


@pytest.mark.parametrize("seed", [42, 43])
def test_an_adapter_says_what_it_said(seed: int, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = old / "runs" / f"seed-{seed}"
    kept = {row["id"]: row["tuned"] for row in lines(run / "samples.jsonl")}
    adapter = ["--adapter-dir", str(run / "lora_adapter"), "--processor-dir", str(run / "processor")]
    heard = [texts_of(capsys, "--manifest", f"data/{name}.jsonl", *adapter) for name in ("test", "guardrail")]
    assert heard[0] | heard[1] == kept
    assert any(row["tuned"] != row["baseline"] for row in lines(run / "samples.jsonl"))


def test_plain_peft_loads_an_adapter(old: Path) -> None:
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(base_model().core, str(old / "runs/seed-42/lora_adapter"))
    assert any(bool(torch.any(weight != 0)) for name, weight in model.named_parameters() if "lora_B" in name)


def test_adapters_are_averaged_and_merged(old: Path) -> None:
    adapters = [str(old / f"runs/seed-{seed}/lora_adapter") for seed in (42, 43)]
    assert main(["average", *adapters, "--output", "average"]) == 0
    assert main(["merge", "--adapter-dir", "average", "--output", "merged"]) == 0
    assert (old / "merged/model.safetensors").is_file()


@pytest.mark.parametrize("name", ["train", "dev", "test", "guardrail"])
def test_a_manifest_is_read_and_passes_check(name: str, old: Path) -> None:
    path = old / "data" / f"{name}.jsonl"
    before = bytes_of(old)
    assert [row.text for row in iter_manifest(path)] == [row["text"] for row in lines(path)]
    assert main(["check", str(path)]) == 0
    assert bytes_of(old) == before


def test_a_manifest_is_built_again_beside_the_old_one_which_stays(old: Path) -> None:
    before = bytes_of(old / "data")
    words = "--source synthetic --split test --voices en-us --min-digits 1 --max-digits 1 --seed 7 --samples 2"
    assert main(["build-manifest", *words.split(), "--output", "data/guardrail.jsonl"]) == 2
    assert bytes_of(old / "data") == before
    assert main(["build-manifest", *words.split(), "--output", "data/guardrail2.jsonl"]) == 0
    assert before.items() <= bytes_of(old / "data").items()
    assert len(read_manifest(old / "data/guardrail2.jsonl")) == 2


def test_the_reports_of_a_run_are_written_again(old: Path) -> None:
    run = old / "runs/seed-42"
    before = {path: digest for path, digest in bytes_of(run).items() if not path.startswith(("report.", "plots"))}
    assert main(["report", str(run)]) == 0
    assert before.items() <= bytes_of(run).items()
    assert read_json(run / "experiment_metrics.json")["verdict"]["decision"] in (run / "report.md").read_text().lower()


def test_a_run_is_repeated_from_its_stored_configuration_beside_the_old_one(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That version kept no record of what it wrote, so nobody can tell what in its folder is a person's own."""
    run, before = old / "runs/seed-42", bytes_of(old)
    words = ["experiment", "--config", str(run / "config.yaml"), "--max-steps", "2"]
    assert main(words) == 2
    assert "holds what is not earlier output" in capsys.readouterr().err
    assert bytes_of(old) == before
    assert main([*words, "--output-dir", "again"]) == 0
    assert read_json(old / "again/experiment_metrics.json")["train"]["steps"] == 2
    assert before.items() <= bytes_of(old).items()


def test_several_seeds_are_repeated_beside_the_old_ones(old: Path) -> None:
    before = bytes_of(old)
    words = ["experiment", "--config", "runs/seed-42/config.yaml", "--max-steps", "2", "--seeds", "42", "43"]
    assert main([*words, "--output-dir", "runs"]) == 2
    assert bytes_of(old) == before
    assert main([*words, "--output-dir", "again"]) == 0
    assert [row["seed"] for row in read_json(old / "again/seeds.json")["seeds"]] == [42, 43]


def test_the_voice_apps_folder_opens_and_its_adapter_is_heard(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lora_cli")
    from lora_cli.adapting import next_run_dir, read_verdict
    from lora_cli.main import main as voice
    from lora_cli.store import Store

    before = bytes_of(old / "voice")
    store = Store(old / "voice", speaker="ana", exclusive=True)
    entries = store.entries()
    assert [(entry.id, entry.corrected) for entry in entries] == [
        ("20260101-120001-000", "two"),
        ("20260101-120000-000", None),
    ]
    assert [row["text"] for row in store.taught_rows()] == ["two"]
    assert len(read_manifest(store.manifest_path)) == 1
    verdict = read_verdict(store.runs_dir / "voice-001")
    assert verdict.decision
    assert next_run_dir(store.runs_dir).name == "voice-002"
    store.close()
    assert bytes_of(old / "voice") == before

    takes = [str(store.wav_path(entry)) for entry in entries]
    adapter = old / verdict.adapter_dir
    capsys.readouterr()
    assert voice(["--file", *takes, "--device", "cpu", "--adapter-dir", str(adapter), "--json"]) == 0
    heard = [row["text"] for row in json.loads(capsys.readouterr().out)["utterances"]]
    assert heard == [entry.texts["voice-001"] for entry in entries]
    assert heard != [entry.texts["base"] for entry in entries]
