"""Which clips are likely the same recording, whatever their rate, level and format.

A hash tells whether two waves are equal to the bit, which a copy at another rate is not. It is found in two steps. A
sketch of each clip, the energy of 12 mel bands in 16 parts of its duration, is compared with the sketches of all clips
of about its length. Where two look alike both are read again, and their waves are laid over each other: two takes of a
word by one speaker can have nearly the same envelope, but their waves do not run in step.

What is found and what is not is measured by `benchmarks/same_recording.py`, with the numbers in `docs/data_checks.md`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lora.units import SAMPLE_RATE_HZ, Seconds, Wave

PARTS, BANDS = 16, 12
SKETCH_BYTES = PARTS * BANDS
BAND_HZ = (150.0, 3600.0)
"""What a telephone lets through; below are hum and offset, above is what rates and codecs cut off."""
FRAME_SAMPLES, MIN_HOP_SAMPLES, FRAMES = 512, 64, 128
"""128 frames a clip; more in clips of over 4 s, so that they leave nothing out."""
FLOOR = 1e-4
"""Sound 40 dB below the loudest is as good as silence: dither and codecs change it."""

ALIKE = 0.95
"""Cosine of two sketches from which the waves are compared: copies reach 0.97, and 0.15% of the pairs of FSDD do."""
SAME = 0.93
"""Correlation of two waves from which they are one recording: copies reach 0.98, the nearest two takes 0.83."""
LENGTH_TOLERANCE_S: Seconds = 0.05
LENGTH_TOLERANCE_SAMPLES = round(LENGTH_TOLERANCE_S * SAMPLE_RATE_HZ)
LEVEL_SAMPLES, LEVEL_FLOOR = 800, 0.01
"""Waves are compared at one level in every tenth of a second, down to 20 dB below the loudest."""
COMPARED_SAMPLES = 30 * SAMPLE_RATE_HZ
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 512, 16_384
WAVES_KEPT = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a clip is known again by.

    Attributes:
        sha256: of its content; clips of one hash are one recording without a comparison.
        num_samples: at 16 kHz.
        sketch: `sketch_wave` of it.
        load: reads it at 16 kHz, at any level.
    """

    sha256: str
    num_samples: int
    sketch: bytes
    load: Callable[[], Wave]


