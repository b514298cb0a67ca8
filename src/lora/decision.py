"""The verdict: a written rule on measured numbers. Pure, no files, no models.

Rates are fractions from 0 to 1 (above 1 where much was inserted); differences are tuned minus baseline,
so negative is better. Percent and points appear in texts only.

The rule, in this order:

1. *reject* if the domain is shown worse (its whole interval is above zero), or a guardrail is over its
   budget (the measured difference, not the interval, exceeds it: a budget is a limit on what was seen),
   or a guardrail's whole interval is above the budget, or any set regressed catastrophically (more than
   `catastrophic_factor` times the baseline, and by more than its budget, the domain by more than the smallest:
   two errors after one are no catastrophe).
2. *inconclusive* if the domain's interval includes zero, or the adapter changed no output on it, or a number
   that the rule needs is undefined.
3. *accept* otherwise: the domain's whole interval is below zero and every guardrail is within its budget.

A guardrail interval that merely reaches above the budget does not block acceptance, since small guardrail
sets would never pass; the reasons then say how much harm the set cannot exclude.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora.errors import ConfigError
from lora.evaluation.intervals import PairedDifference
from lora.evaluation.wer import ErrorCounts, pool

Decision = Literal["accept", "reject", "inconclusive"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class SetComparison:
    """Baseline against tuned on one evaluation set; `None` is undefined (see `PairedDifference`)."""

    name: str
    baseline: float | None
    tuned: float | None
    delta: float | None
    ci95: Interval | None
    relative_reduction: float | None


@dataclass(frozen=True)
class DecisionRule:
    """Thresholds, as fractions.

    Attributes:
        guardrail_budgets: how much worse each guardrail's rate may be measured; one for all, or one each in order.
        headroom_floor: domain baseline below which there is little left to win.
        catastrophic_factor: multiple of a baseline that is named a catastrophic regression.

    Raises:
        ConfigError: a threshold is out of its range.
    """

    guardrail_budgets: tuple[float, ...] = (0.01,)
    headroom_floor: float = 0.05
    catastrophic_factor: float = 2.0

    def __post_init__(self) -> None:
        problems = []
        wrong = [budget for budget in self.guardrail_budgets if not 0 <= budget < 1]
        if wrong or not self.guardrail_budgets:
            got = ", ".join(map(str, wrong)) or "none"
            problems.append(f"guardrail_budgets: got {got}; expected fractions from 0 to below 1.")
        if not 0 <= self.headroom_floor < 1:
            problems.append(f"headroom_floor: got {self.headroom_floor}; expected a fraction from 0 to below 1.")
        if not self.catastrophic_factor > 1:
            problems.append(f"catastrophic_factor: got {self.catastrophic_factor}; expected more than 1.")
        if problems:
            raise ConfigError("decision rule: values out of range. 0.01 is one point of WER.", problems)

    def budgets_of(self, num_guardrails: int) -> tuple[float, ...]:
        """Return one budget a guardrail.

        Raises:
            ConfigError: there are several budgets, and another number of guardrails.
        """
        if len(self.guardrail_budgets) not in (1, num_guardrails):
            raise ConfigError(
                f"decision rule: got {len(self.guardrail_budgets)} budgets for {num_guardrails} guardrails; expected "
                "one for all, or one each."
            )
        return self.guardrail_budgets if len(self.guardrail_budgets) > 1 else self.guardrail_budgets * num_guardrails


@dataclass(frozen=True)
class Headroom:
    """How much there is to win on the domain."""

    baseline_wer: float | None
    enough: bool
    message: str


@dataclass(frozen=True)
class Verdict:
    """The decision and its reasons, the deciding ones first."""

    decision: Decision
    reasons: list[str]


def compare_set(
    name: str, baseline: Sequence[ErrorCounts], tuned: Sequence[ErrorCounts], difference: PairedDifference
) -> SetComparison:
    """Put the pooled rates of one set beside their difference."""
    before, after = pool(baseline).rate, pool(tuned).rate
    reduction = None if not before or after is None else (before - after) / before
    return SetComparison(name, before, after, difference.delta, difference.ci95, reduction)


def assess_headroom(baseline_wer: float | None, rule: DecisionRule) -> Headroom:
    """Say whether the domain's baseline leaves something to win."""
    floor = percent(rule.headroom_floor)
    if baseline_wer is None:
        return Headroom(None, False, "The domain set has no reference words: its baseline WER is undefined.")
    if baseline_wer < rule.headroom_floor:
        message = (
            f"Little headroom: the baseline WER on the domain is {percent(baseline_wer)}, under {floor}. A gain will "
            "be small and hard to show; consider whether this audio needs an adapter."
        )
        return Headroom(baseline_wer, False, message)
    return Headroom(baseline_wer, True, f"Baseline WER on the domain is {percent(baseline_wer)} ({floor} or more).")


