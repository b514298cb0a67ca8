"""Batches: every utterance once, within the budget, the same for the same seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lora.data.batches import epoch_batches, length_batches, pad_waves

LENGTHS = st.lists(st.integers(min_value=1, max_value=400_000), min_size=1, max_size=40)
BUDGETS = st.floats(min_value=0.5, max_value=60)


def is_within(lengths: list[int], batch: list[int], batch_seconds: float) -> bool:
    padded = len(batch) * max(lengths[index] for index in batch)
    return len(batch) == 1 or padded <= batch_seconds * 16_000


@given(LENGTHS, BUDGETS, st.integers(min_value=1, max_value=8))
def test_length_batches_hold_every_utterance_once_within_both_limits(
    lengths: list[int], batch_seconds: float, batch_size: int
) -> None:
    batches = list(length_batches(lengths, batch_seconds=batch_seconds, batch_size=batch_size))
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    assert all(is_within(lengths, batch, batch_seconds) and len(batch) <= batch_size for batch in batches)


@given(LENGTHS, BUDGETS, st.integers(min_value=0, max_value=5))
def test_an_epoch_holds_every_utterance_once_within_the_budget(
    lengths: list[int], batch_seconds: float, epoch: int
) -> None:
    batches = epoch_batches(lengths, batch_seconds=batch_seconds, seed=3, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(is_within(lengths, batch, batch_seconds) for batch in batches)


def test_batches_depend_on_seed_and_epoch_and_on_nothing_else() -> None:
    lengths = list(range(8_000, 24_000, 400))
    first = epoch_batches(lengths, batch_seconds=4, seed=1, epoch=0)
    assert epoch_batches(lengths, batch_seconds=4, seed=1, epoch=0) == first
    assert epoch_batches(lengths, batch_seconds=4, seed=1, epoch=1) != first
    assert epoch_batches(lengths, batch_seconds=4, seed=2, epoch=0) != first


def test_two_batches_of_hand_computed_lengths() -> None:
    # 2 s, 1 s, 1 s, 0.5 s in 3 s of padded audio: the longest alone (2 x 2 s is too much), then three of 1 s.
    assert list(length_batches([16_000, 32_000, 8_000, 16_000], batch_seconds=3)) == [[1], [0, 3, 2]]


def test_waves_are_padded_with_zeros_on_the_right() -> None:
    audio, num_samples = pad_waves([np.array([1, 2], dtype=np.float32), np.array([3], dtype=np.float32)])
    assert audio.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert num_samples.tolist() == [2, 1]


def test_no_batches_of_no_utterances() -> None:
    assert list(length_batches([], batch_seconds=1)) == []
    assert epoch_batches([], batch_seconds=1, seed=0, epoch=0) == []
