"""The decision rule as a table."""

import pytest

from lora.decision import (
    Decision,
    DecisionRule,
    Headroom,
    SetComparison,
    assess_headroom,
    compare_set,
    decide,
    interval_points,
    percent,
    points,
)
from lora.errors import ConfigError
from lora.evaluation.intervals import PairedDifference
from lora.evaluation.wer import ErrorCounts

RULE = DecisionRule(guardrail_budgets=(0.01,), headroom_floor=0.05, catastrophic_factor=2.0)


def compared(name: str, baseline: float, tuned: float, ci95: tuple[float, float] | None) -> SetComparison:
    return SetComparison(name, baseline, tuned, tuned - baseline, ci95, (baseline - tuned) / baseline)


BETTER = compared("accents", 0.40, 0.10, (-0.35, -0.25))
SAFE = compared("us", 0.020, 0.021, (-0.002, 0.004))
UNMEASURED = SetComparison("empty", None, None, None, None, None)


@pytest.mark.parametrize(
    ("domain", "guardrails", "decision", "first_reason"),
    [
        (BETTER, [SAFE], "accept", "improved"),
        (BETTER, [], "accept", "improved"),
        (compared("d", 0.40, 0.38, (-0.04, 0.0)), [SAFE], "inconclusive", "includes zero"),
        (compared("d", 0.40, 0.41, (-0.02, 0.04)), [SAFE], "inconclusive", "includes zero"),
        (compared("d", 0.40, 0.45, (0.01, 0.09)), [SAFE], "reject", "worse, the whole interval is above zero"),
        (compared("d", 0.40, 0.90, (0.4, 0.6)), [SAFE], "reject", "catastrophic regression, over 2 times"),
        (compared("d", 0.40, 0.20, None), [SAFE], "inconclusive", "too little data"),
        (UNMEASURED, [SAFE], "inconclusive", "too little data"),
        (BETTER, [compared("g", 0.020, 0.029, (0.001, 0.017))], "accept", "improved"),
        (BETTER, [compared("g", 0.020, 0.0305, (-0.002, 0.023))], "reject", "Guardrail g"),
        (BETTER, [compared("g", 0.200, 0.240, (0.02, 0.06))], "reject", "whole interval is above the budget"),
        (BETTER, [compared("g", 0.020, 0.045, (0.01, 0.04))], "reject", "catastrophic"),
        (BETTER, [SAFE, compared("g", 0.20, 0.22, (0.0, 0.04))], "reject", "over the budget of +1.0 points"),
        (BETTER, [compared("g", 0.02, 0.02, None)], "inconclusive", "too little data"),
        (BETTER, [UNMEASURED], "inconclusive", "not measured"),
        (compared("d", 0.4, 0.4, (-0.1, 0.1)), [compared("g", 0.2, 0.3, (0.05, 0.15))], "reject", "Guardrail g"),
    ],
)
def test_the_rule_decides(
    domain: SetComparison, guardrails: list[SetComparison], decision: Decision, first_reason: str
) -> None:
    verdict = decide(domain, guardrails, RULE)
    assert verdict.decision == decision
    assert first_reason in verdict.reasons[0]
    assert len(verdict.reasons) >= 1 + len(guardrails)


def test_a_difference_just_under_the_budget_passes_and_just_over_fails() -> None:
    under = SetComparison("g", 0.02, 0.0299, 0.0099, (0.0, 0.02), None)
    over = SetComparison("g", 0.02, 0.0301, 0.0101, (0.0, 0.02), None)
    assert decide(BETTER, [under], RULE).decision == "accept"
    assert decide(BETTER, [over], RULE).decision == "reject"


def test_doubling_a_tiny_rate_within_the_budget_is_no_catastrophe() -> None:
    verdict = decide(BETTER, [compared("g", 0.002, 0.006, (0.0, 0.009))], RULE)
    assert verdict.decision == "accept"
    assert "catastrophic" not in " ".join(verdict.reasons)


def test_any_rate_over_the_budget_after_a_perfect_baseline_is_a_catastrophe() -> None:
    verdict = decide(BETTER, [SetComparison("g", 0.0, 0.02, 0.02, (0.01, 0.03), None)], RULE)
    assert verdict.decision == "reject"
    assert "catastrophic" in verdict.reasons[0]


