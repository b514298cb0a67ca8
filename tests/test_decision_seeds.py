"""The verdict over seeds: every seed must accept, one rejection rejects."""

import pytest

from lora.decision import Decision, SetComparison
from lora.decision_seeds import SeedOutcome, decide_over_seeds, domain_spread, guardrail_spreads, spread
from lora.errors import ConfigError


def compared(name: str, delta: float | None) -> SetComparison:
    tuned = None if delta is None else 0.5 + delta
    return SetComparison(name, 0.5, tuned, delta, None if delta is None else (delta - 0.01, delta + 0.01), None)


def outcome(seed: int, decision: Decision, delta: float | None = -0.4, harm: float = 0.0) -> SeedOutcome:
    return SeedOutcome(seed, decision, compared("domain", delta), (compared("us", harm),))


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        (["accept", "accept", "accept"], "accept"),
        (["accept", "inconclusive", "accept"], "inconclusive"),
        (["accept", "inconclusive", "reject"], "reject"),
        (["reject", "accept", "accept"], "reject"),
    ],
)
def test_all_must_accept_and_one_rejection_is_enough(decisions: list[Decision], expected: Decision) -> None:
    outcomes = [outcome(42 + index, decision) for index, decision in enumerate(decisions)]
    assert decide_over_seeds(outcomes).decision == expected


def test_the_reason_names_the_seeds_that_decided() -> None:
    verdict = decide_over_seeds([outcome(42, "accept"), outcome(43, "reject"), outcome(44, "reject")])
    assert verdict.reasons[0] == "Rejected with seeds 43, 44: one is enough."


def test_the_spread_is_mean_smallest_and_largest() -> None:
    outcomes = [outcome(1, "accept", -0.4, 0.0), outcome(2, "accept", -0.3, 0.01), outcome(3, "accept", -0.2, 0.02)]
    domain, guardrail = domain_spread(outcomes), guardrail_spreads(outcomes)["us"]
    assert domain is not None
    assert guardrail is not None
    assert (domain.mean, domain.min, domain.max) == pytest.approx((-0.3, -0.4, -0.2))
    assert (guardrail.mean, guardrail.min, guardrail.max) == pytest.approx((0.01, 0.0, 0.02))


def test_an_undefined_change_with_one_seed_leaves_the_spread_undefined() -> None:
    assert spread([-0.4, None]) is None
    assert spread([]) is None


def test_one_seed_or_a_seed_twice_is_no_reproduction() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        decide_over_seeds([outcome(42, "accept")])
    with pytest.raises(ConfigError, match="all different"):
        decide_over_seeds([outcome(42, "accept"), outcome(42, "accept")])


def test_runs_with_different_guardrails_are_not_compared() -> None:
    other = SeedOutcome(2, "accept", compared("domain", -0.4), ())
    with pytest.raises(ConfigError, match="different guardrails"):
        decide_over_seeds([outcome(1, "accept"), other])
