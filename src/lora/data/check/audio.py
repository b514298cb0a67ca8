"""Audio faults of one clip, from its decoded samples and its file's header."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lora.config import PreprocessConfig
from lora.data.audio import MAX_DECODED_SECONDS, MAX_DECODED_VALUES, decode_audio, peak_fault, resample
from lora.data.findings import RULES
from lora.data.fingerprint import sketch_wave
from lora.data.manifest import Utterance
from lora.errors import AudioError
from lora.units import Seconds, Wave

MIN_RATE_HZ = 1000
SILENCE_RMS = 1e-5
QUIET_RMS = 5e-4
DC_OFFSET = 0.02
DC_SHARE_OF_RMS = 0.7
"""Quiet recordings of FSDD reach 0.43 without harm."""
FLAT_SHARE = 1e-3
FLAT_SAMPLES = 10
"""A clip is clipped where this many samples, and this share, equal their neighbour within 1% of the peak."""
DURATION_TOLERANCE = (0.1, 0.02)
"""Seconds, and share of the duration, by which a `duration` key may be off."""
FRAME_SECONDS = 0.02
ACTIVE_LEVEL = 0.02
BRIDGED_FRAMES = 15
"""Sound is what lies above 2% of the loudest frame, with pauses up to 0.3 s: words have quiet sounds in them."""

MAGIC: Mapping[str, tuple[bytes, ...]] = {
    ".wav": (b"RIFF", b"RIFX", b"RF64"),
    ".flac": (b"fLaC",),
    ".ogg": (b"OggS",),
    ".mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa"),
}


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What the checks need to know of a clip once its samples are let go.

    Attributes:
        active_seconds: duration of the sound, without silence at the ends and long pauses.
        sha256: of the samples as 16-bit integers, so that WAV, FLAC, float and inline copies agree.
        num_samples, sketch: of the clip at 16 kHz, to know its recording again; `None` where it is damaged.
    """

    seconds: Seconds
    active_seconds: Seconds
    sampling_rate: int
    sha256: str
    num_samples: int = 0
    sketch: bytes | None = None


Fault = tuple[str, str]
"""A code of `RULES` and what was got."""


def inspect_audio(
    utterance: Utterance, preprocess: PreprocessConfig, max_seconds: Seconds
) -> tuple[AudioFacts | None, list[Fault]]:
    """Decode one clip and return its facts (`None` where it cannot be decoded) and its faults."""
    faults: list[Fault] = []
    if isinstance(utterance.audio, Path):
        faults += _check_name(utterance.audio)
        try:
            samples, rate = _decode(utterance.audio)
        except _UndecodableError as error:
            return None, [error.fault]
    else:
        samples, rate = utterance.decode()
    faults += _check_duration_key(utterance.extra, len(samples) / rate)
    found = list(check_samples(samples, rate, preprocess, max_seconds))
    is_sound = not any(RULES[code].severity == "error" for code, _ in found)
    wave = resample(samples, rate) if is_sound else samples[:0]
    facts = AudioFacts(
        len(samples) / rate,
        _active_seconds(samples, rate),
        rate,
        _content_sha256(samples),
        len(wave),
        sketch_wave(wave) if is_sound else None,
    )
    return facts, faults + found


class _UndecodableError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def _decode(path: Path) -> tuple[Wave, int]:
    try:
        samples, rate = decode_audio(path, name=path.name)
    except AudioError as error:
        try:
            fault = classify_failure(path, error)
        except OSError as refusal:
            fault = ("unreadable", f"{path.name}: {refusal.strerror}")
        raise _UndecodableError(fault) from error
    except OSError as error:
        raise _UndecodableError(("unreadable", f"{path.name}: {error.strerror}")) from error
    if rate < MIN_RATE_HZ:
        raise _UndecodableError(("unreadable", f"{path.name}: sampling rate {rate} Hz; expected {MIN_RATE_HZ} or more"))
    return samples, rate


