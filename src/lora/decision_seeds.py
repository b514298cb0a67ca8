"""The verdict over several seeds: the reproducibility rule, on numbers alone.

*reject* if any seed rejects; *accept* if every seed accepts, which means that in each the domain's whole
interval is below zero and every guardrail is within its budget; *inconclusive* otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lora.decision import Decision, SetComparison, Verdict, points
from lora.errors import ConfigError


@dataclass(frozen=True)
class SeedOutcome:
    """What one seed's run measured and decided."""

    seed: int
    decision: Decision
    domain: SetComparison
    guardrails: tuple[SetComparison, ...]


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of one number over the seeds."""

    mean: float
    min: float
    max: float


def spread(values: Sequence[float | None]) -> Spread | None:
    """Sum up one number over the seeds; `None` where a seed has none, for a part would not be the whole."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(sum(known) / len(known), min(known), max(known))


def domain_spread(outcomes: Sequence[SeedOutcome]) -> Spread | None:
    """Sum up the domain's difference over the seeds."""
    return spread([outcome.domain.delta for outcome in outcomes])


def guardrail_spreads(outcomes: Sequence[SeedOutcome]) -> dict[str, Spread | None]:
    """Sum up each guardrail's difference over the seeds.

    Raises:
        ConfigError: the runs do not have the same guardrails.
    """
    names = [tuple(item.name for item in outcome.guardrails) for outcome in outcomes]
    if len(set(names)) != 1:
        raise ConfigError(f"seeds: the runs have different guardrails ({names}); expected the same in each.")
    return {name: spread([outcome.guardrails[i].delta for outcome in outcomes]) for i, name in enumerate(names[0])}


def decide_over_seeds(outcomes: Sequence[SeedOutcome]) -> Verdict:
    """Apply the rule of this module.

    Raises:
        ConfigError: fewer than two runs, a seed twice, or runs with different guardrails.
    """
    seeds = [outcome.seed for outcome in outcomes]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: got {seeds}; expected at least two, all different.")
    by_decision = {
        decision: [outcome.seed for outcome in outcomes if outcome.decision == decision]
        for decision in ("reject", "inconclusive", "accept")
    }
    spreads = [("Domain", domain_spread(outcomes))]
    spreads += [(f"Guardrail {name}", found) for name, found in guardrail_spreads(outcomes).items()]
    notes = [f"{name}: {describe_spread(found)}." for name, found in spreads]
    if by_decision["reject"]:
        return Verdict("reject", [f"Rejected with {_listed(by_decision['reject'])}: one is enough.", *notes])
    if by_decision["inconclusive"]:
        reason = f"Not shown with {_listed(by_decision['inconclusive'])}: the improvement is needed in each."
        return Verdict("inconclusive", [reason, *notes])
    return Verdict("accept", [f"Accepted with each of {len(seeds)} seeds.", *notes])


def describe_spread(found: Spread | None) -> str:
    """Return `change -37.1 points on average, -38.0 to -36.2`."""
    if found is None:
        return "change undefined with at least one seed"
    return f"change {points(found.mean)} points on average, {points(found.min)} to {points(found.max)}"


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