def decide(
    domain: SetComparison,
    guardrails: Sequence[SetComparison],
    rule: DecisionRule,
    *,
    outputs_changed: int | None = None,
) -> Verdict:
    """Apply the rule of this module to one run.

    Args:
        guardrails: in the order of the rule's budgets.
        outputs_changed: how many of the domain's texts the adapter changed; `None` where it was not counted.

    Raises:
        ConfigError: the rule has several budgets, and another number than there are guardrails.
    """
    found: dict[Decision, list[str]] = {"reject": [], "inconclusive": [], "accept": []}
    decision, reason = _judge_domain(domain, rule)
    found[decision].append(reason)
    if outputs_changed == 0:
        found["inconclusive"].append(
            "The adapter changed no output on the domain: it does nothing there at the strength that it has. "
            "Train longer, at a higher learning rate or on other targets."
        )
    for guardrail, budget in zip(guardrails, rule.budgets_of(len(guardrails)), strict=True):
        decision, reason = _judge_guardrail(guardrail, rule, budget)
        found[decision].append(reason)
    notes = [] if guardrails else ["No guardrail was given: harm to other speech was not measured."]
    headroom = assess_headroom(domain.baseline, rule)
    if not headroom.enough:
        notes.append(headroom.message)
    for verdict in ("reject", "inconclusive", "accept"):
        if found[verdict]:
            return Verdict(verdict, [*found["reject"], *found["inconclusive"], *found["accept"], *notes])
    raise AssertionError("the domain always gives one reason")


def _judge_domain(domain: SetComparison, rule: DecisionRule) -> tuple[Decision, str]:
    what = f"Domain {domain.name}: {describe_change(domain)}"
    if _is_catastrophic(domain, rule, min(rule.guardrail_budgets)):
        return "reject", f"{what}: catastrophic regression, over {rule.catastrophic_factor:g} times the baseline."
    if domain.delta is None or domain.ci95 is None:
        return "inconclusive", f"{what}: too little data for an interval. Evaluate more utterances."
    low, high = domain.ci95
    if low > 0:
        return "reject", f"{what}: worse, the whole interval is above zero."
    if high < 0:
        return "accept", f"{what}: improved, the whole interval is below zero."
    return "inconclusive", f"{what}: the interval includes zero, so no change was shown."


def _judge_guardrail(guardrail: SetComparison, rule: DecisionRule, budget: float) -> tuple[Decision, str]:
    what = f"Guardrail {guardrail.name}: {describe_change(guardrail)}"
    limit = f"the budget of {points(budget)} points"
    if _is_catastrophic(guardrail, rule, budget):
        return "reject", f"{what}: catastrophic regression, over {rule.catastrophic_factor:g} times the baseline."
    if guardrail.delta is None:
        return "inconclusive", f"{what}: not measured. Give a guardrail with reference words."
    if guardrail.ci95 is not None and guardrail.ci95[0] > budget:
        return "reject", f"{what}: worse, the whole interval is above {limit}."
    if guardrail.delta > budget:
        return "reject", f"{what}: over {limit}."
    if guardrail.ci95 is None:
        return "inconclusive", f"{what}: too little data for an interval. Evaluate more utterances."
    if guardrail.ci95[1] > budget:
        unsure = f"this set cannot exclude harm up to {points(guardrail.ci95[1])} points"
        return "accept", f"{what}: within {limit}, though {unsure}."
    return "accept", f"{what}: within {limit}, the whole interval included."


def _is_catastrophic(compared: SetComparison, rule: DecisionRule, budget: float) -> bool:
    if compared.baseline is None or compared.tuned is None:
        return False
    over_factor = compared.tuned > rule.catastrophic_factor * compared.baseline
    return over_factor and compared.tuned - compared.baseline > budget


def describe_change(compared: SetComparison) -> str:
    """Return `WER 43.2% to 6.1% (-37.1 points, 95% interval -41.0 to -33.4)`."""
    interval = "no interval" if compared.ci95 is None else f"95% interval {interval_points(compared.ci95)}"
    return (
        f"WER {percent(compared.baseline)} to {percent(compared.tuned)} ({points(compared.delta)} points, {interval})"
    )


def percent(rate: float | None) -> str:
    """Return a rate as `43.2%`; `undefined` for `None`."""
    return "undefined" if rate is None else f"{100 * rate:.1f}%"


def points(difference: float | None) -> str:
    """Return a difference of rates in percentage points, signed: `-37.1`; a rounded zero has no sign."""
    if difference is None:
        return "undefined"
    shown = f"{100 * difference:+.1f}"
    return "0.0" if float(shown) == 0 else shown


def interval_points(interval: Interval) -> str:
    """Return `-41.0 to -33.4`."""
    return f"{points(interval[0])} to {points(interval[1])}"
