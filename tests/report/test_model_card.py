"""The model card says what was measured and nothing about the machine."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora.errors import ConfigError
from lora.files import read_json
from lora.outputs import write_record
from lora.report.model_card import write_model_card


@pytest.fixture
def metrics(run_dir: Path) -> dict[str, Any]:
    return read_json(run_dir / "experiment_metrics.json")


def header_and_body(folder: Path, metrics: dict[str, Any]) -> tuple[dict[str, Any], str]:
    text = write_model_card(folder, metrics).read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_base_and_tuned_rates_of_every_set_are_in_the_header(tmp_path: Path, metrics: dict[str, Any]) -> None:
    metrics["base_model"]["id"] = "UsefulSensors/moonshine-tiny"
    header, _ = header_and_body(tmp_path, metrics)
    assert header["base_model"] == "UsefulSensors/moonshine-tiny"
    assert header["library_name"] == "peft"
    assert header["pipeline_tag"] == "automatic-speech-recognition"
    (entry,) = header["model-index"]
    measured = {row["dataset"]["name"]: [metric["value"] for metric in row["metrics"]] for row in entry["results"]}
    assert measured == {"accents (in domain)": [41.67, 16.67], "us (guardrail)": [0.0, 0.0]}


def test_the_text_has_intervals_normaliser_limits_and_loading(tmp_path: Path, metrics: dict[str, Any]) -> None:
    _, body = header_and_body(tmp_path, metrics)
    assert "| accents | in domain | 41.7% | **16.7%** | -25.0 | -40.0 to -10.0 |" in body
    assert "| us | guardrail | 0.0% | **0.0%** | 0.0 | n/a |" in body
    for part in ("light style", "## Intended use", "## Limits", "PeftModel.from_pretrained(Moonshine", "cd" * 32):
        assert part in body
    assert "Verdict: accept" in body


def test_a_base_in_a_folder_is_named_without_its_path(tmp_path: Path, metrics: dict[str, Any]) -> None:
    changed = copy.deepcopy(metrics)
    changed["base_model"] |= {"id": "/home/someone/models/my-base", "family": "moonshine_streaming"}
    header, body = header_and_body(tmp_path, changed)
    assert "base_model" not in header
    assert "/home" not in body
    assert "`my-base`" in body
    assert "MoonshineStreamingForConditionalGeneration" in body


def test_the_template_of_peft_is_replaced(tmp_path: Path, metrics: dict[str, Any]) -> None:
    adapter = tmp_path / "lora_adapter"
    adapter.mkdir()
    (adapter / "README.md").write_text("# Model Card for Model ID\n", encoding="utf-8")
    write_record(tmp_path, "a run")
    assert "Model Card for Model ID" not in write_model_card(adapter, metrics).read_text(encoding="utf-8")


def test_a_card_that_a_person_wrote_stays(tmp_path: Path, metrics: dict[str, Any]) -> None:
    adapter = tmp_path / "lora_adapter"
    write_model_card(adapter, metrics)
    (adapter / "README.md").write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not an earlier output"):
        write_model_card(adapter, metrics)
