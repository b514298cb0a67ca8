"""Audio files of a source: how long they are by their header, and decoding one or a part of it."""

import io
import os
from pathlib import Path

import numpy as np
import soundfile

from lora.data.audio import decode_audio
from lora.errors import AudioError
from lora.units import Seconds, Wave

MAX_CLIP_SECONDS = 900.0
"""Longer audio is no utterance; decoded and resampled, several of an hour would not fit in memory."""
MAX_CLIP_FRAMES = 900 * 48_000

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
FOREIGN_SUFFIXES = (".m4a", ".aac", ".wma", ".mp4", ".webm", ".amr", ".3gp", ".mkv", ".mov", ".alac", ".ape")
"""Audio that libsndfile does not read: named in a fault, because passing over it would lose it."""


def audio_seconds(data: bytes | Path) -> Seconds:
    """Return the duration that the header says.

    Raises:
        AudioError: it is no audio. The message has no place.
    """
    try:
        info = soundfile.info(io.BytesIO(data) if isinstance(data, bytes) else os.fsencode(data))
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(
            f"cannot be decoded as audio ({error}). Expected WAV, FLAC, OGG or MP3; replace or remove it."
        ) from error
    return info.frames / info.samplerate


def decode_clip(
    data: bytes | Path, name: str, start_s: Seconds | None = None, seconds: Seconds | None = None
) -> tuple[Wave, int]:
    """Decode audio, or the part of it from `start_s` on, to mono samples at its own rate.

    Raises:
        AudioError: it cannot be decoded, is truncated, ends before the part does, or is longer than
            `MAX_CLIP_SECONDS`. The message starts with `name`.
    """
    try:
        wanted = audio_seconds(data) if seconds is None else seconds
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error
    if wanted > MAX_CLIP_SECONDS:
        raise AudioError(
            f"{name}: {wanted:.0f} s; a clip may have at most {MAX_CLIP_SECONDS:.0f} s. Cut it into utterances, or "
            "leave it out by --max-seconds."
        )
    if start_s is None:
        return decode_audio(data, name=name)
    return _decode_part(data, name, start_s, wanted)


def _decode_part(data: bytes | Path, name: str, start_s: Seconds, seconds: Seconds) -> tuple[Wave, int]:
    try:
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(data, bytes) else os.fsencode(data)) as audio:
            rate = audio.samplerate
            start, count = round(start_s * rate), round(seconds * rate)
            if count * audio.channels > 2 * MAX_CLIP_FRAMES:
                raise AudioError(f"{name}: {audio.channels} channels at {rate} Hz are too much audio for one clip.")
            audio.seek(min(start, audio.frames))
            samples = audio.read(count, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(f"{name}: cannot be decoded as audio ({error}). Replace or remove it.") from error
    # A duration in a table is rounded, so the last hundredth of a second may be missing.
    if len(samples) < count - 0.05 * rate:
        raise AudioError(f"{name}: ends {(count - len(samples)) / rate:.2f} s before the part does. Correct the row.")
    return np.asarray(samples, dtype=np.float32), rate
