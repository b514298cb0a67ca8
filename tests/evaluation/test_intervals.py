"""Intervals are checked against simulated truth: how often they hold the difference that was simulated."""

import math

import numpy as np
import pytest

from lora.errors import InputError
from lora.evaluation.intervals import (
    MIN_UNITS,
    PairedDifference,
    _t_quantile,
    minimum_detectable_difference,
    paired_bootstrap,
    rate_interval,
)
from lora.evaluation.wer import ErrorCounts


def counts_of(errors: list[int], words: list[int] | int = 10) -> list[ErrorCounts]:
    lengths = [words] * len(errors) if isinstance(words, int) else words
    return [ErrorCounts(0, 0, error, length) for error, length in zip(errors, lengths, strict=True)]


def simulate_pair(
    generator: np.random.Generator, speakers: int, per_speaker: int, spread: float
) -> tuple[list[ErrorCounts], list[ErrorCounts], list[int]]:
    """Draw a set whose true rates are 30% and 20%: each speaker moves both and their difference by `spread`."""
    size = speakers * per_speaker
    words = generator.integers(3, 13, size=size)
    speaker = np.repeat(np.arange(speakers), per_speaker)
    effect = generator.uniform(-spread, spread, size=(2, speakers))[:, speaker]
    hardness = generator.uniform(-0.1, 0.1, size=size)
    before = generator.binomial(words, 0.30 + hardness + effect[0] / 2)
    after = generator.binomial(words, 0.20 + hardness + effect[1])
    lengths = words.tolist()
    return counts_of(before.tolist(), lengths), counts_of(after.tolist(), lengths), speaker.tolist()


def coverage(speakers: int, per_speaker: int, spread: float, *, clustered: bool, trials: int) -> float:
    generator = np.random.default_rng(7)
    held = 0
    for trial in range(trials):
        before, after, speaker = simulate_pair(generator, speakers, per_speaker, spread)
        clusters = speaker if clustered else None
        interval = paired_bootstrap(before, after, clusters=clusters, resamples=800, seed=trial).ci95
        assert interval is not None
        held += interval[0] <= -0.1 <= interval[1]
    return held / trials


def test_delta_is_pooled_and_not_a_mean_of_rates() -> None:
    before = counts_of([9, 0, 0, 0, 0, 0], [90, 1, 1, 1, 1, 6])
    after = counts_of([0, 1, 0, 0, 0, 0], [90, 1, 1, 1, 1, 6])
    assert paired_bootstrap(before, after, resamples=10).delta == pytest.approx(-0.08)


def test_interval_equals_a_plain_loop_over_resamples() -> None:
    before, after = (
        counts_of([4, 2, 0, 1, 3, 2, 5], list(range(4, 11))),
        counts_of([1, 2, 0, 0, 3, 0, 1], list(range(4, 11))),
    )
    found = paired_bootstrap(before, after, resamples=500, seed=3)
    drawn = np.random.default_rng(3).integers(7, size=(500, 7))
    rates = [
        sum(after[i].errors - before[i].errors for i in row) / sum(before[i].reference_length for i in row)
        for row in drawn
    ]
    # 7 units: t(0.975, 6) = 2.4469, so the tail is Phi(-sqrt(7/6) * 2.4469) = Phi(-2.6430) = 0.00411
    assert found.ci95 == pytest.approx(tuple(np.quantile(rates, [0.00411, 1 - 0.00411])), abs=1e-4)
    assert found.probability_of_improvement == sum(rate < 0 for rate in rates) / 500
    assert (found.unit, found.num_units, found.resamples, found.num_speakers) == ("utterance", 7, 500, None)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    before, after = counts_of([3, 1, 4, 1, 5, 9, 2, 6]), counts_of([2, 1, 3, 1, 4, 5, 2, 3])
    assert paired_bootstrap(before, after, seed=1) == paired_bootstrap(before, after, seed=1)
    one, two = (paired_bootstrap(before, after, seed=seed).probability_of_improvement for seed in (1, 2))
    assert one != two


def test_identical_results_give_zero_and_no_probability_of_improvement() -> None:
    same = counts_of([1, 0, 2, 0, 0, 3])
    found = paired_bootstrap(same, same, resamples=100)
    assert (found.delta, found.ci95, found.probability_of_improvement) == (0.0, (0.0, 0.0), 0.0)


def test_the_interval_of_utterances_covers_the_truth_95_percent_of_the_time() -> None:
    assert 0.93 <= coverage(80, 1, 0.0, clustered=False, trials=1500) <= 0.97


def test_the_interval_of_speakers_covers_the_truth_and_that_of_their_utterances_does_not() -> None:
    assert 0.93 <= coverage(12, 10, 0.08, clustered=True, trials=1500) <= 0.97
    assert coverage(12, 10, 0.08, clustered=False, trials=400) < 0.90


def test_enough_known_speakers_are_the_unit() -> None:
    before, after = counts_of([2] * 12), counts_of([1] * 12)
    found = paired_bootstrap(before, after, clusters=["a", "b", "c", "d", "e", "f"] * 2, resamples=50)
    assert (found.unit, found.num_units, found.num_speakers) == ("speaker", 6, 6)


