"""What the runners' tests share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lora.config import ExperimentConfig

ROLES = {
    "train": "dataset_path",
    "replay": "replay_manifest",
    "domain": "manifest_path",
    "guardrail": "guardrail_manifest",
    "dev": "validation_manifest",
    "guard_dev": "guardrail_validation_manifest",
}
FEW_GUARDS: Mapping[str, Any] = {
    "distillation_weight": 0.0,
    "average_decay": 0.0,
    "strengths": [1.0],
    "selection_budget": 0.0,
}
"""What a test that is not about the guards can do without, for its time."""


@pytest.fixture(scope="session")
def make_job(toy_checkpoint: Path, write_toy_manifest: Callable[..., Path]) -> Callable[..., ExperimentConfig]:
    """Return a function that makes a small job of the toy model; its manifests, written beside it, share no clip.

    Its `counts` says how many clips each role of `ROLES` has, its `seed` draws those of the first role, the next
    seed those of the next.
    """

    def make(folder: Path, counts: Mapping[str, int], *, seed: int, **options: Any) -> ExperimentConfig:
        paths: dict[str, Any] = {
            ROLES[role]: write_toy_manifest(folder / f"{role}.jsonl", count=count, seed=number)
            for number, (role, count) in enumerate(counts.items(), start=seed)
        }
        paths["guardrail_manifest"] = [paths["guardrail_manifest"]]
        fixed = {"model_id": str(toy_checkpoint), "device": "cpu", "rank": 4}
        guards = FEW_GUARDS | {"replay_ratio": 0.5 if "replay" in counts else 0.0}
        return ExperimentConfig(**fixed, **paths, **(guards | options))

    return make
