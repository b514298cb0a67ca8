"""Speed as of a tape, and pitch at constant length."""

import numpy as np
import soxr

from lora.errors import ConfigError
from lora.units import SAMPLE_RATE_HZ, Wave

FRAME_SAMPLES = 1024
HOP_SAMPLES = FRAME_SAMPLES // 2
SEARCH_SAMPLES = 160
"""10 ms either way: one period of the lowest voice (50 Hz is 320 samples)."""


def speed(wave: Wave, factor: float) -> Wave:
    """Play `factor` times as fast, as a tape does: the pitch moves with the speed.

    Raises:
        ConfigError: `factor` is not between 0.5 and 2.
    """
    if not 0.5 <= factor <= 2.0:
        raise ConfigError(f"speed: factor is {factor}; expected 0.5 to 2.0.")
    if factor == 1.0:
        return wave
    return np.asarray(soxr.resample(wave, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="VHQ"), dtype=np.float32)


def pitch(wave: Wave, semitones: float) -> Wave:
    """Raise the pitch by `semitones` and keep the length: stretch the time, then play faster.

    Raises:
        ConfigError: more than an octave up or down.
    """
    if not -12 <= semitones <= 12:
        raise ConfigError(f"pitch: got {semitones} semitones; expected -12 to 12.")
    if semitones == 0:
        return wave
    factor = 2 ** (semitones / 12)
    raised = speed(stretch(wave, factor), factor)
    return np.asarray(np.pad(raised, (0, max(0, len(wave) - len(raised))))[: len(wave)], dtype=np.float32)


def stretch(wave: Wave, factor: float) -> Wave:
    """Make `factor` times as long at the same pitch.

    WSOLA (Verhelst and Roelands, ICASSP 1993): half-overlapping Hann frames; each is taken from where, within
    10 ms of its place, the sound goes on most like the frame before it.
    """
    length = round(len(wave) * factor)
    num_frames = -(-length // HOP_SAMPLES) + 1
    padded = np.pad(wave, (HOP_SAMPLES + SEARCH_SAMPLES, FRAME_SAMPLES + HOP_SAMPLES + 2 * SEARCH_SAMPLES))
    window = np.hanning(FRAME_SAMPLES + 1)[:-1].astype(np.float32)
    out = np.zeros(num_frames * HOP_SAMPLES + HOP_SAMPLES, dtype=np.float32)
    start = SEARCH_SAMPLES
    for frame in range(num_frames):
        if frame:
            wanted = padded[start + HOP_SAMPLES : start + HOP_SAMPLES + FRAME_SAMPLES]
            start = _most_alike(padded, wanted, round(frame * HOP_SAMPLES / factor))
        place = frame * HOP_SAMPLES
        out[place : place + FRAME_SAMPLES] += window * padded[start : start + FRAME_SAMPLES]
    return out[HOP_SAMPLES : HOP_SAMPLES + length]


def _most_alike(padded: Wave, wanted: Wave, first: int) -> int:
    """Return the place from `first` to `first` + 20 ms where `padded` correlates best with `wanted`."""
    region = padded[first : first + FRAME_SAMPLES + 2 * SEARCH_SAMPLES]
    scores = np.correlate(region, wanted, mode="valid")
    # Normalised, or a louder neighbour would win over a more similar one.
    energies = np.concatenate(([0.0], np.cumsum(np.square(region, dtype=np.float64))))
    energies = energies[FRAME_SAMPLES:] - energies[:-FRAME_SAMPLES]
    return first + int(np.argmax(scores / np.sqrt(energies + 1e-9)))
