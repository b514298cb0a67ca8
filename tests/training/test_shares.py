"""A step that runs out of memory, or keeps less of it, is the same step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lora.config import ExperimentConfig
from lora.data.sources.base import Clip
from lora.errors import SetupError
from lora.model.adapters import AdapterConfig, trainable_state
from lora.model.families import EncoderStates, Family
from lora.model.load import load_bundle
from lora.model.methods import start_adaptation
from lora.model.text import TokenBatch, encode_text
from lora.training.examples import Example
from lora.training.loop import Evaluation, Trainer, TrainingConfig, TrainingData
from lora.training.objective import Objective, aligned_objective
from lora.training.shares import split_pieces
from lora.units import JsonObject

DEFAULTS = ExperimentConfig(
    output_dir=Path("out"), dataset_path=Path("a"), manifest_path=Path("b"), guardrail_manifest=[Path("c")]
)
CONFIG = TrainingConfig(**{name: getattr(DEFAULTS, name) for name in TrainingConfig.__dataclass_fields__})
CONFIG = replace(CONFIG, replay_ratio=0.5)
CONFIG = replace(CONFIG, max_steps=3, learning_rate=3e-3, batch_seconds=100.0, eval_interval=3, flat_sigma=0.05, seed=1)
CPU = torch.device("cpu")
LIMIT = 3
"""Utterances that fit into the memory of the machine that these tests pretend to have."""


def small_memory(core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
    """The objective on a machine that fails after the random draws of a batch that is too large."""
    losses = aligned_objective(core, family, encoded, targets)
    if len(targets.labels) > LIMIT:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return losses


def no_memory(core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> list[Clip]:
    return [make_clip(number, seed=5) for number in range(16)]


def train(
    folder: Path, clips: list[Clip], objective: Objective = aligned_objective, **changes: Any
) -> tuple[dict[str, Tensor], list[JsonObject]]:
    """Train from the checkpoint; return the trained weights and the history."""
    bundle = load_bundle(str(folder), CPU)
    torch.manual_seed(1)
    adaptation = start_adaptation(bundle, AdapterConfig("lora", 4, 8.0, 0.1, "all-linear"), seed=1)
    trainer = Trainer(adaptation, objective, replace(CONFIG, **changes), Accelerator(cpu=True), None)
    examples = [
        Example(clip.id, clip.wave, tuple(encode_text(bundle, clip.text, place=clip.id)), clip.text, None)
        for clip in clips
    ]
    rows: list[JsonObject] = []
    # Each evaluation is better than the one before, so that the last state is kept.
    trainer.train(TrainingData(examples[:10], examples[10:]), lambda s: Evaluation((-s,), 0.5, {}), rows.append)
    return trainable_state(trainer.model), [row for row in rows if "loss" in row]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_running_out_of_memory_gives_the_adapter_of_more_pieces_from_the_start(
    toy_checkpoint: Path, clips: list[Clip]
) -> None:
    """To the bit, dropout and weight perturbation included."""
    halved, rows = train(toy_checkpoint, clips, small_memory)
    assert [row.pop("out_of_memory", None) for row in rows] == [{"gradient_accumulation": 4}, None, None]
    planned, planned_rows = train(toy_checkpoint, clips, gradient_accumulation=4)
    assert_same(halved, planned)
    assert rows == planned_rows
    whole, _ = train(toy_checkpoint, clips)
    assert not all(torch.equal(value, whole[name]) for name, value in halved.items())


def test_what_was_computed_before_memory_ran_out_in_a_later_piece_is_not_counted_twice(
    toy_checkpoint: Path, clips: list[Clip]
) -> None:
    calls = 0

    def full_at_the_second_piece(core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return aligned_objective(core, family, encoded, targets)

    options = {"max_steps": 1, "eval_interval": 1}
    found, [row] = train(toy_checkpoint, clips, full_at_the_second_piece, gradient_accumulation=2, **options)
    wanted, [wanted_row] = train(toy_checkpoint, clips, gradient_accumulation=4, **options)
    assert row.pop("out_of_memory") == {"gradient_accumulation": 4}
    assert row == wanted_row
    assert_same(found, wanted)


def test_one_utterance_that_does_not_fit_alone_stops_the_run_and_says_what_to_lower(
    toy_checkpoint: Path, clips: list[Clip]
) -> None:
    with pytest.raises(
        SetupError, match=r"step 1: one utterance at a time .* is toy-5-\d+, .*--gradient-checkpointing"
    ):
        train(toy_checkpoint, clips, no_memory)


def test_another_error_of_a_step_is_not_taken_for_a_lack_of_memory(toy_checkpoint: Path, clips: list[Clip]) -> None:
    def broken(*args: Any) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        train(toy_checkpoint, clips, broken)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [7]), (2, [4, 3]), (4, [2, 2, 2, 1]), (5, [2, 2, 2, 1]), (9, [1] * 7)]
)
def test_pieces_are_whole_and_none_is_empty(count: int, sizes: list[int]) -> None:
    examples = [Example(str(number), None, (), "", None) for number in range(7)]  # type: ignore[arg-type]
    pieces = list(split_pieces(examples, count))
    assert [len(piece) for piece in pieces] == sizes
    assert [example for piece in pieces for example in piece] == examples


@contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    """Count the bytes that the forward passes inside keep for their backward passes."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes() if not isinstance(tensor, torch.nn.Parameter) else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def test_gradient_checkpointing_gives_the_same_weights_from_less_memory(
    family_name: str, checkpoints: dict[str, Path], clips: list[Clip]
) -> None:
    with kept_for_backward() as plain_bytes:
        plain, plain_rows = train(checkpoints[family_name], clips)
    with kept_for_backward() as fewer_bytes:
        fewer, fewer_rows = train(checkpoints[family_name], clips, gradient_checkpointing=True)
    assert_same(plain, fewer)
    assert plain_rows == fewer_rows
    assert sum(fewer_bytes) < sum(plain_bytes) / 2


# Tracing looks at every tensor's gradient, and PyTorch warns of that.
@pytest.mark.parametrize(
    "family_name", ["moonshine", pytest.param("moonshine_streaming", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_layers_give_the_same_weights(
    family_name: str, checkpoints: dict[str, Path], clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced as for a GPU, without the minute that generating code takes.
    monkeypatch.setattr("lora.training.compiling.BACKEND", "eager")
    plain, plain_rows = train(checkpoints[family_name], clips)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled, compiled_rows = train(checkpoints[family_name], clips, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    for name, values in plain.items():
        torch.testing.assert_close(compiled[name], values, rtol=0, atol=1e-5)
    assert [row["loss"] for row in compiled_rows if "loss" in row] == pytest.approx(
        [row["loss"] for row in plain_rows if "loss" in row], abs=1e-5
    )
