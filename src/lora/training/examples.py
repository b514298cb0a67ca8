"""Training examples: prepared audio with its tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora.config import PreprocessConfig
from lora.data.manifest import Utterance
from lora.errors import AudioError, ManifestError
from lora.model.load import Bundle
from lora.model.text import encode_text
from lora.units import Seconds, Wave, seconds_of


@dataclass(frozen=True)
class Example:
    """One utterance, ready for the model."""

    id: str
    wave: Wave
    token_ids: tuple[int, ...]
    text: str
    speaker_id: int | str | None


def build_examples(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    preprocess: PreprocessConfig,
    *,
    max_seconds: Seconds = math.inf,
) -> list[Example]:
    """Load audio and tokenize text.

    Args:
        max_seconds: longer clips are left out, whatever their text.

    Raises:
        ManifestError: every clip that cannot be used, and every text that the model cannot write, at once.
    """
    problems: list[str] = []
    examples: list[Example] = []
    for utterance in utterances:
        try:
            wave = utterance.load(preprocess)
            if seconds_of(len(wave)) > max_seconds:
                continue
            ids = encode_text(bundle, utterance.text, place=utterance.place or utterance.id)
            examples.append(Example(utterance.id, wave, tuple(ids), utterance.text, utterance.speaker_id))
        except (AudioError, ManifestError) as error:
            problems.append(error.message)
    if problems:
        raise ManifestError(f"{len(problems)} fault(s) in {len(utterances)} utterances", problems)
    return examples
