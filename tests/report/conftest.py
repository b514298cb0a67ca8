"""A small run directory, written by hand."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora.data.manifest import Utterance, write_manifest
from lora.files import sha256_file, write_json, write_jsonl
from lora.units import SAMPLE_RATE_HZ


def comparison(name: str, baseline: float, tuned: float, ci95: list[float] | None) -> dict[str, Any]:
    reduction = (baseline - tuned) / baseline if baseline else None
    return {
        "name": name,
        "baseline": baseline,
        "tuned": tuned,
        "delta": tuned - baseline,
        "ci95": ci95,
        "relative_reduction": reduction,
        "probability_of_improvement": None if ci95 is None else 0.998,
        "unit": "utterance",
    }


def sample(number: int, texts: tuple[str, str, str], errors: tuple[int, int], **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"d{number}",
        "set": "domain",
        "speaker_id": "ana",
        "seconds": 1.5,
        "reference": texts[0],
        "baseline": texts[1],
        "tuned": texts[2],
        "baseline_errors": errors[0],
        "tuned_errors": errors[1],
        "words": len(texts[0].split()),
    }
    return row | changes


SAMPLES = [
    sample(1, ("one two three four", "one ten four", "one two three four"), (2, 0)),
    sample(2, ("five six seven eight", "five", "five six seven"), (3, 1), speaker_id="ben", seconds=2.0),
    sample(3, ("nine oh", "nine oh", "nine oh oh"), (0, 1), speaker_id=None, seconds=3.9),
    sample(4, ("one | *two*", "one two", "one two"), (0, 0), seconds=20.0, words=2),
    sample(5, ("one two three", "one two three", "one two three"), (0, 0), id="g1", set="us", speaker_id=7),
]
"""Domain: 5 errors of 12 words before, 2 after. Guardrail: 0 of 3 both times."""


def manifest(path: str, utterances: int) -> dict[str, Any]:
    return {"path": path, "sha256": "ab" * 32, "utterances": utterances, "seconds": 90.0}


METRICS: dict[str, Any] = {
    "schema_version": 1,
    "run_id": "demo-42",
    "command": "moonshine-lora experiment --seed 42",
    "config": {"max_steps": 40, "seed": 42},
    "seed": 42,
    "device": "cpu",
    "dtype": "float32",
    "base_model": {"id": "builtin:digits", "sha256": "cd" * 32, "family": "moonshine"},
    "adapter": {
        "method": "lora",
        "rank": 8,
        "alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "trainable_parameters": 12345,
        "delta_norm": 1.25,
    },
    "manifests": {
        "train": manifest("train.jsonl", 100),
        "domain": manifest("domain.jsonl", 4),
        "guardrails": [manifest("us.jsonl", 1)],
    },
    "baseline_wer": 5 / 12,
    "tuned_wer": 2 / 12,
    "baseline_cer": 0.3,
    "tuned_cer": 0.1,
    "baseline_eval_loss": 1.9,
    "tuned_eval_loss": None,
    "domain": comparison("accents", 5 / 12, 2 / 12, [-0.4, -0.1])
    | {"text_styles": {"raw": {"baseline": 0.5, "tuned": 0.25}, "whisper": {"baseline": 0.4, "tuned": None}}},
    "guardrails": [comparison("us", 0.0, 0.0, None)],
    "headroom": {"baseline_wer": 5 / 12, "enough": True, "message": "Baseline WER on the domain is 41.7%."},
    "alignment_check": {"aligned_loss": 1.9, "misaligned_loss": 7.25, "passed": True},
    "efficacy": {"delta_norm": 1.25, "outputs_changed": 3},
    "train": {
        "steps": 40,
        "seconds": 12.34,
        "cpu_seconds": 23.4,
        "audio_seconds": 4321.0,
        "first_loss": 2.1,
        "final_loss": 0.4,
        "stopped_by": "max_steps",
    },
    "verdict": {"decision": "accept", "reasons": ["Domain accents: improved.", "Guardrail us: within the budget."]},
    "versions": {"python": "3.11"},
    "git_commit": None,
}

HISTORY: list[dict[str, Any]] = [
    {"step": 0, "eval": {"validation_wer": 0.4}},
    *({"step": step, "loss": 2.0 / step, "learning_rate": 1e-3} for step in range(1, 41)),
    {"step": 40, "eval": {"validation_wer": 0.1}},
]


def write_run(path: Path) -> Path:
    write_json(path / "experiment_metrics.json", METRICS)
    write_jsonl(path / "history.jsonl", HISTORY)
    write_jsonl(path / "samples.jsonl", SAMPLES)
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return the directory of a finished run without a report."""
    return write_run(tmp_path / "demo")


@pytest.fixture(scope="session")
def audible_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the audio of d1, d2 and d3 in the domain's manifest; the guardrail's is gone.

    The text of d4 tries to end the script element that holds the report's data. Copy the folder to change it.
    """
    run_dir = write_run(tmp_path_factory.mktemp("audible") / "outputs" / "demo")
    hostile = "</script><script>window.harmed=1</script><img src=x onerror=harmed=1> {{data}} one two"
    rows = [dict(row) for row in SAMPLES]
    rows[3] |= {"reference": hostile, "baseline": hostile, "tuned": hostile}
    write_jsonl(run_dir / "samples.jsonl", rows)
    path = run_dir.parents[1] / "data" / "domain.jsonl"
    tones = []
    for number, row in enumerate(rows[:3]):
        times = np.arange(round(row["seconds"] * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        wave = (0.1 * np.sin(2 * np.pi * (220 + 110 * number) * times)).astype(np.float32)
        tones.append(Utterance(row["id"], row["reference"], wave, row["speaker_id"]))
    write_manifest(path, tones)
    metrics = copy.deepcopy(METRICS)
    metrics["manifests"]["domain"] |= {"path": "data/domain.jsonl", "sha256": sha256_file(path)}
    write_json(run_dir / "experiment_metrics.json", metrics)
    return run_dir
