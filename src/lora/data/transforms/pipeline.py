"""Transforms applied to waveforms, the same for the same seed, epoch and utterance id.

Every transform of every utterance has a generator of its own, made of (seed, epoch, place in the list,
utterance id): nothing depends on the order of the work, on the number of workers or on global state.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora.config import PreprocessConfig
from lora.data.transforms.band import RADIO_BAND_HZ, band, clip, mu_law, telephone_band
from lora.data.transforms.drop import drop_chunks, drop_frequencies
from lora.data.transforms.noise import add_noise, babble, fill, mix
from lora.data.transforms.reverb import align_impulse, draw_room, reverberate, room_impulse
from lora.data.transforms.signal import gain, match_level
from lora.data.transforms.sounds import SoundFolder, VoicePool
from lora.data.transforms.spec import KINDS, Transform, parse_transforms
from lora.data.transforms.tempo import pitch, speed
from lora.errors import ConfigError
from lora.units import Wave


def rng_for(seed: int, epoch: int, utterance_id: str, position: int = 0) -> np.random.Generator:
    """Return the generator of one transform of one utterance in one epoch."""
    key = json.dumps([seed, epoch, utterance_id, position]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))


class Pipeline:
    """A list of transforms, ready to apply: folders are read, values still drawn for each utterance.

    Args:
        voices: what `noise:babble` is made of.

    Raises:
        ConfigError: a text that `parse_transforms` refuses, an empty folder, or babble without voices.
    """

    def __init__(self, transforms: Iterable[Transform | str], *, seed: int, voices: VoicePool | None = None) -> None:
        self.transforms = parse_transforms(map(str, transforms))
        self.seed = seed
        self._voices = voices
        if voices is None and any(transform.kind == "noise:babble" for transform in self.transforms):
            raise ConfigError("noise:babble: no voices to make it of; expected the utterances of a manifest.")
        paths = {transform.path for transform in self.transforms if transform.path is not None}
        self._folders = {path: SoundFolder(path) for path in sorted(paths)}

    def apply(self, wave: Wave, *, epoch: int, utterance_id: str) -> Wave:
        """Return the transformed waveform; `wave` is left as it is."""
        return self.apply_range(wave, range(len(self.transforms)), epoch=epoch, utterance_id=utterance_id)

    def apply_range(self, wave: Wave, positions: range, *, epoch: int, utterance_id: str) -> Wave:
        """Apply only the transforms at `positions`; each draws what it draws in the whole list."""
        for position in positions:
            transform = self.transforms[position]
            rng = rng_for(self.seed, epoch, utterance_id, position)
            often = dict(transform.ranges).get("p", (1.0, 1.0))[0]
            if often < 1 and rng.random() >= often:
                continue
            job = _Job(transform, rng, utterance_id, self._voices, self._folders.get(transform.path or Path()))
            wave = _APPLY[transform.kind](wave, job)
        return wave


class Augmenter:
    """Training augmentation: a pipeline whose result is at the level of its input.

    The model hears every utterance at one level, so noise must not make one louder in training than it would be
    in use. A `level` at the end of the list comes after that.
    """

    def __init__(
        self,
        spec: Sequence[Transform | str],
        seed: int,
        *,
        voices: VoicePool | None = None,
        peak_limit: float = PreprocessConfig.peak_limit,
    ) -> None:
        pipeline = Pipeline(spec, seed=seed, voices=voices)
        count = len(pipeline.transforms)
        while count and pipeline.transforms[count - 1].kind == "level":
            count -= 1
        self.pipeline = pipeline
        self._last = range(count, len(pipeline.transforms))
        self._peak_limit = peak_limit

    def augment(self, wave: Wave, *, epoch: int, utterance_id: str) -> Wave:
        """Return the waveform that training hears in `epoch`; it may be of another length.

        Raises:
            AudioError: `wave` is silent.
        """
        out = self.pipeline.apply_range(wave, range(self._last.start), epoch=epoch, utterance_id=utterance_id)
        if out is not wave:
            out = match_level(out, wave, peak_limit=self._peak_limit)
        return self.pipeline.apply_range(out, self._last, epoch=epoch, utterance_id=utterance_id)


@dataclass(frozen=True)
class _Job:
    """One transform at work on one utterance."""

    transform: Transform
    rng: np.random.Generator
    utterance_id: str
    voices: VoicePool | None
    folder: SoundFolder | None

    def draw(self, name: str) -> float:
        low, high = self.transform.range_of(name)
        return low if low == high else float(self.rng.uniform(low, high))

    def draw_whole(self, name: str) -> int:
        low, high = self.transform.range_of(name)
        return int(self.rng.integers(int(low), int(high) + 1))

    @property
    def sounds(self) -> SoundFolder:
        assert self.folder is not None  # Pipeline opens the folder of every path
        return self.folder


def _add_babble(wave: Wave, job: _Job) -> Wave:
    assert job.voices is not None  # checked by Pipeline
    voices = job.voices.draw(job.draw_whole("voices"), job.utterance_id, job.rng)
    return mix(wave, babble(voices, len(wave), job.rng), job.draw("snr"))


def _add_recorded(wave: Wave, job: _Job) -> Wave:
    noise, _ = job.sounds.draw(job.rng)
    return mix(wave, fill(noise, len(wave), job.rng), job.draw("snr"))


def _in_room(wave: Wave, job: _Job) -> Wave:
    room = draw_room(job.draw("distance"), job.rng)
    return reverberate(wave, room_impulse(room, job.draw("rt60")))


def _in_recorded_room(wave: Wave, job: _Job) -> Wave:
    return reverberate(wave, align_impulse(*job.sounds.draw(job.rng)))


_APPLY: dict[str, Callable[[Wave, _Job], Wave]] = {
    "noise:white": lambda wave, job: add_noise(wave, job.draw("snr"), job.rng, "white"),
    "noise:pink": lambda wave, job: add_noise(wave, job.draw("snr"), job.rng, "pink"),
    "noise:babble": _add_babble,
    "noise:folder": _add_recorded,
    "telephone": lambda wave, job: telephone_band(wave),
    "radio": lambda wave, job: band(wave, *RADIO_BAND_HZ),
    "band": lambda wave, job: band(wave, job.draw("low"), job.draw("high")),
    "mulaw": lambda wave, job: mu_law(wave, bits=job.draw_whole("bits")),
    "reverb": _in_room,
    "reverb:folder": _in_recorded_room,
    "speed": lambda wave, job: speed(wave, job.draw("factor")),
    "pitch": lambda wave, job: pitch(wave, job.draw("semitones")),
    "clip": lambda wave, job: clip(wave, job.draw("overdrive")),
    "level": lambda wave, job: gain(wave, job.draw("decibels")),
    "drop-freq": lambda wave, job: drop_frequencies(wave, job.draw_whole("count"), job.draw("width"), job.rng),
    "drop-chunk": lambda wave, job: drop_chunks(wave, job.draw_whole("count"), job.transform.range_of("ms"), job.rng),
}
assert _APPLY.keys() == KINDS.keys()
