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
FEW_STRENGTHS: Mapping[str, Any] = {"strengths": [1.0]}
"""The one option that is not as shipped: each strength costs another evaluation."""
NO_REPLAY: Mapping[str, Any] = {"replay_ratio": 0.0, "distillation_weight": 0.0}


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
        guards = FEW_STRENGTHS | ({} if "replay" in counts else NO_REPLAY)
        return ExperimentConfig(**fixed, **paths, **(guards | options))

    return make
