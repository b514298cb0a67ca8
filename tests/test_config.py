"""The configuration: every value outside of its range is refused before anything is read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora.config import ExperimentConfig
from lora.errors import ConfigError

SHIPPED = ExperimentConfig(
    output_dir=Path("out"),
    dataset_path=Path("train.jsonl"),
    replay_manifest=Path("replay.jsonl"),
    manifest_path=Path("domain.jsonl"),
    guardrail_manifest=[Path("guardrail.jsonl")],
)

# Smallest and largest value that are accepted, then values that are not.
RANGES: dict[str, tuple[Any, Any, list[Any]]] = {
    "replay_ratio": (0.0, 0.9, [-0.1, 0.91, 1.0]),
    "validation_fraction": (0.01, 0.5, [0.0, 0.009, 0.51, 1.0, -0.1]),
    "rank": (1, 1024, [0, -1, 1025]),
    "alpha": (1e-3, 1e6, [0.0, -1.0, 2e6]),
    "dropout": (0.0, 0.9, [-0.01, 0.91, 1.0]),
    "lora_plus": (0.01, 1000.0, [0.0, 1001.0]),
    "flat_sigma": (0.0, 0.3, [-0.01, 0.31]),
    "average_decay": (0.0, 0.9999, [-0.1, 0.99995, 1.0]),
    "distillation_weight": (0.0, 1.0, [-0.1, 1.01]),
    "max_steps": (1, 10_000_000, [0, -1, 10_000_001]),
    "learning_rate": (1e-9, 1.0, [0.0, -1e-3, 1.1]),
    "warmup_ratio": (0.0, 1.0, [-0.1, 1.1]),
    "weight_decay": (0.0, 1.0, [-0.1, 1.1]),
    "batch_seconds": (1.0, 1e6, [0.0, 0.9, 2e6]),
    "gradient_accumulation": (1, 10_000, [0, 10_001]),
    "max_grad_norm": (1e-6, 1e6, [0.0, 2e6]),
    "eval_interval": (1, 10_000_000, [0, 10_000_001]),
    "wer_stop_threshold": (1.0, 1e6, [0.99, 2e6]),
    "selection_budget": (0.0, 1.0, [-0.001, 1.1]),
    "max_seconds": (0.5, 3600.0, [0.4, 3601.0]),
    "tokens_per_second": (0.1, 1000.0, [0.0, 1001.0]),
    "eval_batch_seconds": (1.0, 1e6, [0.9, 2e6]),
    "wave_cache_gib": (0.0, 1e6, [-0.1, 2e6]),
    "feature_cache_gib": (0.0, 1e6, [-0.1, 2e6]),
    "seed": (0, 2**31 - 1, [-1, 2**31]),
}


def test_what_ships_holds() -> None:
    SHIPPED.check()


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range_are_accepted_and_what_is_beyond_is_refused(name: str) -> None:
    plain = replace(SHIPPED, distillation_weight=0.0)  # replay may then be nothing
    low, high, beyond = RANGES[name]
    for value in (low, high):
        replace(plain, **{name: value}).check()
    for value in [*beyond, float("nan")]:
        with pytest.raises(ConfigError) as caught:
            replace(plain, **{name: value}).check()
        assert caught.value.problems == (f"{name}: got {value}, expected {low:g} to {high:g}",)


@pytest.mark.parametrize("budget", [-0.001, 1.0, 1.5, float("nan")])
def test_a_guardrails_budget_is_a_fraction_below_one(budget: float) -> None:
    """1 would be a hundred points: whoever writes it means one."""
    with pytest.raises(ConfigError) as caught:
        replace(SHIPPED, guardrail_budget=[budget]).check()
    assert caught.value.problems == (f"guardrail_budget: got {budget}, expected 0 to 1",)
    for good in (0.0, 0.999):
        replace(SHIPPED, guardrail_budget=[good]).check()


@pytest.mark.parametrize(("strengths", "refused"), [([0.0, 4.0], []), ([1.0, -0.1], [-0.1]), ([4.1, 1.0], [4.1])])
def test_strengths_go_from_zero_to_four(strengths: list[float], refused: list[float]) -> None:
    config = replace(SHIPPED, strengths=strengths)
    if not refused:
        config.check()
        return
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert caught.value.problems == tuple(f"strengths: got {value}, expected 0 to 4" for value in refused)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"strengths": []}, "strengths: got none"),
        ({"seeds": [1]}, "seeds: got [1], expected at least two"),
        ({"seeds": [1, 1]}, "seeds: got [1, 1], expected at least two, all different"),
        ({"seeds": [1, 2**31]}, "expected each from 0 to"),
        ({"trackers": ["wandb", "wandb"]}, "expected each once"),
        ({"replay_manifest": None, "distillation_weight": 0.0}, "replay_manifest: got none"),
        ({"replay_ratio": 0.0}, "distillation_weight: got 0.7 with replay_ratio 0"),
        (
            {"replay_ratio": 0.0, "distillation_weight": 0.0, "distillation_texts": "base"},
            "distillation_texts: got base",
        ),
        ({"augment_views": 2}, "augment_views: nothing is drawn without augment"),
        ({"resume": True, "restart": True}, "resume and restart exclude each other"),
        ({"method": "full", "flat_sigma": 0.1}, "method full has no factors"),
        ({"method": "full", "lora_plus": 2.0}, "method full has no factors"),
        ({"guardrail_budget": [0.01, 0.02]}, "guardrail_budget: got 2 for 1 guardrail(s)"),
        ({"guardrail_manifest": []}, "guardrail_manifest: got none"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SHIPPED, **changes).check()
    assert any(problem in one for one in caught.value.problems)
    assert len(caught.value.problems) == 1
