"""What several transforms need: power, fast convolution, level."""

import numpy as np
from numpy.typing import NDArray

from lora.errors import AudioError
from lora.units import Wave

Samples = NDArray[np.float64]


def power_of(wave: Wave, name: str) -> float:
    """Return the mean square of `wave`.

    Raises:
        AudioError: silence, which has no ratio to anything.
    """
    power = float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0
    if power == 0:
        raise AudioError(f"{name}: the clip is silent; expected speech. Remove the clip.")
    return power


def fast_length(length: int) -> int:
    """Return the smallest 2^a 3^b 5^c that is at least `length`: an FFT of a large prime takes ten times as long."""
    best = 1 << max(0, length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = 1 << max(0, -(-length // three) - 1).bit_length()
            best = min(best, two * three)
            three *= 3
        five *= 5
    return best


def convolve(wave: Wave, kernel: Samples, *, delay: int = 0) -> Samples:
    """Convolve by FFT and return as many samples as `wave` has, from `delay` on."""
    size = fast_length(len(wave) + len(kernel) - 1)
    product = np.fft.rfft(wave, size) * np.fft.rfft(kernel, size)
    return np.asarray(np.fft.irfft(product, size)[delay : delay + len(wave)], dtype=np.float64)


def gain(wave: Wave, decibels: float) -> Wave:
    """Make louder or softer by `decibels`; nothing is clipped."""
    return np.asarray(wave * np.float32(10 ** (decibels / 20)), dtype=np.float32)


def match_level(wave: Wave, reference: Wave, *, peak_limit: float) -> Wave:
    """Scale `wave` to the root mean square of `reference`, less where a sample would pass `peak_limit`."""
    scale = float(np.sqrt(power_of(reference, "match_level") / power_of(wave, "match_level")))
    return np.asarray(wave * np.float32(min(scale, peak_limit / float(np.abs(wave).max()))), dtype=np.float32)