def test_each_guardrail_has_its_own_budget_and_the_reason_names_it() -> None:
    strict, loose = compared("strict", 0.20, 0.204, (0.0, 0.008)), compared("loose", 0.20, 0.22, (0.0, 0.04))
    rule = DecisionRule(guardrail_budgets=(0.002, 0.03))
    verdict = decide(BETTER, [strict, loose], rule)
    assert verdict.decision == "reject"
    assert verdict.reasons[0].startswith("Guardrail strict")
    assert verdict.reasons[0].endswith("over the budget of +0.2 points.")
    assert "Guardrail loose" in verdict.reasons[2]
    assert "within the budget of +3.0 points" in verdict.reasons[2]
    assert decide(BETTER, [loose, strict], rule).decision == "reject"
    assert decide(BETTER, [compared("us", 0.02, 0.021, (-0.002, 0.004)), loose], rule).decision == "accept"
    with pytest.raises(ConfigError, match="got 2 budgets for 3 guardrails"):
        decide(BETTER, [SAFE, SAFE, loose], rule)


def test_an_adapter_that_changes_no_output_is_named_and_never_accepted() -> None:
    """Even where the numbers would accept it: then they are not of this adapter."""
    assert decide(BETTER, [SAFE], RULE, outputs_changed=1).decision == "accept"
    verdict = decide(BETTER, [SAFE], RULE, outputs_changed=0)
    assert verdict.decision == "inconclusive"
    assert verdict.reasons[0].startswith("The adapter changed no output on the domain")
    assert decide(BETTER, [SAFE], RULE).decision == "accept"  # it was not counted


@pytest.mark.parametrize("budget", [-0.001, 1.0, 1.01, float("nan")])
def test_a_budget_is_a_fraction_below_one(budget: float) -> None:
    """1 is a hundred points: whoever writes it means one."""
    with pytest.raises(ConfigError) as caught:
        DecisionRule(guardrail_budgets=(0.01, budget))
    assert caught.value.problems == (f"guardrail_budgets: got {budget}; expected fractions from 0 to below 1.",)
    assert DecisionRule(guardrail_budgets=(0.0, 0.999)).guardrail_budgets == (0.0, 0.999)


def test_reasons_carry_the_numbers_in_percent_and_points() -> None:
    verdict = decide(BETTER, [SAFE], RULE)
    assert verdict.reasons == [
        "Domain accents: WER 40.0% to 10.0% (-30.0 points, 95% interval -35.0 to -25.0): improved, the whole "
        "interval is below zero.",
        "Guardrail us: WER 2.0% to 2.1% (+0.1 points, 95% interval -0.2 to +0.4): within the budget of +1.0 points, "
        "the whole interval included.",
    ]


def test_an_accepted_guardrail_says_what_harm_it_cannot_exclude() -> None:
    verdict = decide(BETTER, [compared("g", 0.02, 0.025, (-0.01, 0.02))], RULE)
    assert "cannot exclude harm up to +2.0 points" in verdict.reasons[1]


def test_a_missing_guardrail_and_little_headroom_are_named_without_deciding() -> None:
    verdict = decide(compared("d", 0.04, 0.02, (-0.03, -0.01)), [], RULE)
    assert verdict.decision == "accept"
    assert "No guardrail was given" in verdict.reasons[1]
    assert "Little headroom: the baseline WER on the domain is 4.0%, under 5.0%" in verdict.reasons[2]


@pytest.mark.parametrize(("baseline", "enough"), [(0.049, False), (0.05, True), (0.4, True), (None, False)])
def test_headroom_starts_at_the_floor(baseline: float | None, enough: bool) -> None:
    assert assess_headroom(baseline, RULE).enough is enough


def test_a_comparison_pools_counts_and_keeps_the_difference() -> None:
    before, after = (
        [ErrorCounts(3, 0, 0, 5), ErrorCounts(1, 0, 0, 5)],
        [ErrorCounts(1, 0, 0, 5), ErrorCounts(0, 0, 0, 5)],
    )
    difference = PairedDifference(-0.3, (-0.4, -0.2), 1.0, "utterance", 2, 10)
    found = compare_set("d", before, after, difference)
    assert found.name == "d"
    assert (found.baseline, found.tuned, found.delta, found.ci95) == (0.4, 0.1, -0.3, (-0.4, -0.2))
    assert found.relative_reduction == pytest.approx(0.75)


def test_the_relative_reduction_of_nothing_is_undefined() -> None:
    perfect = [ErrorCounts(0, 0, 0, 5)]
    found = compare_set("d", perfect, perfect, PairedDifference(0.0, None, None, "utterance", 1, 10))
    assert found.relative_reduction is None


