"""Out of memory is recognised on every device; evaluation and the alignment check go on in smaller batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.manifest import read_manifest
from lora.data.sources.base import Clip
from lora.decoding import Recognizer
from lora.errors import SetupError
from lora.evaluation.score import load_evaluation_set, score_set
from lora.memory import attempt, is_out_of_memory, random_state, restore_random_state
from lora.model.families import EncoderStates
from lora.model.load import Bundle
from lora.model.text import encode_text
from lora.training.alignment import check_alignment
from lora.training.examples import Example
from lora.training.objective import aligned_objective
from lora.units import Wave

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB, max allowed: 9.07 GB)."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("MPS backend out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_the_cpu_allocator_really_raises_is_recognised() -> None:
    assert attempt(lambda: torch.empty(1 << 60, dtype=torch.uint8), CPU) is None
    assert attempt(lambda: 7, CPU) == 7


def test_an_attempt_lets_go_of_what_it_had(make_wave: Callable[[int, int], Wave]) -> None:
    import weakref

    held: list[weakref.ref[Any]] = []

    def work() -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError(f"no room beside {len(tensor)}")

    assert attempt(work, CPU) is None
    assert held[0]() is None


def test_work_done_again_draws_the_same() -> None:
    state = random_state(CPU)
    first = torch.rand(3)
    restore_random_state(CPU, state)
    assert torch.equal(torch.rand(3), first)


class SmallMemory:
    """A family's encoder on a machine with room for this many padded samples."""

    def __init__(self, family: Any, room: int) -> None:
        self._family = family
        self.room = room
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def encode(self, core: Any, audio: torch.Tensor, num_samples: torch.Tensor, **options: Any) -> EncoderStates:
        if audio.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes.append(len(audio))
        states: EncoderStates = self._family.encode(core, audio, num_samples, **options)
        return states


def recognizer_of(bundle: Bundle, room: int) -> tuple[Recognizer, SmallMemory]:
    family = SmallMemory(bundle.family, room)
    return Recognizer(replace(bundle, family=family), PreprocessConfig(), DecodeSettings()), family  # type: ignore[arg-type]


def test_evaluation_that_runs_out_of_memory_scores_the_same_in_smaller_batches(
    toy_bundle: Bundle, write_toy_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = read_manifest(write_toy_manifest(tmp_path / "set.jsonl", count=12, seed=8))
    plenty = Recognizer(toy_bundle, PreprocessConfig(), DecodeSettings())
    evaluation_set = load_evaluation_set("set", manifest, plenty)
    expected = score_set(plenty, evaluation_set, lambda count: None)
    recognizer, family = recognizer_of(toy_bundle, 4 * 16_000)
    advanced: list[int] = []
    found = score_set(recognizer, evaluation_set, advanced.append)
    assert sum(advanced) == sum(family.sizes) == 12
    assert 1 < max(family.sizes) < 12
    assert recognizer.batch_seconds <= 4.0
    assert [row.hypothesis for row in found.utterances] == [row.hypothesis for row in expected.utterances]
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_transcription_goes_on_in_smaller_batches_in_the_order_of_the_waves(
    toy_bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    waves = [make_wave(8_000 + 1_000 * number, number) for number in range(6)]
    expected = Recognizer(toy_bundle, PreprocessConfig(), DecodeSettings()).transcribe(waves)
    recognizer, family = recognizer_of(toy_bundle, 30_000)
    assert [row.text for row in recognizer.transcribe(waves)] == [row.text for row in expected]
    assert sum(family.sizes) == 6


def test_an_utterance_that_does_not_fit_alone_is_an_error_that_says_what_to_do(toy_bundle: Bundle) -> None:
    recognizer, _ = recognizer_of(toy_bundle, 1)
    with pytest.raises(SetupError, match=r"an utterance of 2\.0 s alone does not fit .*--precision bf16"):
        recognizer.transcribe([np.zeros(32_000, dtype=np.float32), np.zeros(16_000, dtype=np.float32)])


def clips_of(bundle: Bundle, make_clip: Callable[..., Clip]) -> list[Example]:
    clips = [make_clip(number, seed=7) for number in range(8)]
    return [
        Example(clip.id, clip.wave, tuple(encode_text(bundle, clip.text, place=clip.id)), clip.text, None)
        for clip in clips
    ]


def test_the_alignment_check_that_runs_out_of_memory_finds_the_same_in_smaller_batches(
    toy_bundle: Bundle, make_clip: Callable[..., Clip]
) -> None:
    examples = clips_of(toy_bundle, make_clip)
    plenty = Recognizer(toy_bundle, PreprocessConfig(), DecodeSettings())
    expected = check_alignment(plenty, examples, aligned_objective, baseline_wer=0.3)
    recognizer, family = recognizer_of(toy_bundle, 2 * 16_000)
    found = check_alignment(recognizer, examples, aligned_objective, baseline_wer=0.3)
    assert sum(family.sizes) == 8
    assert max(family.sizes) < 8
    assert (found.passed, found.clips) == (True, 8)
    for name in ("objective_loss", "aligned_loss", "misaligned_loss", "uniform_loss"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)


def test_a_clip_of_the_alignment_check_that_does_not_fit_alone_is_the_same_error(
    toy_bundle: Bundle, make_clip: Callable[..., Clip]
) -> None:
    recognizer, _ = recognizer_of(toy_bundle, 1)
    with pytest.raises(SetupError, match=r"an utterance of .* s alone does not fit .*--precision bf16"):
        check_alignment(recognizer, clips_of(toy_bundle, make_clip), aligned_objective, baseline_wer=0.3)
