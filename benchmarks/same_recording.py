#!/usr/bin/env python3
"""Measure how well likely the same recordings are found: hits for each kind of copy, and false alarms.

Hits: every sampled clip is copied in each way, and the copy is to be found among all clips of its corpus. False
alarms: all pairs of different recordings of real corpora, of 5,000 digit strings spliced of few recordings, and of
5,000 synthetic clips of different texts or timbres (one word in one timbre at one rate and pitch is one recording,
often in several accents). Exit code 3 when there is one.

    python benchmarks/same_recording.py --fsdd ../shared/fsdd [--librivox DIR] [--speechocean DIR] [--clips 100]
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lora.config import PreprocessConfig
from lora.data.audio import decode_audio, prepare_wave, read_wave, wave_sha256
from lora.data.fingerprint import Recording, group_recordings, sketch_wave
from lora.data.sources.fsdd import read_fsdd
from lora.data.sources.synthetic import read_synthetic
from lora.units import SAMPLE_RATE_HZ, Wave

Sound = tuple[Wave, int]
SLICE_SAMPLES = SAMPLE_RATE_HZ


def written(wave: Wave, rate_hz: int = SAMPLE_RATE_HZ, **format: str) -> Sound:
    """Return what comes back of a file in another format."""
    buffer = io.BytesIO()
    soundfile.write(buffer, soxr.resample(wave, SAMPLE_RATE_HZ, rate_hz), rate_hz, **format)
    return decode_audio(buffer.getvalue(), name="copy")


def dithered(wave: Wave) -> Sound:
    """Return the wave in 12 bits, with triangular dither."""
    rng = np.random.default_rng(0)
    noise = (rng.random(len(wave)) - rng.random(len(wave))) / 2**11
    return (np.rint((wave + noise) * 2**11) / 2**11).astype(np.float32), SAMPLE_RATE_HZ


def trimmed(wave: Wave, start: float, end: float) -> Sound:
    """Cut milliseconds off both ends; negative ones add silence."""
    first, last = (round(ms * SAMPLE_RATE_HZ / 1000) for ms in (start, end))
    wave = np.pad(wave, (max(-first, 0), max(-last, 0)))
    return wave[max(first, 0) : len(wave) - max(last, 0)], SAMPLE_RATE_HZ


COPIES: dict[str, Callable[[Wave], Sound]] = {
    "48 kHz, 24-bit WAV": partial(written, rate_hz=48_000, format="WAV", subtype="PCM_24"),
    "44.1 kHz, 16-bit FLAC": partial(written, rate_hz=44_100, format="FLAC", subtype="PCM_16"),
    "8 kHz, 16-bit WAV": partial(written, rate_hz=8_000, format="WAV", subtype="PCM_16"),
    "26 dB softer, 16-bit FLAC": lambda wave: written(0.05 * wave, format="FLAC", subtype="PCM_16"),
    "12 bits with dither": dithered,
    "mu-law at 8 kHz": partial(written, rate_hz=8_000, format="WAV", subtype="ULAW"),
    "MP3": partial(written, format="MP3", subtype="MPEG_LAYER_III"),
    "MP3 at 48 kHz": partial(written, rate_hz=48_000, format="MP3", subtype="MPEG_LAYER_III"),
    "OGG Vorbis": partial(written, format="OGG", subtype="VORBIS"),
    "OGG Opus": partial(written, format="OGG", subtype="OPUS"),
    "7 samples cut off": lambda wave: (wave[7:], SAMPLE_RATE_HZ),
    "13 zeros in front": lambda wave: trimmed(wave, -13 / 16, 0),
    "5 ms cut off each end": lambda wave: trimmed(wave, 5, 5),
    "20 ms cut off each end": lambda wave: trimmed(wave, 20, 20),
    "20 ms of silence at each end": lambda wave: trimmed(wave, -20, -20),
}


def recording_of(wave: Wave) -> Recording:
    """Return what a clip is known again by."""
    return Recording(wave_sha256(wave), len(wave), sketch_wave(wave), lambda: wave)


def measure_hits(name: str, waves: Sequence[Wave], few: int) -> None:
    """Print the share of copies that are found, of each kind."""
    recordings = [recording_of(wave) for wave in waves]
    chosen = range(0, len(waves), max(1, len(waves) // few))
    for kind, copy in COPIES.items():
        copies = [recording_of(prepare_wave(*copy(waves[index]), PreprocessConfig(), name=kind)) for index in chosen]
        groups = group_recordings([*recordings, *copies], [0] * len(recordings) + [1] * len(copies))
        found = sum(groups[index] == group for index, group in zip(chosen, groups[len(waves) :], strict=True))
        print(f"  {name}: {kind}: {found} of {len(copies)} ({found / len(copies):.1%})")


def measure_alarms(name: str, waves: Sequence[Wave], labels: Sequence[str] | None = None) -> int:
    """Compare all pairs of different recordings; print and return how many are taken for one, labels aside."""
    started = time.perf_counter()
    recordings = [recording_of(wave) for wave in waves]
    sketched = time.perf_counter()
    different = len({recording.sha256 for recording in recordings})
    groups = group_recordings(recordings)
    alarms = len(set(zip(groups, labels or [one.sha256 for one in recordings], strict=True))) - len(set(groups))
    seconds = sum(len(wave) for wave in waves) / SAMPLE_RATE_HZ
    print(
        f"{name}: {different} different clips ({seconds / different:.1f} s each), {different * (different - 1) // 2} "
        f"pairs, {alarms} false alarm(s); {1000 * (sketched - started) / len(waves):.2f} ms a clip for the sketch, "
        f"{time.perf_counter() - sketched:.1f} s for the comparison"
    )
    return alarms


def read_folder(folder: Path, pattern: str) -> list[Wave]:
    """Read all clips of a folder."""
    return [read_wave(path, PreprocessConfig()) for path in sorted(folder.glob(pattern))]


def slices_of(waves: Sequence[Wave]) -> Iterator[Wave]:
    """Yield every whole second of the waves."""
    for wave in waves:
        for start in range(0, len(wave) - SLICE_SAMPLES + 1, SLICE_SAMPLES):
            yield wave[start : start + SLICE_SAMPLES]


def read_spliced(folder: Path, count: int) -> tuple[list[Wave], list[str]]:
    """Return digit strings of two speakers, spliced of 800 recordings, and what tells them apart: speaker and text."""
    clips = list(read_fsdd(folder, split="train", speakers=("jackson", "theo"), samples=count, seed=1))
    waves = [prepare_wave(clip.wave, clip.sampling_rate, PreprocessConfig(), name=clip.id) for clip in clips]
    return waves, [f"{clip.speaker_id}: {clip.text}" for clip in clips]


def read_spoken(count: int) -> tuple[list[Wave], list[str]]:
    """Return short synthetic digit strings, one to three digits each, and what tells them apart: timbre and text."""
    clips = list(read_synthetic(samples=count, seed=1, split="train", min_digits=1, max_digits=3))
    waves = [prepare_wave(clip.wave, clip.sampling_rate, PreprocessConfig(), name=clip.id) for clip in clips]
    return waves, [f"{str(clip.speaker_id).partition('+')[2]}: {clip.text}" for clip in clips]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, required=True)
    parser.add_argument("--librivox", type=Path)
    parser.add_argument("--speechocean", type=Path)
    parser.add_argument("--clips", type=int, default=100, help="clips of each corpus that are copied")
    parser.add_argument("--spoken", type=int, default=5000, help="spliced clips, and synthetic clips")
    options = parser.parse_args()
    corpora = {"FSDD": read_folder(options.fsdd / "recordings", "*.wav")}
    if options.librivox:
        corpora["LibriVox"] = read_folder(options.librivox, "*.wav")
    if options.speechocean:
        corpora["speechocean"] = read_folder(options.speechocean / "flac", "*.flac")
    alarms = sum(measure_alarms(name, waves) for name, waves in corpora.items())
    if options.librivox:
        alarms += measure_alarms("LibriVox, each second", list(slices_of(corpora["LibriVox"])))
    alarms += measure_alarms("FSDD, spliced", *read_spliced(options.fsdd, options.spoken))
    alarms += measure_alarms("synthetic", *read_spoken(options.spoken))
    for name, waves in corpora.items():
        measure_hits(name, waves, options.clips)
    return 3 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