def check_samples(samples: Wave, rate: int, preprocess: PreprocessConfig, max_seconds: Seconds) -> Iterator[Fault]:
    """Yield the faults of decoded samples."""
    seconds = len(samples) / rate
    if seconds < preprocess.min_seconds:
        yield "too-short", f"{seconds:.3f} s; expected at least {preprocess.min_seconds} s"
        return
    if seconds > max_seconds:
        yield "too-long", f"{seconds:.1f} s; expected at most {max_seconds:g} s"
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        yield "non-finite", f"{bad} of {len(samples)} samples"
        return
    damage = peak_fault(samples)
    if damage:
        yield "non-finite", damage
        return
    low, high = float(samples.min()), float(samples.max())
    peak = max(-low, high)
    mean = float(samples.mean(dtype=np.float64))
    rms = math.sqrt(float(np.dot(samples, samples)) / len(samples))
    swing = math.sqrt(max(rms * rms - mean * mean, 0.0))  # the level without the offset
    if swing < SILENCE_RMS:
        yield "silence", f"RMS {swing:.1e} of full scale"
        return
    if swing < QUIET_RMS:
        yield "quiet", f"RMS {20 * math.log10(swing):.0f} dBFS"
    if abs(mean) > DC_OFFSET or abs(mean) > DC_SHARE_OF_RMS * rms:
        yield "dc-offset", f"mean {mean:+.3f} of full scale"
    flat = _count_flat_peaks(samples, low, high)
    if flat >= FLAT_SAMPLES and flat >= FLAT_SHARE * len(samples):
        yield "clipping", f"{flat} of {len(samples)} samples ({flat / len(samples):.1%}) at the peak {peak:.2f}"


def _count_flat_peaks(samples: Wave, low: float, high: float) -> int:
    """Count samples within 1% of the highest or lowest value that equal the one before."""
    near = np.flatnonzero((samples >= 0.99 * high) if high > 0 else np.zeros(len(samples), bool))
    near_low = np.flatnonzero((samples <= 0.99 * low) if low < 0 else np.zeros(len(samples), bool))
    near = np.concatenate([near, near_low])
    near = near[near > 0]
    return int(np.count_nonzero(samples[near] == samples[near - 1]))


def classify_failure(path: Path, error: AudioError) -> Fault:
    """Say why `decode_audio` refused a file."""
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        return "unreadable", "the file is empty (0 bytes)"
    try:
        with soundfile.SoundFile(os.fsencode(path)) as header:
            frames, values, rate = header.frames, header.frames * header.channels, header.samplerate
    except (soundfile.LibsndfileError, TypeError):
        kind = _kind_of(start)
        if kind is None:
            return "not-audio", f"{path.name} starts with {start[:8]!r}"
        return "unreadable", f"{path.name} starts as {kind} but has no usable header"
    if frames / rate > MAX_DECODED_SECONDS or values > MAX_DECODED_VALUES:
        return "too-large", f"{path.stat().st_size} bytes unfold to {frames / rate:.0f} s"
    # The header is whole and the samples are not.
    return "truncated", error.message.partition(": ")[2] or error.message


def _kind_of(start: bytes) -> str | None:
    return next((suffix[1:].upper() for suffix, marks in MAGIC.items() if start.startswith(marks)), None)


def _check_name(path: Path) -> Iterator[Fault]:
    marks = MAGIC.get(path.suffix.lower())
    if marks is None:
        return
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return  # decoding says it
    kind = _kind_of(start)
    if kind is not None and not start.startswith(marks):
        yield "mislabelled", f"{path.name} is {kind}"


def _check_duration_key(extra: Mapping[str, Any], seconds: Seconds) -> Iterator[Fault]:
    said = extra.get("duration")
    if isinstance(said, bool) or not isinstance(said, int | float) or not said > 0:
        return
    tolerance = max(DURATION_TOLERANCE[0], DURATION_TOLERANCE[1] * said)
    if seconds < said - tolerance:
        yield "truncated", f"{seconds:.2f} s of audio; `duration` says {said:.2f} s"
    elif seconds > said + tolerance:
        yield "duration-mismatch", f"{seconds:.2f} s of audio; `duration` says {said:.2f} s"


def _active_seconds(samples: Wave, rate: int) -> Seconds:
    size = max(1, round(FRAME_SECONDS * rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(frames):
        return len(samples) / rate
    with np.errstate(invalid="ignore", over="ignore"):
        levels = np.sqrt(np.einsum("ij,ij->i", frames, frames) / size)
        active = np.flatnonzero(levels >= ACTIVE_LEVEL * levels.max())
    if not len(active):
        return len(samples) / rate
    bridged = int((np.minimum(np.diff(active), BRIDGED_FRAMES) - 1).sum())
    return (len(active) + bridged) * size / rate


def _content_sha256(samples: Wave) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(np.clip(np.nan_to_num(samples), -1.0, 1.0) * np.float32(32767.0))
    return hashlib.sha256(scaled.astype("<i2").tobytes()).hexdigest()
