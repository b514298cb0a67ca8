"""Digit strings in synthetic voices and accents, optionally noisy or as over a telephone.

A voice is an accent and a timbre (`en-us+f3`). Splits share accents and never a timbre, so a model is
tested on speakers that it was not trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora.data.sources.base import Clip
from lora.data.sources.fsdd import DIGIT_WORDS
from lora.data.synthesis import ACCENTS, VARIANTS, VOICES, SpeechRequest, synthesize
from lora.data.transforms.band import telephone_band
from lora.data.transforms.noise import add_noise
from lora.errors import SourceError
from lora.units import SAMPLE_RATE_HZ, Wave

TEST_VARIANTS = ("m3", "m7", "f2", "f5", "caleb", "linda", "rob")
VALIDATION_VARIANTS = ("m5", "f4", "david", "steph")
VARIANTS_BY_SPLIT = {
    "train": tuple(name for name in VARIANTS if name not in TEST_VARIANTS + VALIDATION_VARIANTS),
    "validation": VALIDATION_VARIANTS,
    "test": TEST_VARIANTS,
}

SPOKEN_RATE_WPM = (120, 220)
SPOKEN_PITCH = (30, 75)
# A comma makes eSpeak NG pause and bend the pitch, as between groups of digits.
COMMA_PROBABILITY = 0.15
CLIPS_PER_PROCESS = 128

SyntheticSplit = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class _Sound:
    telephone: bool
    noise_snr_db: float | None


def voices_of(split: SyntheticSplit, voices: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the voices of a split, sorted.

    Args:
        voices: names such as `en-us+f3`, or accents such as `en-us` for all their voices in the split;
            every voice of the split unless given.

    Raises:
        SourceError: an unknown split, or a voice that is unknown or of another split.
    """
    if split not in VARIANTS_BY_SPLIT:
        raise SourceError(f"synthetic: unknown split {split!r}; expected one of {', '.join(VARIANTS_BY_SPLIT)}.")
    of_split = sorted(voice for voice in VOICES if voice.partition("+")[2] in VARIANTS_BY_SPLIT[split])
    if voices is None:
        return tuple(of_split)
    wrong = [name for name in voices if name not in of_split and name not in ACCENTS]
    if wrong or not voices:
        raise SourceError(
            f"synthetic: not in the {split} split: {', '.join(wrong) or 'an empty list'}; expected ACCENT or "
            f"ACCENT+TIMBRE, accents {', '.join(ACCENTS)}; timbres of this split {', '.join(VARIANTS_BY_SPLIT[split])}."
        )
    return tuple(voice for voice in of_split if voice in voices or voice.partition("+")[0] in voices)


def read_synthetic(
    *,
    samples: int,
    seed: int,
    split: SyntheticSplit,
    voices: Sequence[str] | None = None,
    min_digits: int = 3,
    max_digits: int = 7,
    telephone: bool = False,
    noise_snr_db: float | None = None,
) -> Iterator[Clip]:
    """Yield `samples` spoken digit strings, voices in turn, rate and pitch varied.

    The same arguments give the same clips on every run; a larger `samples` only adds to them.

    Args:
        voices: as `voices_of`.
        telephone: keep 300 to 3400 Hz only.
        noise_snr_db: add pink noise at this ratio, before the telephone band.

    Raises:
        SourceError: as `voices_of`, or a count out of range; at the call and not at the first clip.
        SetupError: eSpeak NG cannot be used.
    """
    if samples < 1:
        raise SourceError(f"synthetic: {samples} samples asked for; expected at least 1.")
    if not 1 <= min_digits <= max_digits:
        raise SourceError(
            f"synthetic: {min_digits} to {max_digits} digits asked for; expected 1 <= minimum <= maximum."
        )
    if seed < 0:
        raise SourceError(f"synthetic: seed is {seed}; expected 0 or more.")
    chosen = voices_of(split, voices)
    seeds = [seed, list(VARIANTS_BY_SPLIT).index(split)]
    order = np.random.default_rng(seeds).permutation(len(chosen))
    deck = [chosen[position] for position in order]
    return _speak(deck, samples, seeds, split, (min_digits, max_digits), _Sound(telephone, noise_snr_db))


def _speak(
    deck: list[str], samples: int, seed: list[int], split: str, digits: tuple[int, int], sound: _Sound
) -> Iterator[Clip]:
    for start in range(0, samples, CLIPS_PER_PROCESS):
        numbers = range(start, min(start + CLIPS_PER_PROCESS, samples))
        # One generator a clip: its words and noise do not depend on the clips before it.
        chances = [np.random.default_rng([*seed, number]) for number in numbers]
        plans = [_plan(deck[number % len(deck)], rng, digits) for number, rng in zip(numbers, chances, strict=True)]
        waves = synthesize([request for _, request in plans])
        for number, rng, (text, request), wave in zip(numbers, chances, plans, waves, strict=True):
            yield Clip(
                id=f"synth-{split}-{request.voice}-{number:04d}",
                wave=_color(wave, sound, rng),
                sampling_rate=SAMPLE_RATE_HZ,
                text=text,
                speaker_id=request.voice,
                extra={"rate_wpm": request.rate_wpm, "pitch": request.pitch},
            )


def _plan(voice: str, rng: np.random.Generator, digits: tuple[int, int]) -> tuple[str, SpeechRequest]:
    """Draw the words, and the request that speaks them."""
    count = int(rng.integers(digits[0], digits[1] + 1))
    words = [DIGIT_WORDS[digit] for digit in rng.integers(0, 10, size=count)]
    spoken = words[0]
    for word in words[1:]:
        spoken += (", " if rng.random() < COMMA_PROBABILITY else " ") + word
    rate = int(rng.integers(*SPOKEN_RATE_WPM, endpoint=True))
    pitch = int(rng.integers(*SPOKEN_PITCH, endpoint=True))
    return " ".join(words), SpeechRequest(spoken, voice, rate, pitch)


def _color(wave: Wave, sound: _Sound, rng: np.random.Generator) -> Wave:
    if sound.noise_snr_db is not None:
        wave = add_noise(wave, sound.noise_snr_db, rng, "pink")
    return telephone_band(wave) if sound.telephone else wave
