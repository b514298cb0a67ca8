"""The builtin model on real human speech: batching changes nothing, and it reads its own speakers."""

from pathlib import Path

import pytest
import torch

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.audio import prepare_wave, read_wave
from lora.data.sources.fsdd import read_fsdd
from lora.decoding import Recognizer
from lora.evaluation.wer import count_word_errors, pool
from lora.model.load import load_bundle
from lora.units import Wave

SHARED = Path(__file__).resolve().parents[2] / "shared"
FSDD, LIBRIVOX = SHARED / "fsdd", SHARED / "librivox"
PREPROCESS = PreprocessConfig()

pytestmark = pytest.mark.skipif(not FSDD.is_dir(), reason=f"no real speech at {FSDD.name}/ beside the project")


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(load_bundle("builtin:digits", torch.device("cpu")), PREPROCESS, DecodeSettings())


def digit_clips(speakers: tuple[str, ...], samples: int, longest: int) -> list[tuple[Wave, str]]:
    clips = read_fsdd(FSDD, split="test", speakers=speakers, samples=samples, seed=11, min_digits=1, max_digits=longest)
    return [(prepare_wave(clip.wave, clip.sampling_rate, PREPROCESS, name=clip.id), clip.text) for clip in clips]


def test_a_hundred_real_utterances_of_mixed_length_are_the_same_batched_and_alone(recognizer: Recognizer) -> None:
    speakers = ("jackson", "nicolas", "theo", "yweweler")
    waves = [wave for wave, _ in digit_clips(speakers, 95, 12)]
    waves += [read_wave(path, PREPROCESS) for path in sorted(LIBRIVOX.glob("*.wav"))]
    assert len(waves) == 100
    assert max(map(len, waves)) > 10 * min(map(len, waves))

    batched = recognizer.transcribe(waves)
    alone = [recognizer.transcribe([wave])[0] for wave in waves]
    assert [row.text for row in batched] == [row.text for row in alone]

    encoded = recognizer.encode(waves)
    for row, wave in enumerate(waves):
        single = recognizer.encode([wave]).states[0]
        assert int(encoded.mask[row].sum()) == len(single)
        assert float((encoded.states[row, : len(single)] - single).abs().max()) < 1e-4


def test_the_builtin_model_reads_its_own_speakers_and_leaves_room_on_accents(recognizer: Recognizer) -> None:
    rates = []
    for speakers in (("jackson", "theo"), ("nicolas", "yweweler")):
        clips = digit_clips(speakers, 40, 7)
        texts = recognizer.transcribe([wave for wave, _ in clips])
        rates.append(pool(count_word_errors(ref, hyp.text) for (_, ref), hyp in zip(clips, texts, strict=True)).rate)
    own, accents = rates
    assert own is not None
    assert own < 0.03
    assert accents is not None
    assert accents > 0.2
