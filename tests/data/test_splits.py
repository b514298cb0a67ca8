import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora.data.manifest import Utterance
from lora.data.splits import Split, split_train_validation
from lora.errors import ConfigError, ManifestError


def rows(*sizes: int, names: Sequence[int | str | None] | None = None) -> list[Utterance]:
    """Return utterances of one speaker after another, `sizes` of each."""
    names = names or [f"speaker-{number}" for number in range(len(sizes))]
    return [
        Utterance(id=f"{place}-{number}", text="one", audio=Path("a.wav"), speaker_id=name)
        for place, (name, size) in enumerate(zip(names, sizes, strict=True))
        for number in range(size)
    ]


def speakers(part: Sequence[Utterance]) -> set[str]:
    return {str(utterance.speaker_id) for utterance in part}


def check_partition(split: Split, utterances: Sequence[Utterance]) -> None:
    both = [utterance.id for utterance in (*split.train, *split.validation)]
    assert sorted(both) == sorted(utterance.id for utterance in utterances)
    assert split.train
    assert split.validation


def test_whole_speakers_are_held_out_near_the_fraction_asked_for() -> None:
    utterances = rows(*[10] * 20)
    split = split_train_validation(utterances, fraction=0.2, seed=1)
    check_partition(split, utterances)
    assert split.kind == "speaker"
    assert speakers(split.train) & speakers(split.validation) == set()
    assert (len(split.validation), len(speakers(split.validation))) == (40, 4)
    assert split.reason == "4 of 20 speakers held out whole: 40 of 200 utterances (20.0%, asked for 20.0%)"


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    utterances = rows(*range(1, 31))
    mixed = utterances.copy()
    random.Random(3).shuffle(mixed)
    assert split_train_validation(utterances, fraction=0.1, seed=5) == split_train_validation(
        mixed, fraction=0.1, seed=5
    )
    drawn = {
        frozenset(speakers(split_train_validation(mixed, fraction=0.1, seed=seed).validation)) for seed in range(8)
    }
    assert len(drawn) > 4


def test_a_random_split_too_does_not_depend_on_the_order_of_rows() -> None:
    utterances = rows(50, names=[None])
    split = split_train_validation(utterances, fraction=0.1, seed=5)
    assert split == split_train_validation(utterances[::-1], fraction=0.1, seed=5)
    assert split.validation != split_train_validation(utterances, fraction=0.1, seed=6).validation
    check_partition(split, utterances)


@pytest.mark.parametrize(
    ("sizes", "fraction", "held_out"),
    [
        ((50, 50, 12), 0.1, {"speaker-2"}),  # 12 of 112: the only one that fits
        ((90, 90, 20), 0.2, {"speaker-2"}),  # exactly half of what was asked for
        ((1, 1, 60, 60, 16), 0.2, {"speaker-4"}),  # the two small ones are too few, the large ones too many
    ],
)
def test_a_speaker_is_held_out_when_one_fits(sizes: tuple[int, ...], fraction: float, held_out: set[str]) -> None:
    for seed in range(5):
        split = split_train_validation(rows(*sizes), fraction=fraction, seed=seed)
        assert split.kind == "speaker"
        low, high = 0.5 * fraction * sum(sizes), 2 * fraction * sum(sizes)
        assert low <= len(split.validation) <= high
        assert len(speakers(split.train)) >= 2
        assert held_out <= speakers(split.validation)


def test_no_possible_set_of_speakers_is_missed() -> None:
    chance = random.Random(0)
    kinds = {"speaker": 0, "random": 0}
    for _ in range(300):
        sizes = [chance.choice([1, 2, 3, 5, 8, 30]) for _ in range(chance.randint(3, 7))]
        fraction = chance.choice([0.05, 0.1, 0.2, 0.4])
        low, high = 0.5 * fraction * sum(sizes), 2 * fraction * sum(sizes)
        possible = any(
            low <= sum(size for place, size in enumerate(sizes) if mask >> place & 1) <= high
            for mask in range(2 ** len(sizes))
            if mask.bit_count() <= len(sizes) - 2
        )
        split = split_train_validation(rows(*sizes), fraction=fraction, seed=chance.randrange(100))
        assert (split.kind == "speaker") == possible, (sizes, fraction)
        kinds[split.kind] += 1
        if split.kind == "speaker":
            assert low <= len(split.validation) <= high
    assert min(kinds.values()) > 20


@pytest.mark.parametrize(
    ("utterances", "why"),
    [
        (rows(5, 5, 5, names=["a", "b", None]), "5 of 15 utterances have no speaker_id"),
        (rows(10, 10), "there are 2 speaker(s), and holding one out whole needs at least 3 (2 stay in training)"),
        (rows(100, 100, 100), "no set of whole speakers comes to between 5.0% and 20.0% of the utterances"),
    ],
)
def test_a_random_split_says_why_it_is_one(utterances: list[Utterance], why: str) -> None:
    split = split_train_validation(utterances, fraction=0.1, seed=0)
    check_partition(split, utterances)
    assert split.kind == "random"
    assert split.reason.startswith(f"random utterances, because {why}")
    assert len(split.validation) == round(0.1 * len(utterances))


def test_a_number_and_its_spelling_are_one_speaker() -> None:
    split = split_train_validation(rows(10, 10, 10, names=[7, "7", 8]), fraction=0.3, seed=0)
    assert (split.kind, "there are 2 speaker(s)" in split.reason) == ("random", True)


def test_two_rows_are_enough_and_each_part_gets_one() -> None:
    for fraction in (0.01, 0.99):
        split = split_train_validation(rows(2), fraction=fraction, seed=0)
        assert (len(split.train), len(split.validation)) == (1, 1)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_are_refused(count: int) -> None:
    with pytest.raises(ManifestError, match=rf"got {count} utterance\(s\); a train/validation split needs at least 2"):
        split_train_validation(rows(count), fraction=0.1, seed=0)


def test_an_id_that_appears_twice_is_refused() -> None:
    with pytest.raises(ManifestError, match="1 utterance id"):
        split_train_validation([*rows(3), rows(1)[0]], fraction=0.5, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_that_leaves_one_part_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="expected more than 0 and less than 1"):
        split_train_validation(rows(10), fraction=fraction, seed=0)