def sketch_wave(wave: Wave) -> bytes:
    """Return the sketch of a 16 kHz wave: the decibels of each band in each part less their mean, scaled to int8."""
    wave = wave / max(float(np.abs(wave).max(initial=0.0)), 1e-30)
    wave = np.pad(wave, (0, max(0, FRAME_SAMPLES - len(wave))))
    hop = min(max(len(wave) // FRAMES, MIN_HOP_SAMPLES), FRAME_SAMPLES)
    frames = np.lib.stride_tricks.sliding_window_view(wave, FRAME_SAMPLES)[::hop]
    power = np.abs(np.fft.rfft(frames * _WINDOW)) ** 2
    energy = np.add.reduceat(power, _EDGES, axis=1)[:, :-1]
    parts = np.diff(_integrate(energy, np.linspace(0, len(energy), PARTS + 1)), axis=0)
    decibels = 10 * np.log10(np.maximum(parts, FLOOR * parts.max() + 1e-30))
    shape = decibels - decibels.mean()
    return np.rint(shape * (127 / max(float(np.abs(shape).max()), 1e-6))).astype(np.int8).tobytes()


def _integrate(values: NDArray[np.floating], at: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the sums of the rows of `values` from the start up to each place of `at`, parts of a row included."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    whole = np.minimum(at.astype(int), len(values) - 1)
    return sums[whole] + (at - whole)[:, None] * values[whole]


def _band_edges() -> NDArray[np.int_]:
    """Return the first FFT bin of each band, and the one behind the last; the bands are equally wide in mel."""
    low, high = (np.log1p(hz / 700) for hz in BAND_HZ)
    hz = 700 * np.expm1(np.linspace(low, high, BANDS + 1))
    return np.rint(hz * FRAME_SAMPLES / SAMPLE_RATE_HZ).astype(int)


_EDGES = _band_edges()
_WINDOW = np.hanning(FRAME_SAMPLES).astype(np.float32)


def correlate_waves(one: Wave, other: Wave) -> float:
    """Return the highest normalised cross-correlation of two 16 kHz waves within the tolerance, from 0 to 1.

    Of the band of a telephone, of the first half minute, and levelled from moment to moment: a click or a loud word in
    common is not the whole. A wave turned upside down is the same.
    """
    waves = [_level(wave[:COMPARED_SAMPLES]) for wave in (one, other)]
    size = _fft_size(max(map(len, waves)) + LENGTH_TOLERANCE_SAMPLES)
    first, second = (np.fft.rfft(wave, size) for wave in waves)
    product = np.fft.irfft(first * np.conj(second), size)
    near = np.concatenate([product[-LENGTH_TOLERANCE_SAMPLES:], product[: LENGTH_TOLERANCE_SAMPLES + 1]])
    energy = float(np.linalg.norm(waves[0]) * np.linalg.norm(waves[1]))
    return float(np.abs(near).max()) / energy if energy else 0.0


def _level(wave: Wave) -> Wave:
    """Return the wave in the telephone's band, over its root mean square around each sample."""
    size = _fft_size(len(wave))
    spectrum = np.fft.rfft(wave / max(float(np.abs(wave).max(initial=0.0)), 1e-30), size)
    low, high = (round(hz * size / SAMPLE_RATE_HZ) for hz in BAND_HZ)
    spectrum[:low] = 0
    spectrum[high:] = 0
    limited = np.fft.irfft(spectrum, size)[: len(wave)]
    sums = np.concatenate([[0.0], np.cumsum(np.square(limited, dtype=np.float64))])
    start = np.maximum(np.arange(len(wave)) - LEVEL_SAMPLES, 0)
    stop = np.minimum(np.arange(len(wave)) + LEVEL_SAMPLES, len(wave))
    power = (sums[stop] - sums[start]) / (stop - start)
    levelled: Wave = (limited / np.sqrt(power + LEVEL_FLOOR * power.max() + 1e-12)).astype(np.float32)
    return levelled


def _fft_size(num_samples: int) -> int:
    return 1 << num_samples.bit_length()


def group_recordings(recordings: Sequence[Recording | None], sides: Sequence[int] | None = None) -> list[int | None]:
    """Return for each recording a number that all that are likely the same have in common.

    Args:
        recordings: `None` is in no group.
        sides: of each recording; those of one side are not compared, except by their hash.
    """
    group = list(range(len(recordings)))

    def find(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    def join(one: int, other: int) -> None:
        one, other = sorted((find(one), find(other)))
        group[other] = one

    first: dict[str, int] = {}
    compared: dict[tuple[str, int], int] = {}
    for index, recording in enumerate(recordings):
        if recording is not None:
            join(first.setdefault(recording.sha256, index), index)
            compared.setdefault((recording.sha256, sides[index] if sides else index), index)
    chosen = list(compared.values())

    @lru_cache(WAVES_KEPT)
    def load(index: int) -> Wave:
        recording = recordings[index]
        assert recording is not None
        return recording.load()

    known = [recording for index in chosen if (recording := recordings[index]) is not None]
    own_sides = np.array([sides[index] if sides else index for index in chosen])
    for one, other in _alike(known, own_sides):
        one, other = chosen[one], chosen[other]
        if find(one) != find(other) and correlate_waves(load(one), load(other)) >= SAME:
            join(one, other)
    return [None if recording is None else find(index) for index, recording in enumerate(recordings)]


def _alike(recordings: Sequence[Recording], sides: NDArray[np.int_]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of different sides whose lengths and sketches are alike, all pairs of one clip in a row."""
    if not recordings:
        return
    lengths = np.array([recording.num_samples for recording in recordings])
    order = np.argsort(lengths, kind="stable")
    lengths, sides = lengths[order], sides[order]
    sketches = _normalized([recordings[index].sketch for index in order])
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(order)))
        stop = int(np.searchsorted(lengths, lengths[rows[-1]] + LENGTH_TOLERANCE_SAMPLES, side="right"))
        found: list[NDArray[np.int_]] = []
        for begin in range(start, stop, COLUMNS_AT_ONCE):
            columns = np.arange(begin, min(begin + COLUMNS_AT_ONCE, stop))
            is_pair = sketches[rows] @ sketches[columns].T >= ALIKE
            is_pair &= columns > rows[:, None]
            is_pair &= sides[columns] != sides[rows, None]
            is_pair &= lengths[columns] - lengths[rows, None] <= LENGTH_TOLERANCE_SAMPLES
            found.append(np.argwhere(is_pair) + np.array([start, begin]))
        for one, other in sorted(map(tuple, np.concatenate(found).tolist())):
            yield int(order[one]), int(order[other])


def _normalized(sketches: Sequence[bytes]) -> Floats:
    values = np.frombuffer(b"".join(sketches), np.int8).reshape(len(sketches), SKETCH_BYTES).astype(np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    normalized: Floats = values / np.maximum(norms, 1).astype(np.float32)
    return normalized
