"""The average of two runs' adapters is measured and judged as a run of its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora.config import ExperimentConfig
from lora.model.adapters import adapted_layers, load_adapter, weight_change
from lora.model.load import load_bundle
from lora.report.record import load_record
from lora.runners.averaged import parts_of, run_average
from lora.runners.experiment import run_experiment


def test_two_seeds_averaged_are_judged_by_the_mean_of_their_changes(
    toy_checkpoint: Path, make_job: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    config = make_job(
        tmp_path,
        {"train": 12, "domain": 6, "guardrail": 6, "dev": 4},
        seed=60,
        output_dir=tmp_path / "one",
        max_steps=2,
        eval_interval=2,
        batch_seconds=6.0,
    )
    first, second = run_experiment(config), run_experiment(replace(config, output_dir=tmp_path / "two", seed=43))
    folders = {"one": tmp_path / "one", "two": tmp_path / "two"}
    metrics = run_average(replace(config, output_dir=tmp_path / "average"), folders)
    changes = [changes_of(toy_checkpoint, tmp_path / name) for name in ("one", "two", "average")]
    assert changes[2].keys() == changes[0].keys()
    for layer, mean in changes[2].items():
        torch.testing.assert_close(mean, (changes[0][layer] + changes[1][layer]) / 2, atol=1e-6, rtol=1e-4)
    assert metrics["adapter"]["average_of"] == parts_of(folders)
    assert metrics["adapter"]["rank"] == 8
    assert metrics["train"]["seconds"] == pytest.approx(
        first["train"]["seconds"] + second["train"]["seconds"], abs=0.01
    )
    assert metrics["baseline_wer"] == first["baseline_wer"]
    assert load_record(tmp_path / "average").metrics == json.loads(json.dumps(metrics))
    assert (tmp_path / "average" / "report.html").is_file()


def changes_of(checkpoint: Path, run: Path) -> dict[str, Any]:
    model, _ = load_adapter(load_bundle(str(checkpoint), torch.device("cpu")), run / "lora_adapter")
    return {name: weight_change(layer) for name, layer in adapted_layers(model).items()}
