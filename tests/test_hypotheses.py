"""Rules of hypotheses compare measured numbers, and nothing in them runs as code."""

import pytest

from lora.errors import ConfigError
from lora.hypotheses import RuleResult, check_rule, judge_hypothesis, parse_rule

RECORDS = {
    "a": {"status": "done", "tuned_wer": 0.1, "baseline_wer": 0.5, "guardrails": [{"name": "us", "delta": 0.002}]},
    "b-2": {"status": "done", "tuned_wer": 0.3, "baseline_wer": 0.5, "verdict": {"decision": "reject"}, "ok": True},
    "stopped": {"status": "check_failed", "message": "no"},
}


def holds(text: str, runs: tuple[str, ...] = ("a",)) -> list[bool | None]:
    return [result.holds for result in check_rule(parse_rule(text), RECORDS, runs)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:tuned_wer < a:baseline_wer * 0.25", True),  # 0.1 < 0.125
        ("a:tuned_wer < a:baseline_wer * 0.2", False),  # 0.1 < 0.1
        ("b-2:tuned_wer < a:tuned_wer + 0.25 * 2", True),  # 0.3 < 0.6
        ("a:guardrails.us.delta <= 0.01", True),
        ("b-2:verdict.decision == 'reject'", True),
        ("b-2:verdict.decision != 'reject'", False),
        ("stopped:status == 'check_failed'", True),
        ("b-2:ok == 1", True),
        ("2 + 3 * 4 == 14", True),
        ("10 - 4 - 3 == 3", True),
        ("8 / 4 / 2 == 1", True),
        ("1e-3 > -1", True),
    ],
)
def test_a_rule_is_evaluated_with_the_usual_order_of_operations(text: str, expected: bool) -> None:
    assert holds(text) == [expected]


def test_a_rule_without_run_ids_is_checked_in_every_run_of_the_hypothesis() -> None:
    results = check_rule(parse_rule("tuned_wer < baseline_wer * 0.25"), RECORDS, ["a", "b-2"])
    assert [(result.run_id, result.holds) for result in results] == [("a", True), ("b-2", False)]
    assert results[0].shown == "0.1 < 0.125"


def test_a_run_that_is_missing_or_was_stopped_has_no_number_yet() -> None:
    assert holds("later:tuned_wer < 1") == [None]
    assert holds("stopped:tuned_wer < 1") == [None]


def test_a_key_that_a_finished_run_lacks_is_an_error_that_lists_the_keys() -> None:
    with pytest.raises(ConfigError, match=r"'wer' is not among status, tuned_wer, baseline_wer, guardrails"):
        holds("a:wer < 1")


@pytest.mark.parametrize(
    "text",
    [
        "tuned_wer",
        "a < b < c",
        "tuned_wer<0.5",
        "__import__('os') == 1",
        "tuned_wer < ",
        "tuned_wer ** 2 < 1",
        "(tuned_wer) < 1",
        "a b < 1",
    ],
)
def test_anything_but_a_comparison_of_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rule"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["a:status < 'x'", "a:status == 1", "a:status + 1 == 2", "1 / 0 == 1"])
def test_values_that_cannot_be_compared_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rule"):
        holds(text)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [([True, True], "confirmed"), ([True, None], "open"), ([None, False], "refuted"), ([], "open")],
)
def test_one_failed_rule_refutes_and_one_missing_number_keeps_it_open(found: list[bool | None], outcome: str) -> None:
    assert judge_hypothesis([RuleResult("r", None, holds, "") for holds in found]) == outcome
