"""Where noise comes from: a folder of recordings, or the other voices of a manifest."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from lora.data.audio import decode_audio, resample
from lora.data.manifest import Utterance
from lora.errors import ConfigError
from lora.units import Wave

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
KEPT_IN_MEMORY = 64
MAX_TRIES = 1000


def load_natural(utterance: Utterance) -> Wave:
    """Return an utterance's audio at 16 kHz and at its own level.

    Raises:
        AudioError: the audio cannot be decoded.
    """
    samples, rate = utterance.decode()
    return resample(samples, rate)


class SoundFolder:
    """The audio files below a folder, in the order of their names; a few are kept in memory.

    Raises:
        ConfigError: the folder does not exist or holds no audio.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder. Give a folder of audio files.")
        self.files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not self.files:
            raise ConfigError(f"{path}: no audio files; expected {', '.join(SUFFIXES)}.")
        self.load: Callable[[int], Wave] = lru_cache(KEPT_IN_MEMORY)(self._load)

    def draw(self, rng: np.random.Generator) -> tuple[Wave, str]:
        """Return one sound at 16 kHz, and its name for messages."""
        number = int(rng.integers(len(self.files)))
        return self.load(number), str(self.files[number])

    def _load(self, number: int) -> Wave:
        return resample(*decode_audio(self.files[number], name=str(self.files[number])))


class VoicePool:
    """The voices of babble: utterances of other speakers, or other utterances where there is one speaker."""

    def __init__(self, utterances: Sequence[Utterance], load: Callable[[Utterance], Wave] = load_natural) -> None:
        # By id: the draw depends on the seed and not on the order of the rows.
        self._utterances = sorted(utterances, key=lambda utterance: utterance.id)
        self._speakers = {utterance.id: str(utterance.speaker_id) for utterance in utterances}
        self._by_speaker = len(set(self._speakers.values())) > 1
        self.load: Callable[[int], Wave] = lru_cache(KEPT_IN_MEMORY)(lambda number: load(self._utterances[number]))

    def draw(self, count: int, besides: str, rng: np.random.Generator) -> list[Wave]:
        """Return `count` voices that are not the speaker of utterance `besides`.

        Raises:
            ConfigError: there is no other voice.
        """
        voices: list[Wave] = []
        for _ in range(MAX_TRIES):
            number = int(rng.integers(len(self._utterances)))
            if self._is_other(self._utterances[number].id, besides):
                voices.append(self.load(number))
            if len(voices) == count:
                return voices
        raise ConfigError(f"noise:babble: no other voice than that of {besides!r}. Add speakers, or use noise:pink.")

    def _is_other(self, identifier: str, besides: str) -> bool:
        if self._by_speaker and besides in self._speakers:
            return self._speakers[identifier] != self._speakers[besides]
        return identifier != besides
