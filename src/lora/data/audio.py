"""The one path for audio: any input becomes mono float32 at 16 kHz at one level.

Training, evaluation, transcription and the voice app all call `prepare_wave`.
"""

import hashlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lora.config import PreprocessConfig
from lora.data.truncation import count_mp3_samples, cut_short
from lora.errors import AudioError
from lora.units import SAMPLE_RATE_HZ, Wave

MAX_DECODED_SECONDS = 3600.0
UNKNOWN_FRAMES = 2**62
"""libsndfile gives 2^63 - 1 for a FLAC that was written to a pipe."""
BLOCK_VALUES = 2**20
MAX_PEAK = 2.0**16
"""Twice what 16-bit integers written as floats reach; the level is brought to `target_rms` whatever it was."""
MAX_PEAK_OVER_REST = 100.0
FULL_SCALE_HEADROOM = 4.0
"""A float recording goes over full scale by a few decibels. Beyond that it is on another scale where the rest is loud
too; a few samples alone are damage, and would turn the clip down to silence."""
MAX_DECODED_VALUES = 3600 * 48_000
"""Samples of all channels together: 0.7 GB as float32. A FLAC of 729 KB can unfold to more."""


def decode_audio(data: bytes | Path, *, name: str) -> tuple[Wave, int]:
    """Decode WAV, FLAC, OGG or MP3 to mono float32 at its own rate.

    Several channels are averaged. At most `MAX_DECODED_SECONDS` are decoded: a small file can
    unfold to gigabytes.

    Raises:
        AudioError: the bytes are not audio, are truncated, or are longer than the limit.
    """
    with _opened(data, name) as file:
        samples, rate = _read_mono(file), file.samplerate
        # An MP3 header counts in frames of 1152 samples and may be out by one or two.
        slack = max(2 * 1152, 0.05 * file.frames) if file.format.startswith("MP") else 0
        if len(samples) < file.frames - slack:
            raise AudioError(f"{name}: truncated; {len(samples)} of {file.frames} samples are there. Replace it.")
    _refuse_cut(data, name)
    return samples, rate


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """What a file says of itself; `is_exact` is False for MP3, whose header may be out by a frame or two."""

    num_samples: int
    rate_hz: int
    is_exact: bool


def read_header(path: Path, *, name: str) -> AudioHeader:
    """Read a file's length and rate without decoding it.

    Raises:
        AudioError: as `decode_audio`, as far as it shows without decoding.
    """
    with _opened(path, name) as file:
        header = AudioHeader(file.frames, file.samplerate, not file.format.startswith("MP"))
    _refuse_cut(path, name)
    return header


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[soundfile.SoundFile]:
    """Open audio whose header is sound and whose length is within the limits."""
    try:
        with soundfile.SoundFile(_Memory(data) if isinstance(data, bytes) else os.fsencode(data)) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if file.frames >= UNKNOWN_FRAMES:
                raise AudioError(f"{name}: its header does not say how long it is. Encode the audio again.")
            if seconds > MAX_DECODED_SECONDS or file.frames * file.channels > MAX_DECODED_VALUES:
                raise AudioError(
                    f"{name}: {seconds:.0f} s of audio in {file.channels} channel(s) at {rate} Hz; at most "
                    f"{MAX_DECODED_SECONDS:.0f} s at 48000 Hz are decoded. Cut it into utterances."
                )
            if file.format.startswith("MP") and file.frames < 0.95 * (counted := count_mp3_samples(data)):
                raise AudioError(
                    f"{name}: its header does not say how long it is, and the decoder takes it for {seconds:.1f} s of "
                    f"{counted / rate:.1f}. Encode the audio again, for example as FLAC."
                )
            yield file
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(
            f"{name}: cannot be decoded as audio ({error}). Expected WAV, FLAC, OGG or MP3; replace or remove it."
        ) from error


def _refuse_cut(data: bytes | Path, name: str) -> None:
    sign = cut_short(data)
    if sign:
        raise AudioError(f"{name}: truncated; {sign}. Replace it, or encode it again.")


