"""SpecAugment on the waveform, which is what Moonshine hears: bands and stretches that are missing.

After SpeechBrain's `DropFreq` and `DropChunk` (Ravanelli et al. 2021, arXiv 2106.04624), which follow SpecAugment
(Park et al. 2019, arXiv 1904.08779). The defaults are those of its LibriSpeech recipes.
"""

import numpy as np

from lora.data.transforms.signal import fast_length
from lora.units import SAMPLE_RATE_HZ, Wave

MAX_DROPPED = 0.5
"""Chunks never take more than this part of a clip: a short one would lose its words."""


def drop_frequencies(wave: Wave, count: int, width: float, rng: np.random.Generator) -> Wave:
    """Remove `count` bands at random places; each reaches `width` of the spectrum to either side, with soft edges."""
    size = fast_length(len(wave))
    spectrum = np.fft.rfft(wave, size)
    places = np.fft.rfftfreq(size) * 2  # 0 to 1, where 1 is half the sampling rate
    for center in rng.uniform(0, 1, count):
        inside = np.abs(places - center) < width
        # One at the band's edges and outside, zero over its middle half.
        distance = np.abs(places[inside] - center) / width
        spectrum[inside] *= np.clip(2 * distance - 1, 0, 1)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(wave)], dtype=np.float32)


def drop_chunks(wave: Wave, count: int, chunk_ms: tuple[float, float], rng: np.random.Generator) -> Wave:
    """Silence `count` stretches of `chunk_ms` at random places, together at most half of the clip."""
    out = wave.copy()
    left = int(MAX_DROPPED * len(wave))
    for milliseconds in rng.uniform(*chunk_ms, count):
        length = min(round(milliseconds * SAMPLE_RATE_HZ / 1000), left)
        start = int(rng.integers(len(wave) - length + 1))
        out[start : start + length] = 0
        left -= length
    return out
