"""How sure a measured error rate is: bootstrap intervals and the smallest change that a set can show.

The bootstrap resamples whole units with replacement, pools errors and words of the drawn units and
divides last (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004). A unit is a speaker where enough speakers are known, because utterances of
one speaker fail together; else it is an utterance.

The interval is the percentile interval with expanded tails (Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69, 2015, section 3.3): with n units the tail
probability a/2 becomes Phi(-sqrt(n / (n - 1)) t(1 - a/2, n - 1)). The plain percentile interval is too
narrow for few units (6 units: by 30%); for hundreds of units both are the same.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora.errors import InputError
from lora.evaluation.wer import ErrorCounts

MIN_UNITS = 6
"""Fewer units give no interval, and fewer speakers no clusters: by the sign test even n unanimous
improvements happen by chance with probability 2^(1 - n), which is below 5% from n = 6 on."""

CONFIDENCE = 0.95
_BLOCK = 1_000_000  # drawn indices held at once: 8 MB

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]
Unit = Literal["utterance", "speaker"]


@dataclass(frozen=True)
class PairedDifference:
    """Tuned minus baseline error rate on the same utterances; negative is better.

    Attributes:
        delta: difference of the pooled rates, a fraction; `None` without a single reference word.
        ci95: 95% interval of `delta`; `None` with fewer than `MIN_UNITS` units.
        probability_of_improvement: share of resamples in which tuned makes fewer errors; `None` as `ci95`.
        unit: what was resampled. `utterance` says nothing about speakers beyond those in the set.
        num_units: how many of them there are.
        num_speakers: speakers in the set, also where they were too few to resample; `None` if not all are known.
    """

    delta: float | None
    ci95: tuple[float, float] | None
    probability_of_improvement: float | None
    unit: Unit
    num_units: int
    resamples: int
    num_speakers: int | None = None


@dataclass(frozen=True)
class _Units:
    """Sums over each unit: `values` (errors or differences of errors) and `words`, shape (units,)."""

    values: Counts
    words: Counts
    kind: Unit
    num_speakers: int | None

    def __len__(self) -> int:
        return len(self.words)

    @property
    def rate(self) -> float | None:
        words = int(self.words.sum())
        return int(self.values.sum()) / words if words else None


def paired_bootstrap(
    baseline: Sequence[ErrorCounts],
    tuned: Sequence[ErrorCounts],
    *,
    clusters: Sequence[Hashable | None] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Estimate tuned minus baseline error rate with its interval, utterance `i` of both being the same one.

    Speakers are resampled where `clusters` names at least `MIN_UNITS` of them and every utterance has
    one; otherwise utterances are, and `unit` says so.

    Args:
        clusters: the speaker of each utterance, `None` where unknown.

    Raises:
        InputError: no utterances, lengths that differ, or a pair with different reference lengths.
    """
    _check_pairs(baseline, tuned)
    changes = [after.errors - before.errors for before, after in zip(baseline, tuned, strict=True)]
    units = _group(changes, baseline, clusters)
    rates = _resample(units, resamples, seed)
    return PairedDifference(
        delta=units.rate,
        ci95=None if rates is None else _interval(rates, len(units)),
        probability_of_improvement=None if rates is None else float(np.mean(rates < 0)),
        unit=units.kind,
        num_units=len(units),
        resamples=resamples,
        num_speakers=units.num_speakers,
    )


