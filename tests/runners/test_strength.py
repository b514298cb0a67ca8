"""What is kept: the choice among evaluated states and strengths, on scores that are made up."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lora.config import ExperimentConfig
from lora.evaluation.score import SetScore, UtteranceScore
from lora.runners import stages
from lora.runners.experiment import run_experiment
from lora.runners.stages import gentlest_strength
from lora.units import JsonObject

Scores = Mapping[str, SetScore]


def test_the_smallest_strength_with_most_of_the_gain_is_chosen() -> None:
    assert gentlest_strength([0.5, 0.8, 1.0], [0.20, 0.29, 0.30]) == 0.8
    assert gentlest_strength([0.5, 0.8, 1.0], [0.20, 0.28, 0.30]) == 1.0


def test_a_strength_beyond_the_guardrails_budget_does_not_set_the_mark() -> None:
    # The penalty has made the full adapter's gain small.
    assert gentlest_strength([0.5, 0.7, 1.0], [0.20, 0.21, 0.05]) == 0.5


def test_without_a_gain_the_least_loss_is_chosen() -> None:
    assert gentlest_strength([0.0, 0.5, 1.0], [0.0, -0.1, -0.2]) == 0.0


def scored(name: str, errors: int, *, empty: int = 0, unfinished: int = 0) -> SetScore:
    """A score of 10 utterances of 100 words with this many wrong words, in thousandths, and so many broken texts."""
    rows = []
    for number in range(10):
        wrong = min(max(errors - 100 * number, 0), 100)
        text = " ".join(["wrong"] * wrong + ["right"] * (100 - wrong))
        ended = number >= unfinished
        rows.append(UtteranceScore(f"{number}", " ".join(["right"] * 100), text, 100.0, 101, ended, -0.1))
    for number in range(10 - empty, 10):
        rows[number] = UtteranceScore(f"{number}", " ".join(["right"] * 100), "", 100.0, 101, True, -0.1)
    return SetScore(name, tuple(rows))


def sets(domain: int, guardrail: int, **broken: int) -> Scores:
    return {"domain_dev": scored("domain_dev", domain, **broken), "guardrail_dev": scored("guardrail_dev", guardrail)}


@pytest.fixture
def run_on(
    make_job: Callable[..., ExperimentConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., JsonObject]:
    """Return a function that runs a job whose development sets have made-up scores, an evaluation after the other."""
    measure, measure_baseline = stages.score_set, stages.score_baseline

    def run(before: Scores, script: Sequence[Scores], **options: Any) -> JsonObject:
        told = {name: iter([scores[name] for scores in script]) for name in before}

        def score_set(recognizer: Any, evaluation_set: Any, advance: Any) -> SetScore:
            name = evaluation_set.name
            return next(told[name]) if name in told else measure(recognizer, evaluation_set, advance)

        def score_baseline(recognizer: Any, evaluation_set: Any, *rest: Any) -> tuple[SetScore, bool]:
            name = evaluation_set.name
            return (before[name], False) if name in before else measure_baseline(recognizer, evaluation_set, *rest)

        monkeypatch.setattr(stages, "score_set", score_set)
        monkeypatch.setattr(stages, "score_baseline", score_baseline)
        counts = {"train": 8, "replay": 6, "domain": 3, "guardrail": 3, "dev": 10, "guard_dev": 10}
        fixed = {"output_dir": tmp_path / "run", "eval_interval": 1, "batch_seconds": 4.0}
        return run_experiment(make_job(tmp_path, counts, seed=80, **(fixed | options)))

    return run


def test_the_kept_state_and_the_saved_strength_are_those_of_the_rule(
    run_on: Callable[..., JsonObject], tmp_path: Path
) -> None:
    """WERs in thousandths; the guardrail may lose 2 of them, and each one more counts as ten of the domain's."""
    steps = [
        sets(300, 110),  # 300 + 10 x 8 = 380
        sets(375, 102),  # within the budget: 375, the best
        sets(376, 50),  # what the guardrail gains buys nothing: 376
        sets(200, 300),  # 200 + 10 x 198
    ]
    strengths = [
        sets(310, 100),  # a gain of 90
        sets(302, 102),  # of 98, the largest: 95% of it are 93.1
        sets(302, 100),
        sets(200, 117),  # 200 + 10 x 15 = 350, a gain of 50
    ]
    metrics = run_on(sets(400, 100), steps + strengths, max_steps=4, strengths=[0.5, 0.75, 0.8, 1.0])
    assert metrics["train"]["best_step"] == 2
    assert [row["domain_wer"] for row in metrics["strength"]] == pytest.approx([0.310, 0.302, 0.302, 0.200])
    assert metrics["adapter"]["strength"] == 0.75
    saved = tmp_path / "run" / "lora_adapter"
    assert json.loads((saved / "moonshine_lora.json").read_text())["strength"] == 0.75
    assert json.loads((saved / "adapter_config.json").read_text())["lora_alpha"] == 0.75 * 32


def test_training_stops_where_over_a_fifth_more_texts_are_broken_than_before(run_on: Callable[..., JsonObject]) -> None:
    steps = [
        sets(400, 100, empty=2, unfinished=1),  # 3 of 10, and 1 was before: a fifth
        sets(400, 100, empty=2, unfinished=2),
    ]
    metrics = run_on(sets(400, 100, empty=1), steps, max_steps=4, strengths=[1.0])
    assert (metrics["train"]["steps"], metrics["train"]["stopped_by"]) == (2, "loops_or_empty_outputs")
