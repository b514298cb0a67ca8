"""Units and the one sampling rate of the project."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000

Wave = NDArray[np.float32]
"""Mono float32 in [-1, 1] at 16 kHz, shape (samples,)."""

Seconds = float
JsonObject = dict[str, Any]


def seconds_of(num_samples: int) -> Seconds:
    """Return the duration of `num_samples` at 16 kHz."""
    return num_samples / SAMPLE_RATE_HZ