@pytest.mark.parametrize(
    "values",
    [
        {"guardrail_budgets": (-0.01,)},
        {"guardrail_budgets": (0.01, 1.0)},
        {"guardrail_budgets": ()},
        {"headroom_floor": 5},
        {"catastrophic_factor": 1},
    ],
)
def test_thresholds_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        DecisionRule(**values)


def test_numbers_read_well() -> None:
    assert (percent(0.4321), percent(None), percent(1.5)) == ("43.2%", "undefined", "150.0%")
    assert (points(-0.371), points(0.0042), points(-0.0004), points(None)) == ("-37.1", "+0.4", "0.0", "undefined")
    assert interval_points((-0.41, 0.003)) == "-41.0 to +0.3"


def exactly(baseline: float, tuned: float, ci95: tuple[float, float]) -> SetComparison:
    """A set whose numbers have no rounding errors: multiples of 1/64."""
    return SetComparison("s", baseline / 64, tuned / 64, (tuned - baseline) / 64, (ci95[0] / 64, ci95[1] / 64), None)


@pytest.mark.parametrize(
    ("domain", "guardrail", "decision", "reason"),
    [
        # A whole interval above zero is worse; one that begins there is not.
        (exactly(32, 33, (0, 2)), exactly(32, 32, (0, 0)), "inconclusive", "the interval includes zero"),
        # A budget may be used up, by what was measured and by what the interval reaches.
        (
            exactly(32, 16, (-20, -12)),
            exactly(32, 33, (-1, 1)),
            "accept",
            "within the budget of +1.6 points, the whole",
        ),
        (exactly(32, 16, (-20, -12)), exactly(32, 33, (1, 1)), "accept", "within the budget of +1.6 points, the whole"),
        (exactly(32, 16, (-20, -12)), exactly(32, 34, (0, 4)), "reject", "over the budget of +1.6 points"),
        # Twice the baseline is no catastrophe, and neither is more than twice within the budget.
        (exactly(4, 8, (2, 6)), exactly(32, 32, (0, 0)), "reject", "worse, the whole interval is above zero"),
        (exactly(4, 9, (2, 6)), exactly(32, 32, (0, 0)), "reject", "catastrophic regression"),
        (exactly(32, 16, (-20, -12)), exactly(0.5, 1.5, (0, 1)), "accept", "within the budget of +1.6 points"),
        (exactly(32, 16, (-20, -12)), exactly(0, 1, (0, 1)), "accept", "within the budget of +1.6 points"),
    ],
)
def test_what_lies_exactly_on_a_limit_is_within_it(
    domain: SetComparison, guardrail: SetComparison, decision: Decision, reason: str
) -> None:
    verdict = decide(domain, [guardrail], DecisionRule(guardrail_budgets=(1 / 64,)))
    assert verdict.decision == decision
    assert any(reason in told for told in verdict.reasons)


@pytest.mark.parametrize(("before", "after"), [(None, 0.3), (0.3, None)])
def test_a_set_that_was_measured_once_is_no_catastrophe(before: float | None, after: float | None) -> None:
    half = SetComparison("d", before, after, None, None, None)
    assert decide(half, [SAFE], RULE).decision == "inconclusive"
    assert "95% interval" not in decide(half, [SAFE], RULE).reasons[0]
    assert ", no interval)" in decide(half, [SAFE], RULE).reasons[0]


@pytest.mark.parametrize("floor", [0.0, 0.999])
def test_the_headroom_floor_is_a_fraction_below_one(floor: float) -> None:
    assert DecisionRule(headroom_floor=floor).headroom_floor == floor
    for wrong in (-0.001, 1.0, 1.5):
        with pytest.raises(
            ConfigError, match=r"^decision rule: values out of range. 0.01 is one point of WER"
        ) as caught:
            DecisionRule(guardrail_budgets=(), headroom_floor=wrong)
        assert caught.value.problems == (
            "guardrail_budgets: got none; expected fractions from 0 to below 1.",
            f"headroom_floor: got {wrong}; expected a fraction from 0 to below 1.",
        )


def test_headroom_says_what_there_is_to_win() -> None:
    assert assess_headroom(None, RULE) == Headroom(
        None, False, "The domain set has no reference words: its baseline WER is undefined."
    )
    assert assess_headroom(0.4, RULE) == Headroom(0.4, True, "Baseline WER on the domain is 40.0% (5.0% or more).")
    little = assess_headroom(0.04, RULE)
    assert little.baseline_wer == 0.04
    assert little.message.endswith(
        "A gain will be small and hard to show; consider whether this audio needs an adapter."
    )
