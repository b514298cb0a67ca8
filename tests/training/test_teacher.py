"""Self-distillation: the base model's own outputs as targets on replay."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.batches import pad_waves
from lora.decoding import Recognizer
from lora.model.load import load_bundle
from lora.model.text import build_token_batch
from lora.training.examples import Example
from lora.training.objective import score_positions
from lora.training.teacher import TeacherOutput, distillation_loss, teach
from lora.units import Wave


def recognizer_of(folder: Path) -> Recognizer:
    return Recognizer(load_bundle(str(folder), torch.device("cpu")), PreprocessConfig(), DecodeSettings())


def examples_of(make_wave: Callable[[int, int], Wave]) -> list[Example]:
    return [
        Example("short", make_wave(6000, 1), (20, 30), "x", None),
        Example("long", make_wave(15000, 2), (40, 50, 60, 70), "y", None),
    ]


def test_the_divergence_of_two_known_distributions() -> None:
    teacher = TeacherOutput(torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]]).log())
    logits = torch.tensor([[0.5, 0.5]]).log()
    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(logits, [teacher]).item() == pytest.approx(wanted, abs=1e-6)


def test_tokens_beyond_the_likeliest_are_one_bucket() -> None:
    teacher = TeacherOutput(torch.tensor([[2]]), torch.tensor([[0.6]]).log())
    logits = torch.tensor([[0.1, 0.1, 0.5, 0.3]]).log()
    wanted = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    assert distillation_loss(logits, [teacher]).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("family", ["moonshine", "moonshine_streaming"])
def test_the_base_model_does_not_diverge_from_itself(
    checkpoints: dict[str, Path], family: str, make_wave: Callable[[int, int], Wave]
) -> None:
    recognizer = recognizer_of(checkpoints[family])
    examples = examples_of(make_wave)
    taught, outputs = teach(recognizer, examples, own_texts=False, advance=lambda count: None)
    assert taught == examples
    bundle = recognizer.bundle
    # One at a time here and as a batch there: exact padding makes them the same.
    for example in examples:
        audio, num_samples = pad_waves([example.wave])
        with torch.no_grad():
            encoded = bundle.family.encode(bundle.core, audio, num_samples)
            positions = score_positions(
                bundle.core, bundle.family, encoded, build_token_batch(bundle, [example.token_ids])
            )
        divergence = distillation_loss(positions.logits(), [outputs[example.id]])
        assert divergence.shape == (len(example.token_ids) + 1,)
        assert divergence.abs().max() < 1e-4


def test_own_texts_replace_the_transcripts(checkpoints: dict[str, Path], make_wave: Callable[[int, int], Wave]) -> None:
    recognizer = recognizer_of(checkpoints["moonshine"])
    examples = examples_of(make_wave)
    taught, outputs = teach(recognizer, examples, own_texts=True, advance=lambda count: None)
    transcripts = recognizer.transcribe([example.wave for example in examples])
    assert [example.token_ids for example in taught] == [transcript.token_ids for transcript in transcripts]
    assert [example.id for example in taught] == ["short", "long"]
    for example in taught:
        assert len(outputs[example.id].token_ids) == len(example.token_ids) + 1
