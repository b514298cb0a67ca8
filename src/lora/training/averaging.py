"""Averaged weights along one training run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """Exponential moving average of the trained weights.

    After step t, average <- d average + (1 - d) weights with d = min(decay, (1 + t) / (10 + t)): the bound lets
    the average leave the start quickly (Polyak and Juditsky, 1992; the bound is TensorFlow's
    `ExponentialMovingAverage` with `num_updates`). The average lies in flatter regions than the last step does
    (Izmailov et al., 2018, arXiv 1803.05407), which is what a guardrail needs.

    Args:
        decay: 0 keeps the last weights only.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.steps = 0
        # Without decay the average is the weights themselves: nothing is copied.
        self.averages = [parameter.detach().clone() for parameter in self.parameters] if decay else self.parameters

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step into the average."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the weights inside the block; afterwards they are what they were, to the bit."""
        if not self.decay:
            yield
            return
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
