"""Examples: prepared audio, read when it is needed, with its tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora.data.audio import wave_sha256
from lora.data.manifest import Utterance
from lora.data.wave_store import WaveStore
from lora.data.waves import Audio, LazyWave, load_wave, num_samples_of
from lora.errors import AudioError, ManifestError
from lora.model.load import Bundle
from lora.model.text import encode_texts
from lora.units import Seconds, Wave, seconds_of


@dataclass(frozen=True)
class Example:
    """One utterance, ready for the model; its audio is in memory, or read when it is needed."""

    id: str
    audio: Audio
    token_ids: tuple[int, ...]
    text: str
    speaker_id: int | str | None
    place: str = ""

    @property
    def wave(self) -> Wave:
        """The prepared waveform.

        Raises:
            AudioError: it cannot be decoded or used.
        """
        return load_wave(self.audio)

    @property
    def num_samples(self) -> int:
        """Length of the wave, without reading it."""
        return num_samples_of(self.audio)

    @property
    def seconds(self) -> Seconds:
        """Duration of the wave, without reading it."""
        return seconds_of(self.num_samples)

    @property
    def known_sha256(self) -> str | None:
        """`wave_sha256` of the wave; `None` where it was not read yet."""
        return self.audio.known_sha256 if isinstance(self.audio, LazyWave) else wave_sha256(self.audio)

    @property
    def audio_sha256(self) -> str:
        """`wave_sha256` of the wave, which is read where that is not known yet."""
        return self.known_sha256 or wave_sha256(self.wave)


def build_examples(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    waves: WaveStore,
    *,
    max_seconds: Seconds = math.inf,
    decode_all: bool = True,
) -> list[Example]:
    """Check audio and tokenize text.

    Args:
        max_seconds: longer clips are left out, whatever their text.
        decode_all: decode every clip now, so that its faults are known and its content too. Otherwise only where all
            fit into the memory of `waves`, and of the rest the headers are checked: what is wrong with their samples
            stops the run when they are used.

    Raises:
        ManifestError: every clip that cannot be used, and every text that the model cannot write, at once.
    """
    problems: dict[int, str] = {}
    lazy: dict[int, LazyWave] = {}
    for number, measured in enumerate(waves.measure(utterances)):
        if isinstance(measured, AudioError):
            problems[number] = measured.message
        elif seconds_of(measured.num_samples) <= max_seconds:
            lazy[number] = measured
    if decode_all or waves.fits(list(lazy.values())):
        faults = waves.decode(list(lazy.values()), "reading audio")
        problems |= {number: fault.message for number, fault in zip(lazy, faults, strict=True) if fault is not None}
    # An MP3's header may have been out by a little.
    kept = {number: wave for number, wave in lazy.items() if seconds_of(wave.num_samples) <= max_seconds}
    sound = [number for number in kept if number not in problems]
    texts = encode_texts(bundle, [(one.text, one.place or one.id) for one in map(utterances.__getitem__, sound)])
    examples: list[Example] = []
    for number, ids in zip(sound, texts, strict=True):
        if isinstance(ids, ManifestError):
            problems[number] = ids.message
        else:
            one = utterances[number]
            examples.append(Example(one.id, kept[number], tuple(ids), one.text, one.speaker_id, one.place))
    if problems:
        listed = [problems[number] for number in sorted(problems)]
        raise ManifestError(f"{len(problems)} fault(s) in {len(utterances)} utterances", listed)
    return examples