def rate_interval(
    counts: Sequence[ErrorCounts],
    *,
    clusters: Sequence[Hashable | None] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of one pooled error rate; `None` with fewer than `MIN_UNITS` units.

    Units are chosen as in `paired_bootstrap`. A set without a single error gives (0, 0): resampling
    cannot show errors that never occurred.

    Raises:
        InputError: no utterances, or `clusters` of another length.
    """
    units = _group([count.errors for count in counts], counts, clusters)
    rates = _resample(units, resamples, seed)
    return None if rates is None else _interval(rates, len(units))


def minimum_detectable_difference(
    baseline: Sequence[ErrorCounts],
    *,
    clusters: Sequence[Hashable | None] | None = None,
    correlation: float = 0.5,
    power: float = 0.8,
) -> float | None:
    """Return the smallest true change of the rate that this set would show with probability `power`.

    It needs only the baseline, so it can be stated before training:

        MDD = (t(0.975, n - 1) + t(power, n - 1)) * SE * sqrt(2 * (1 - correlation))
        SE^2 = n / (n - 1) * sum_i (e_i - R * w_i)^2 / (sum_i w_i)^2

    over n units (as in `paired_bootstrap`) with e_i errors in w_i words and R the pooled rate. The first
    line is Bloom, "Minimum Detectable Effects", Evaluation Review 19 (1995); SE is that of a ratio estimator,
    Cochran, Sampling Techniques (1977), equation 6.13; the last factor is that of a difference of two
    equally variable, correlated estimates.

    Args:
        correlation: assumed between the errors of baseline and tuned per unit, in [0, 1). Adapters that
            change little have more, and then less can be detected; 0 is the cautious end.

    Returns:
        A fraction, or `None` where the set cannot tell: fewer than `MIN_UNITS` units, or no error at all.

    Raises:
        InputError: no utterances, `clusters` of another length, or a parameter out of its range.
    """
    if not (0 <= correlation < 1 and 0.5 <= power < 1):
        raise InputError(
            f"minimum detectable difference: got correlation {correlation} and power {power}; expected "
            "0 <= correlation < 1 and 0.5 <= power < 1. Correct them."
        )
    units = _group([count.errors for count in baseline], baseline, clusters)
    rate, num_units = units.rate, len(units)
    if not rate or num_units < MIN_UNITS:
        return None
    residuals = units.values - rate * units.words
    variance = num_units / (num_units - 1) * float(residuals @ residuals) / int(units.words.sum()) ** 2
    multiplier = _t_quantile((1 + CONFIDENCE) / 2, num_units - 1) + _t_quantile(power, num_units - 1)
    return multiplier * math.sqrt(variance * 2 * (1 - correlation))


def _check_pairs(baseline: Sequence[ErrorCounts], tuned: Sequence[ErrorCounts]) -> None:
    if len(baseline) != len(tuned):
        raise InputError(
            f"paired bootstrap: got {len(baseline)} baseline and {len(tuned)} tuned utterances; expected the same "
            "utterances in both. Join them by id."
        )
    problems = [
        f"utterance {index}: {before.reference_length} reference words for baseline, {after.reference_length} for tuned"
        for index, (before, after) in enumerate(zip(baseline, tuned, strict=True))
        if before.reference_length != after.reference_length
    ]
    if problems:
        raise InputError("paired bootstrap: the pairs are not of the same references. Join them by id.", problems)


def _group(values: Sequence[int], counts: Sequence[ErrorCounts], clusters: Sequence[Hashable | None] | None) -> _Units:
    if not counts:
        raise InputError("bootstrap: got no utterances; expected at least one. Check the evaluation manifest.")
    if clusters is not None and len(clusters) != len(counts):
        raise InputError(
            f"bootstrap: got {len(clusters)} clusters for {len(counts)} utterances; expected one each. Pass None "
            "for an unknown speaker."
        )
    all_values = np.array(values, dtype=np.int64)
    words = np.array([count.reference_length for count in counts], dtype=np.int64)
    if clusters is None or any(cluster is None for cluster in clusters):
        return _Units(all_values, words, "utterance", None)
    places: dict[Hashable, int] = {}
    place_of = np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
    if len(places) < MIN_UNITS:
        return _Units(all_values, words, "utterance", len(places))
    sums = np.zeros((2, len(places)), dtype=np.int64)
    np.add.at(sums[0], place_of, all_values)
    np.add.at(sums[1], place_of, words)
    return _Units(sums[0], sums[1], "speaker", len(places))


def _resample(units: _Units, resamples: int, seed: int) -> Rates | None:
    """Draw pooled rates, shape (resamples,); `None` where they would mean nothing."""
    if resamples < 1:
        raise InputError(f"bootstrap: got {resamples} resamples; expected at least 1 (1000 for a rough interval).")
    if len(units) < MIN_UNITS:
        return None
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(units))
    blocks: list[Rates] = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(len(units), size=(min(rows, resamples - start), len(units)))
        words = units.words[drawn].sum(axis=1)
        if not words.all():
            return None  # so few units have a reference that a draw can miss them all
        blocks.append(units.values[drawn].sum(axis=1) / words)
    return np.concatenate(blocks)


def _interval(rates: Rates, num_units: int) -> tuple[float, float]:
    wide = math.sqrt(num_units / (num_units - 1)) * _t_quantile((1 + CONFIDENCE) / 2, num_units - 1)
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


def _t_quantile(probability: float, degrees: int) -> float:
    """Return Student's t quantile (Abramowitz and Stegun 26.7.5; within 0.0003 at 0.975 from 5 degrees on)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / float(degrees) ** order for order, term in enumerate(terms))
