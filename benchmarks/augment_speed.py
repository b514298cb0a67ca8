#!/usr/bin/env python3
"""Measure what augmentation costs: milliseconds of one core for a second of audio, each transform by itself.

python benchmarks/augment_speed.py [--seconds 5] [--repeats 20]
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from lora.data.manifest import Utterance
from lora.data.transforms import Augmenter, VoicePool
from lora.units import SAMPLE_RATE_HZ, Wave

SPECS: tuple[tuple[str, ...], ...] = (
    ("noise:white:snr=5-20",),
    ("noise:pink:snr=5-20",),
    ("noise:babble:snr=5-20",),
    ("telephone",),
    ("mulaw",),
    ("reverb:rt60=0.4",),
    ("speed:0.9-1.1",),
    ("pitch:-2-2",),
    ("clip:6",),
    ("level:-6",),
    ("drop-freq",),
    ("drop-chunk",),
    ("speed:0.9-1.1", "noise:pink:snr=5-20:p=0.5", "drop-freq", "drop-chunk"),
)


def voice(seconds: float, rng: np.random.Generator) -> Wave:
    """Return noise with the loudness contour of speech."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    contour = 1 + np.sin(2 * np.pi * 3 * np.arange(samples) / SAMPLE_RATE_HZ)
    return (0.05 * rng.standard_normal(samples) * contour).astype(np.float32)


def cost_ms(spec: Sequence[str], seconds: float, repeats: int) -> float:
    """Return milliseconds for each second of audio, the median of `repeats` utterances."""
    rng = np.random.default_rng(0)
    pool = VoicePool([Utterance(f"other-{n}", "x", voice(seconds, rng), n, SAMPLE_RATE_HZ) for n in range(8)])
    augmenter = Augmenter(spec, 0, voices=pool)
    # Lengths differ as in a corpus: an FFT of an awkward length costs more.
    waves = [voice(seconds * rng.uniform(0.8, 1.2), rng) for _ in range(repeats)]
    augmenter.augment(waves[0], epoch=0, utterance_id="warm-up")
    costs = []
    for number, wave in enumerate(waves):
        start = time.perf_counter()
        augmenter.augment(wave, epoch=0, utterance_id=f"utterance-{number}")
        costs.append(1000 * (time.perf_counter() - start) / (len(wave) / SAMPLE_RATE_HZ))
    return float(np.median(costs))


def main() -> int:
    """Print one line a transform."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print(f"milliseconds of work for one second of audio, clips of about {options.seconds:g} s")
    for spec in SPECS:
        print(f"{cost_ms(spec, options.seconds, options.repeats):8.2f}  {' '.join(spec)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
