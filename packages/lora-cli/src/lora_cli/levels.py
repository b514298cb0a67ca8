"""The level meter: root mean square, peak and clipping of 16-bit blocks, in dB of full scale."""

import math
from dataclasses import dataclass

import numpy as np

FLOOR_DB = -90.0
FULL_SCALE = 32_768
CLIP_AT = 32_760
"""Converters that clip stop a few steps short of full scale."""
CLIPS_TO_SHOW = 3
SILENT_BELOW_DB = -66.0
"""Rooms are at -60 dBFS and above with any usual gain; a muted source gives zeros or a step or two."""


@dataclass(frozen=True, slots=True)
class Level:
    """Loudness of a stretch of audio; `clipped` counts samples at the converter's end."""

    rms_db: float = FLOOR_DB
    peak_db: float = FLOOR_DB
    clipped: int = 0

    @property
    def clipping(self) -> bool:
        """Tell whether the clipping is worth a word: single samples are not."""
        return self.clipped >= CLIPS_TO_SHOW


class Meter:
    """Adds blocks up until the level is taken."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._count = 0
        self._peak = 0
        self._clipped = 0

    def add(self, data: bytes) -> None:
        """Add a block of int16 samples."""
        samples = np.frombuffer(data, dtype="<i2").astype(np.int32)
        if not len(samples):
            return
        size = np.abs(samples)
        self._squares += float(np.square(samples, dtype=np.float64).sum())
        self._count += len(samples)
        self._peak = max(self._peak, int(size.max()))
        self._clipped += int(np.count_nonzero(size >= CLIP_AT))

    def take(self) -> Level:
        """Return the level since the last call and start anew."""
        rms = math.sqrt(self._squares / self._count) if self._count else 0.0
        level = Level(to_db(rms / FULL_SCALE), to_db(self._peak / FULL_SCALE), self._clipped)
        self.__init__()  # type: ignore[misc]
        return level


def to_db(amplitude: float) -> float:
    """Return an amplitude of full scale in dB, never below `FLOOR_DB`."""
    return max(20 * math.log10(amplitude), FLOOR_DB) if amplitude > 0 else FLOOR_DB
