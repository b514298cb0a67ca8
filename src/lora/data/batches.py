"""Batches by audio seconds and similar length."""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora.units import SAMPLE_RATE_HZ, Seconds, Wave

if TYPE_CHECKING:
    from torch import Tensor


def pad_waves(waves: Sequence[Wave]) -> "tuple[Tensor, Tensor]":
    """Pad waveforms on the right with zeros to one length.

    Returns:
        `audio` float32 (batch, samples) and `num_samples` int64 (batch,).
    """
    import torch

    lengths = [len(wave) for wave in waves]
    audio = np.zeros((len(waves), max(lengths)), dtype=np.float32)
    for row, wave in enumerate(waves):
        audio[row, : len(wave)] = wave
    return torch.from_numpy(audio), torch.tensor(lengths)


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Return the indices of `lengths`, the longest first, equal ones in their order."""
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def length_batches(
    lengths: Sequence[int], *, batch_seconds: Seconds, batch_size: int | None = None
) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, longest first.

    A batch's padded audio stays within `batch_seconds`; an utterance longer than that is alone.

    Args:
        lengths: number of samples of each utterance at 16 kHz.
    """
    budget = batch_seconds * SAMPLE_RATE_HZ
    batch: list[int] = []
    for index in longest_first(lengths):
        longest = lengths[batch[0]] if batch else 0
        if batch and ((len(batch) + 1) * longest > budget or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def epoch_batches(lengths: Sequence[int], *, batch_seconds: Seconds, seed: int, epoch: int) -> list[list[int]]:
    """Return one epoch's batches: every utterance once, of similar length within a batch, order by seed.

    Lengths are jittered by up to 10% before sorting, so that neighbours change from epoch to epoch.
    """
    rng = random.Random(f"{seed}/{epoch}")
    jittered = [int(length * rng.uniform(0.9, 1.1)) for length in lengths]
    order = sorted(range(len(lengths)), key=lambda index: (jittered[index], index))
    budget = batch_seconds * SAMPLE_RATE_HZ
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches
