"""A recording is known again at another rate, level and format; two takes of one word are two recordings."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import soundfile
import soxr

from lora.config import PreprocessConfig
from lora.data.audio import decode_audio, prepare_wave, wave_sha256
from lora.data.fingerprint import (
    ALIKE,
    LENGTH_TOLERANCE_SAMPLES,
    SAME,
    SKETCH_BYTES,
    Recording,
    correlate_waves,
    group_recordings,
    sketch_wave,
)
from lora.data.synthesis import SpeechRequest, synthesize
from lora.units import SAMPLE_RATE_HZ, Wave

WORDS = ("zero", "three", "seven", "nine")


def prepared(samples: Wave, rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    return prepare_wave(samples, rate_hz, PreprocessConfig(), name="clip")


@pytest.fixture(scope="module")
def spoken() -> list[Wave]:
    """Four words and a sentence in four voices of one accent, at three pitches."""
    texts = (*WORDS, "seven three zero nine eight")
    requests = [
        SpeechRequest(text, f"en-us+{variant}", pitch=pitch)
        for text in texts
        for variant in ("m1", "m2", "f1", "f3")
        for pitch in (48, 50, 52)
    ]
    return [prepared(wave) for wave in synthesize(requests)]


def recordings_of(waves: Sequence[Wave]) -> list[Recording]:
    return [Recording(wave_sha256(wave), len(wave), sketch_wave(wave), lambda wave=wave: wave) for wave in waves]  # type: ignore[misc]


def written(wave: Wave, rate_hz: int, **format: str) -> Wave:
    buffer = io.BytesIO()
    soundfile.write(buffer, soxr.resample(wave, SAMPLE_RATE_HZ, rate_hz), rate_hz, **format)
    return prepared(*decode_audio(buffer.getvalue(), name="copy"))


def dithered(wave: Wave) -> Wave:
    noise = np.random.default_rng(0).triangular(-1, 0, 1, len(wave))
    return prepared((np.rint(wave * 2**11 + noise) / 2**11).astype(np.float32))


COPIES: dict[str, Callable[[Wave], Wave]] = {
    "48 kHz": lambda wave: written(wave, 48_000, format="WAV", subtype="PCM_24"),
    "44.1 kHz": lambda wave: written(wave, 44_100, format="FLAC", subtype="PCM_16"),
    "mu-law": lambda wave: written(wave, 8_000, format="WAV", subtype="ULAW"),
    "soft": lambda wave: written(0.05 * wave, 16_000, format="FLAC", subtype="PCM_16"),
    "dither": dithered,
    "MP3": lambda wave: written(wave, 16_000, format="MP3"),
    "Vorbis": lambda wave: written(wave, 16_000, format="OGG", subtype="VORBIS"),
    "upside down": lambda wave: -wave,
    "7 samples less": lambda wave: prepared(wave[7:]),
    "13 samples more": lambda wave: prepared(np.pad(wave, (13, 0))),
    "10 ms of silence at each end": lambda wave: prepared(np.pad(wave, (160, 160))),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_known_again_among_all_clips(kind: str, spoken: list[Wave]) -> None:
    copies = [COPIES[kind](wave) for wave in spoken[::5]]
    groups = group_recordings(recordings_of([*spoken, *copies]))
    assert groups[len(spoken) :] == list(range(0, len(spoken), 5))


def test_takes_that_sound_alike_are_different_recordings(spoken: list[Wave]) -> None:
    """The same word in the same voice, a little higher: the sketches are alike, and the waves are not."""
    sketches = np.stack([np.frombuffer(sketch_wave(wave), np.int8).astype(float) for wave in spoken])
    sketches /= np.linalg.norm(sketches, axis=1, keepdims=True)
    assert np.count_nonzero(np.triu(sketches @ sketches.T, 1) >= ALIKE) > 10
    assert group_recordings(recordings_of(spoken)) == list(range(len(spoken)))


def test_only_clips_that_look_alike_are_read_again(spoken: list[Wave]) -> None:
    read: list[int] = []

    def reading(number: int) -> Callable[[], Wave]:
        def load() -> Wave:
            read.append(number)
            return clips[number]

        return load

    clips = [*spoken[::3], written(spoken[0], 48_000, format="WAV")]
    known = recordings_of(clips)
    once = [Recording(one.sha256, one.num_samples, one.sketch, reading(number)) for number, one in enumerate(known)]
    assert group_recordings(once)[-1] == 0
    assert {0, len(clips) - 1} <= set(read)
    assert len(read) < len(clips)


def test_one_side_is_compared_by_its_hashes_alone(spoken: list[Wave]) -> None:
    copy = written(spoken[0], 48_000, format="WAV")
    recordings = recordings_of([spoken[0], copy, copy])
    assert group_recordings(recordings, [0, 0, 0]) == [0, 1, 1]
    assert group_recordings(recordings, [0, 0, 1]) == [0, 0, 0]


def test_what_was_not_read_is_in_no_group(spoken: list[Wave]) -> None:
    (recording,) = recordings_of(spoken[:1])
    assert group_recordings([None, recording, None]) == [None, 1, None]
    assert group_recordings([]) == []


def test_clips_of_other_lengths_are_not_compared(spoken: list[Wave]) -> None:
    longer = np.pad(spoken[0], (0, LENGTH_TOLERANCE_SAMPLES + 1))
    alike, other = recordings_of([spoken[0], longer])
    same_sketch = Recording(other.sha256, other.num_samples, alike.sketch, other.load)
    assert group_recordings([alike, same_sketch]) == [0, 1]


@pytest.mark.parametrize(
    "wave", [np.zeros(4000), np.full(10, 1e20), np.full(4000, 0.5)], ids=["zeros", "huge", "still"]
)
def test_waves_without_speech_have_a_sketch_and_no_likeness(wave: Wave) -> None:
    wave = wave.astype(np.float32)
    assert len(sketch_wave(wave)) == SKETCH_BYTES
    assert correlate_waves(wave, wave) in (0.0, pytest.approx(1.0))


def test_a_loud_click_in_common_is_not_the_whole(spoken: list[Wave]) -> None:
    """As in spliced clips that share one loud word: nearly all of the energy, and little of the time."""
    one, other = (0.25 * wave for wave in spoken[:12:6])
    length = min(len(one), len(other))
    click = np.zeros(length, np.float32)
    click[1000:1400] = np.random.default_rng(0).uniform(-0.9, 0.9, 400)
    assert np.corrcoef(one[:length] + click, other[:length] + click)[0, 1] > 0.97
    assert correlate_waves(one[:length] + click, other[:length] + click) < SAME


def test_the_correlation_forgives_level_and_offset_and_nothing_else(spoken: list[Wave]) -> None:
    wave, rng = spoken[0], np.random.default_rng(0)
    assert correlate_waves(wave, -0.01 * np.pad(wave, (100, 0))) == pytest.approx(1.0, abs=1e-3)
    assert correlate_waves(wave, wave[::-1].copy()) < SAME
    noisy = wave + 0.075 * rng.standard_normal(len(wave)).astype(np.float32)
    assert correlate_waves(wave, noisy) < SAME