def test_too_few_speakers_leave_the_utterance_as_the_unit_and_say_how_many_there_were() -> None:
    before, after = counts_of([2] * 12), counts_of([1] * 12)
    found = paired_bootstrap(before, after, clusters=["a", "b", "c", "d", "e", "a"] * 2, resamples=50)
    assert (found.unit, found.num_units, found.num_speakers) == ("utterance", 12, 5)


def test_one_unknown_speaker_leaves_the_utterance_as_the_unit() -> None:
    clusters = [*range(11), None]
    found = paired_bootstrap(counts_of([2] * 12), counts_of([1] * 12), clusters=clusters, resamples=50)
    assert (found.unit, found.num_units, found.num_speakers) == ("utterance", 12, None)


def test_too_few_utterances_have_a_difference_but_no_interval() -> None:
    found = paired_bootstrap(counts_of([5] * (MIN_UNITS - 1)), counts_of([0] * (MIN_UNITS - 1)))
    assert found == PairedDifference(-0.5, None, None, "utterance", MIN_UNITS - 1, 10_000)


def test_a_set_without_reference_words_is_undefined() -> None:
    found = paired_bootstrap(counts_of([1] * 8, 0), counts_of([0] * 8, 0))
    assert (found.delta, found.ci95, found.probability_of_improvement) == (None, None, None)


def test_pairs_of_different_references_are_refused_by_number() -> None:
    with pytest.raises(InputError, match="utterance 1: 10 reference words for baseline, 9 for tuned"):
        paired_bootstrap(counts_of([0, 0]), counts_of([0, 0], [10, 9]))


@pytest.mark.parametrize(
    ("before", "after", "clusters", "message"),
    [
        ([1, 2], [1], None, "2 baseline and 1 tuned"),
        ([], [], None, "no utterances"),
        ([1, 2], [1, 2], ["a"], "1 clusters for 2 utterances"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    before: list[int], after: list[int], clusters: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        paired_bootstrap(counts_of(before), counts_of(after), clusters=clusters)


def test_rate_interval_holds_the_rate_and_narrows_with_more_utterances() -> None:
    few, many = rate_interval(counts_of([0, 1, 2, 3] * 5)), rate_interval(counts_of([0, 1, 2, 3] * 50))
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < 0.15 < many[1] < few[1]
    assert rate_interval(counts_of([1, 2])) is None


def test_minimum_detectable_difference_equals_the_hand_computed_one() -> None:
    # R = 12/60 = 0.2, so the residuals e - R w are -2 and +2, three of each: SE^2 = 6/5 * 24 / 60^2 = 0.008.
    # t(0.975, 5) = 2.5706 and t(0.8, 5) = 0.9195; a correlation of 0.5 leaves the last factor at 1.
    found = minimum_detectable_difference(counts_of([0, 4, 0, 4, 0, 4]))
    assert found == pytest.approx((2.5706 + 0.9195) * math.sqrt(0.008), rel=1e-3)


def detectable(errors: list[int], correlation: float = 0.5) -> float:
    found = minimum_detectable_difference(counts_of(errors), correlation=correlation)
    assert found is not None
    return found


def test_minimum_detectable_difference_shrinks_with_size_and_with_correlation() -> None:
    errors = [0, 1, 2, 3, 4, 0] * 4
    assert detectable(errors * 4) == pytest.approx(detectable(errors) / 2, rel=0.05)
    assert detectable(errors, correlation=0.9) == pytest.approx(detectable(errors, correlation=0.0) * math.sqrt(0.1))


def test_a_change_of_the_detectable_size_is_detected_four_times_in_five() -> None:
    generator = np.random.default_rng(11)
    shown = 0
    trials, words, utterances = 400, 20, 100
    reference = counts_of(generator.binomial(words, 0.25, size=20_000).tolist(), words)
    expected = minimum_detectable_difference(reference, correlation=0.0)
    assert expected is not None
    change = expected * math.sqrt(20_000 / utterances)
    for trial in range(trials):
        before = counts_of(generator.binomial(words, 0.25 + change / 2, size=utterances).tolist(), words)
        after = counts_of(generator.binomial(words, 0.25 - change / 2, size=utterances).tolist(), words)
        interval = paired_bootstrap(before, after, resamples=500, seed=trial).ci95
        assert interval is not None
        shown += interval[1] < 0
    assert 0.74 <= shown / trials <= 0.86


@pytest.mark.parametrize("errors", [[0] * 20, [3] * 5])
def test_a_set_that_cannot_tell_has_no_detectable_difference(errors: list[int]) -> None:
    assert minimum_detectable_difference(counts_of(errors)) is None


@pytest.mark.parametrize(("correlation", "power"), [(1.0, 0.8), (-0.1, 0.8), (0.5, 0.2), (0.5, 1.0)])
def test_parameters_out_of_range_are_refused(correlation: float, power: float) -> None:
    with pytest.raises(InputError, match=f"got correlation {correlation} and power {power}"):
        minimum_detectable_difference(counts_of([1] * 8), correlation=correlation, power=power)


@pytest.mark.parametrize(
    ("degrees", "table"), [(5, 2.5706), (6, 2.4469), (10, 2.2281), (30, 2.0423), (120, 1.9799), (10_000, 1.9602)]
)
def test_the_t_quantile_equals_the_printed_table(degrees: int, table: float) -> None:
    assert _t_quantile(0.975, degrees) == pytest.approx(table, abs=3e-4)