class _Memory(io.BytesIO):
    """Bytes that stay where they are when a damaged header says to seek before their start, as a file does."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _read_mono(file: soundfile.SoundFile) -> Wave:
    """Read all samples as the mean of the channels.

    In blocks, so that memory follows what is decoded: a header of a few bytes may announce a gigabyte.
    """
    blocks: list[Wave] = []
    left = file.frames
    frames = max(1, BLOCK_VALUES // file.channels)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite samples are found by `prepare_wave`
        while left > 0 and len(block := file.read(min(frames, left), dtype="float32", always_2d=True)):
            blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32))
            left -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def resample(samples: Wave, rate_hz: int) -> Wave:
    """Resample to 16 kHz with soxr at its highest quality; 16 kHz input is returned as it is."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    return np.asarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ"), dtype=np.float32)


def check_prepared_length(num_samples: int, rate_hz: int, config: PreprocessConfig, *, name: str) -> int:
    """Return how many samples `prepare_wave` makes of `num_samples` at `rate_hz`.

    Raises:
        AudioError: a rate below 1000 Hz, or audio shorter than `config.min_seconds`.
    """
    if rate_hz < 1000:
        raise AudioError(f"{name}: sampling rate {rate_hz} Hz; expected at least 1000 Hz.")
    seconds = num_samples / rate_hz
    if seconds < config.min_seconds:
        raise AudioError(f"{name}: {seconds:.3f} s of audio; expected at least {config.min_seconds} s. Remove it.")
    return math.floor(num_samples * SAMPLE_RATE_HZ / rate_hz + 0.5)


def prepare_wave(samples: Wave, rate_hz: int, config: PreprocessConfig, *, name: str) -> Wave:
    """Turn decoded samples into what the model hears: 16 kHz, at `config.target_rms`.

    Args:
        samples: mono float32, shape (samples,), at `rate_hz`.
        name: what an error message calls this audio, for example `train.jsonl:17`.

    Raises:
        AudioError: NaN, infinite or huge samples, silence, or audio shorter than `config.min_seconds`.
    """
    if samples.ndim != 1:
        raise AudioError(f"{name}: audio of shape {samples.shape}; expected one channel, shape (samples,).")
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        raise AudioError(f"{name}: {bad} of {len(samples)} samples are NaN or infinite. Re-export or remove it.")
    fault = peak_fault(samples)
    if fault:
        raise AudioError(f"{name}: {fault}. Repair the audio or remove it.")
    check_prepared_length(len(samples), rate_hz, config, name=name)
    wave = resample(samples, rate_hz)
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    if rms < 1e-5:
        raise AudioError(f"{name}: silence (RMS {rms:.1e} of full scale). Record it again or remove it.")
    gain = min(config.target_rms / rms, config.peak_limit / float(np.abs(wave).max()))
    return (wave * np.float32(gain)).astype(np.float32, copy=False)


def peak_fault(samples: Wave) -> str | None:
    """Return what is wrong with the largest of finite samples: too large for any audio, or far above all others."""
    sizes = np.abs(samples)
    peak = float(sizes.max(initial=0.0))
    if peak <= FULL_SCALE_HEADROOM:
        return None
    if peak > MAX_PEAK:
        return f"samples up to {peak:.3g}, too large to be audio; expected -1 to 1"
    rest = float(np.quantile(sizes, 0.999, method="lower"))
    if peak > MAX_PEAK_OVER_REST * rest:
        return f"a sample of {peak:.3g} where 999 of 1000 are below {rest:.3g}: a damaged one; expected -1 to 1"
    return None


def read_wave(path: Path, config: PreprocessConfig, *, name: str | None = None) -> Wave:
    """Read an audio file and prepare it.

    Raises:
        AudioError: the file is missing or `decode_audio` or `prepare_wave` refuse it.
    """
    name = name or str(path)
    if not path.is_file():
        raise AudioError(f"{name}: no such audio file. Check the path.")
    samples, rate = decode_audio(path, name=name)
    return prepare_wave(samples, rate, config, name=name)


def encode_flac(wave: Wave) -> bytes:
    """Encode 16 kHz mono audio as 16-bit FLAC; values beyond full scale are clipped by the format."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def wave_sha256(wave: Wave) -> str:
    """Return the content hash of a prepared waveform: the SHA-256 of its float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(wave, dtype="<f4").tobytes()).hexdigest()
