"""Hypotheses and their success rules: small comparisons of measured numbers, without running text as code.

A rule is words separated by spaces: numbers, names, `'text'`, the operators `* / + -` and one comparison.

    tuned_wer < baseline_wer * 0.25                       in every run of the hypothesis
    steps-300:tuned_wer <= steps-50:tuned_wer + 0.005     between runs
    misaligned-checked:status == 'check_failed'

A name is a key of a run's metrics, dots for nesting (`domain.delta`, `guardrails.us_speakers.delta`), with the
run's id and a colon before it where one run is meant. Every record also has `status`.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora.errors import ConfigError
from lora.units import JsonObject

Outcome = Literal["confirmed", "refuted", "open"]
Value = float | str | None

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "+": operator.add,
    "-": operator.sub,
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_NAME = re.compile(r"(?:(?P<run>[\w.-]+):)?(?P<key>[A-Za-z_][\w-]*(?:\.[\w-]+)*)")
_TEXT = re.compile(r"'[^']*'")


@dataclass(frozen=True)
class Rule:
    """A comparison that was read and checked; `text` is as written."""

    text: str
    left: tuple[str, ...]
    comparison: str
    right: tuple[str, ...]

    @property
    def names(self) -> list[tuple[str | None, str]]:
        """The names in it, each as run id (`None` for every run) and key."""
        words = [word for word in (*self.left[::2], *self.right[::2]) if _kind(word) == "name"]
        return [(match["run"], match["key"]) for word in words if (match := _NAME.fullmatch(word))]


@dataclass(frozen=True)
class RuleResult:
    """One rule, in one run where it names none; `holds` is `None` where a number is not there yet."""

    text: str
    run_id: str | None
    holds: bool | None
    shown: str


@dataclass(frozen=True)
class Hypothesis:
    """What was expected, in words, and the rules that a machine checks."""

    id: str
    title: str
    problem: str
    change: str
    expectation: str
    success: str
    rules: tuple[Rule, ...]


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        ConfigError: it is not `VALUE [OPERATOR VALUE ...] COMPARISON VALUE [OPERATOR VALUE ...]`.
    """
    words = text.split()
    places = [index for index, word in enumerate(words) if word in COMPARISONS]
    if len(places) != 1:
        raise ConfigError(f"rule {text!r}: got {len(places)} comparisons; expected one of {' '.join(COMPARISONS)}.")
    sides = tuple(words[: places[0]]), tuple(words[places[0] + 1 :])
    for side in sides:
        problem = _fault(side)
        if problem:
            raise ConfigError(f"rule {text!r}: {problem}. Put spaces around every operator.")
    return Rule(" ".join(words), sides[0], words[places[0]], sides[1])


def check_rule(rule: Rule, records: Mapping[str, JsonObject], runs: Sequence[str]) -> list[RuleResult]:
    """Evaluate a rule: once where every name has a run id, else once in each of the hypothesis's runs.

    Args:
        records: the record of every run that was done, by id.
        runs: the runs of the hypothesis, done or not.

    Raises:
        ConfigError: a record lacks the key, or the values cannot be compared.
    """
    everywhere = any(run is None for run, _ in rule.names)
    return [_check_in(rule, records, run) for run in (runs if everywhere else [None])]


def judge_hypothesis(results: Sequence[RuleResult]) -> Outcome:
    """Return *refuted* if a rule does not hold, *open* if one cannot be told yet, *confirmed* if all hold."""
    found = {result.holds for result in results}
    if False in found:
        return "refuted"
    return "open" if None in found or not found else "confirmed"


def _kind(word: str) -> Literal["number", "text", "name"] | None:
    if _NUMBER.fullmatch(word):
        return "number"
    if _TEXT.fullmatch(word):
        return "text"
    return "name" if _NAME.fullmatch(word) else None


def _fault(side: Sequence[str]) -> str | None:
    if len(side) % 2 == 0:
        return f"got {' '.join(side)!r} beside the comparison, expected values with an operator between each two"
    for index, word in enumerate(side):
        if index % 2 and word not in _ARITHMETIC:
            return f"got {word!r}, expected one of {' '.join(_ARITHMETIC)}"
        if not index % 2 and _kind(word) is None:
            return f"got {word!r}, expected a number, a name or 'text'"
    return None


def _check_in(rule: Rule, records: Mapping[str, JsonObject], default_run: str | None) -> RuleResult:
    sides = [[_value(word, records, default_run) for word in side[::2]] for side in (rule.left, rule.right)]
    if any(value is None for side in sides for value in side):
        return RuleResult(rule.text, default_run, None, "not measured")
    left, right = (
        _combine(rule, side, words[1::2]) for side, words in zip(sides, (rule.left, rule.right), strict=True)
    )
    if isinstance(left, str) != isinstance(right, str) or (
        isinstance(left, str) and rule.comparison not in ("==", "!=")
    ):
        raise ConfigError(f"rule {rule.text!r}: cannot compare {left!r} with {right!r} by {rule.comparison}.")
    shown = f"{_show(left)} {rule.comparison} {_show(right)}"
    return RuleResult(rule.text, default_run, COMPARISONS[rule.comparison](left, right), shown)


def _value(word: str, records: Mapping[str, JsonObject], default_run: str | None) -> Value:
    if _kind(word) == "number":
        return float(word)
    if _kind(word) == "text":
        return word[1:-1]
    match = _NAME.fullmatch(word)
    assert match is not None  # parse_rule
    run, key = match["run"] or default_run, match["key"]
    record = records.get(run or "")
    if record is None or (record["status"] != "done" and key not in record):
        return None
    return look_up(record, key, where=f"run {run}")


def look_up(record: JsonObject, key: str, *, where: str) -> Value:
    """Return the number or text at a dotted key; a list is searched by its items' `name`.

    Raises:
        ConfigError: there is no such key, or it holds something else.
    """
    found: Any = record
    for part in key.split("."):
        options = {item.get("name"): item for item in found} if isinstance(found, list) else found
        if not isinstance(options, dict) or part not in options:
            known = ", ".join(map(str, options)) if isinstance(options, dict) else "nothing below"
            raise ConfigError(f"{where}: has no {key!r}: {part!r} is not among {known}.")
        found = options[part]
    if found is not None and not isinstance(found, str | int | float):
        raise ConfigError(f"{where}: {key!r} is a {type(found).__name__}; expected a number or text.")
    return found if found is None or isinstance(found, str) else float(found)


def _combine(rule: Rule, values: Sequence[Value], operators: Sequence[str]) -> float | str:
    """Apply `* /` before `+ -`, each from the left."""
    if len(values) == 1:
        return values[0]  # type: ignore[return-value]  # never None here
    if any(isinstance(value, str) for value in values):
        raise ConfigError(f"rule {rule.text!r}: text has no arithmetic.")
    terms: list[Any] = [values[0]]
    signs: list[str] = []
    for sign, value in zip(operators, values[1:], strict=True):
        if sign in "*/":
            if sign == "/" and value == 0:
                raise ConfigError(f"rule {rule.text!r}: divides by zero.")
            terms[-1] = _ARITHMETIC[sign](terms[-1], value)  # type: ignore[arg-type]
        else:
            signs.append(sign)
            terms.append(value)
    total = terms[0]
    for sign, term in zip(signs, terms[1:], strict=True):
        total = _ARITHMETIC[sign](total, term)
    return float(total)


def _show(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
