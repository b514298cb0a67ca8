"""Bands and companding: what a telephone line or a radio leaves of a voice."""

from functools import cache

import numpy as np

from lora.data.transforms.signal import Samples, convolve
from lora.errors import ConfigError
from lora.units import SAMPLE_RATE_HZ, Wave

TELEPHONE_BAND_HZ = (300.0, 3400.0)
RADIO_BAND_HZ = (300.0, 2700.0)
"""Speech over a narrow voice channel, as in the VHF airband."""
BAND_TAPS = 401
MU = 255
"""ITU-T G.711, the law of North American and Japanese telephone networks."""


def telephone_band(wave: Wave) -> Wave:
    """Keep 300 to 3400 Hz, as a telephone line does; length and timing stay as they are."""
    return band(wave, *TELEPHONE_BAND_HZ)


def band(wave: Wave, low_hz: float, high_hz: float) -> Wave:
    """Keep `low_hz` to `high_hz`; length and timing stay as they are.

    Raises:
        ConfigError: the edges are not in order, or beyond half the sampling rate.
    """
    if not 0 <= low_hz < high_hz <= SAMPLE_RATE_HZ / 2:
        raise ConfigError(f"band: got {low_hz:g} to {high_hz:g} Hz, expected 0 <= low < high <= {SAMPLE_RATE_HZ // 2}.")
    return convolve(wave, _band_filter(low_hz, high_hz), delay=BAND_TAPS // 2).astype(np.float32)


@cache
def _band_filter(low_hz: float, high_hz: float) -> Samples:
    """Return a windowed-sinc band-pass: the high cut's low-pass less the low cut's."""
    offsets = np.arange(BAND_TAPS) - BAND_TAPS // 2
    low, high = (2 * cut / SAMPLE_RATE_HZ * np.sinc(2 * cut / SAMPLE_RATE_HZ * offsets) for cut in (low_hz, high_hz))
    return np.asarray((high - low) * np.hamming(BAND_TAPS), dtype=np.float64)


def mu_law(wave: Wave, *, bits: int = 8) -> Wave:
    """Quantise to `bits` on the logarithmic scale of G.711 and back; beyond full scale is clipped."""
    levels = 2**bits - 1
    squeezed = np.sign(wave) * np.log1p(MU * np.minimum(np.abs(wave), 1)) / np.log1p(MU)
    coded = np.round((squeezed + 1) / 2 * levels) / levels * 2 - 1
    return np.asarray(np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU, dtype=np.float32)


def clip(wave: Wave, overdrive_db: float) -> Wave:
    """Cut the peaks off as an input driven `overdrive_db` too high does; the highest peak stays as it is."""
    peak = np.abs(wave).max(initial=0)
    return np.asarray(np.clip(wave * np.float32(10 ** (overdrive_db / 20)), -peak, peak), dtype=np.float32)
