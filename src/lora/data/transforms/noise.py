"""Additive noise at a signal-to-noise ratio: white, pink, the talk of other speakers, recorded noise."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lora.data.transforms.signal import Samples, fast_length, power_of
from lora.errors import AudioError, ConfigError
from lora.units import Wave

NoiseColor = Literal["white", "pink"]


def add_noise(wave: Wave, snr_db: float, rng: np.random.Generator, color: NoiseColor = "white") -> Wave:
    """Add stationary noise whose power lies exactly `snr_db` decibels under the whole clip's.

    Raises:
        AudioError: the clip is silent, so no ratio exists.
        ConfigError: an unknown color.
    """
    if color not in ("white", "pink"):
        raise ConfigError(f"add_noise: color is {color!r}; expected white or pink.")
    power_of(wave, "add_noise")
    noise = rng.standard_normal(len(wave)) if color == "white" else pink_noise(len(wave), rng)
    return mix(wave, noise, snr_db)


def pink_noise(num_samples: int, rng: np.random.Generator) -> Samples:
    """Return noise of equal power in every octave."""
    size = fast_length(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    # Power falls with frequency; the constant part, at index 0, is removed.
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.asarray(np.fft.irfft(spectrum, n=size)[:num_samples], dtype=np.float64)


def mix(wave: Wave, noise: Samples | Wave, snr_db: float) -> Wave:
    """Add `noise`, of the same length, scaled so that its power lies `snr_db` decibels under the clip's.

    Raises:
        AudioError: the clip or the noise is silent, so no ratio exists.
    """
    power = power_of(wave, "noise")
    noise_power = float(np.mean(np.square(noise, dtype=np.float64)))
    if noise_power == 0:
        raise AudioError("noise: the stretch of noise is silent; expected sound. Remove silent files.")
    scale = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return np.asarray(wave + scale * noise, dtype=np.float32)


def fill(noise: Wave, num_samples: int, rng: np.random.Generator) -> Wave:
    """Return `num_samples` of `noise` from a random place on, from its start again where it ends."""
    start = int(rng.integers(len(noise)))
    return np.asarray(np.resize(np.roll(noise, -start), num_samples), dtype=np.float32)


def babble(voices: Sequence[Wave], num_samples: int, rng: np.random.Generator) -> Samples:
    """Return the sum of `voices` at equal power, each from a random place on."""
    total = np.zeros(num_samples)
    for voice in voices:
        total += fill(voice, num_samples, rng) / np.sqrt(power_of(voice, "babble"))
    return total
