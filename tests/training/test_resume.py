"""Training that was stopped and went on ends with the bits of training that was not."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lora import signals
from lora.config import ExperimentConfig
from lora.data.sources.base import Clip
from lora.errors import InputError
from lora.files import LITTER
from lora.memory import attempt
from lora.model.adapters import AdapterConfig, trainable_state
from lora.model.load import load_bundle
from lora.model.methods import start_adaptation
from lora.model.text import encode_text
from lora.training import shares
from lora.training.checkpoints import HASHES, TENSORS, Checkpoints, Interval, steps_in
from lora.training.examples import Example
from lora.training.loop import Evaluation, Trainer, TrainingConfig, TrainingData, TrainingResult
from lora.training.objective import aligned_objective
from lora.training.teacher import TeacherOutput
from lora.units import JsonObject, Wave

DEFAULTS = ExperimentConfig(
    output_dir=Path("out"), dataset_path=Path("a"), manifest_path=Path("b"), guardrail_manifest=[Path("c")]
)
CONFIG = replace(
    TrainingConfig(**{name: getattr(DEFAULTS, name) for name in TrainingConfig.__dataclass_fields__}),
    max_steps=7,
    eval_interval=3,
    batch_seconds=4.0,
    learning_rate=3e-3,
    seed=1,
)
ADAPTER = AdapterConfig("lora", rank=4, alpha=8.0, dropout=0.1, targets="all-linear")
WERS = {0: 0.5, 3: 0.3, 6: 0.4, 7: 0.35}


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> list[Clip]:
    return [make_clip(number, seed=3) for number in range(16)]


class Job:
    """One training run that can be stopped and started again, each time with a new model and trainer."""

    def __init__(
        self,
        checkpoint: Path,
        clips: Sequence[Clip],
        folder: Path,
        config: TrainingConfig = CONFIG,
        adapter: AdapterConfig = ADAPTER,
        *,
        precision: str = "no",
        augment: bool = False,
        interval: str = "1000",
    ) -> None:
        self.checkpoint, self.clips, self.folder = checkpoint, clips, folder
        self.config, self.adapter, self.precision, self.augment = config, adapter, precision, augment
        self.interval = Interval.parse(interval)
        self.rows: list[JsonObject] = []
        self.told: list[str] = []
        self.stop_at: float | None = None

    def start(self) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        bundle = load_bundle(str(self.checkpoint), torch.device("cpu"))
        examples = [
            Example(clip.id, clip.wave, tuple(encode_text(bundle, clip.text, place="")), clip.text, clip.speaker_id)
            for clip in self.clips
        ]
        torch.manual_seed(5)
        adaptation = start_adaptation(bundle, self.adapter, seed=1)
        AcceleratorState._reset_state()  # an earlier test may have had another precision
        accelerator = Accelerator(cpu=True, mixed_precision=self.precision)
        augment = self.louder if self.augment else None
        trainer = Trainer(adaptation, aligned_objective, self.config, accelerator, None, augment)
        replay = examples[10:] if self.config.replay_ratio else []
        teachers = {example.id: teacher_of(example, bundle.core.config.vocab_size) for example in replay}
        data = TrainingData(examples[:10], replay, teachers if self.config.distillation_weight else {})
        self.folder.mkdir(exist_ok=True)
        result = trainer.train(
            data, self.evaluate, self.record, Checkpoints(self.folder, self.interval, self.told.append)
        )
        return result, trainable_state(trainer.model)

    @staticmethod
    def louder(wave: Wave, epoch: int, identifier: str) -> Wave:
        return (wave * np.float32(1 + 0.1 * epoch)).astype(np.float32)

    def evaluate(self, step: int) -> Evaluation:
        if self.stop_at == step + 0.5:
            self.interrupt()
        return Evaluation((WERS[step], 0.1), WERS[step], {"validation_wer": WERS[step]})

    def record(self, row: JsonObject) -> None:
        self.rows.append(row)
        if "loss" in row and row["step"] == self.stop_at:
            self.interrupt()

    def interrupt(self) -> None:
        self.stop_at = None
        os.kill(os.getpid(), signal.SIGTERM)

    def run(self, stops: Sequence[float]) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        """Train, stopped after each of `stops`; a half is in the middle of that step's evaluation."""
        for stop in stops:
            self.stop_at = stop
            with pytest.raises(signals.Stopped, match="--resume") as stopped, signals.handled():
                self.start()
            assert stopped.value.exit_code == 143
            assert steps_in(self.folder)[-1].name == f"step-{int(stop):08d}"
        return self.start()


def teacher_of(example: Example, vocabulary: int) -> TeacherOutput:
    """Return a made-up teacher: each token of the text and its neighbour."""
    tokens = torch.tensor([*example.token_ids, 2]).unsqueeze(1)
    indices = torch.cat([tokens, (tokens + 1) % vocabulary], dim=1)
    return TeacherOutput(indices, torch.full(indices.shape, 0.45).log())


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "flat-lora": {"config": replace(CONFIG, flat_sigma=0.1)},
    "last weights": {"config": replace(CONFIG, average_decay=0.0)},
    "augmentation": {"augment": True, "config": replace(CONFIG, augment_views=2)},
    "no replay": {"config": replace(CONFIG, replay_ratio=0.0, distillation_weight=0.0)},
    "pieces": {"config": replace(CONFIG, gradient_accumulation=2, gradient_checkpointing=True)},
    "bf16": {"precision": "bf16"},
    "dora": {"adapter": replace(ADAPTER, method="dora")},
    "pissa": {"adapter": replace(ADAPTER, method="pissa")},
    "full": {"adapter": replace(ADAPTER, method="full")},
    "lora-plus": {"config": replace(CONFIG, lora_plus=4.0)},
    "often": {"interval": "1"},
}


FAST = ("defaults", "pissa", "bf16")


@pytest.fixture(params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS])
def job(
    request: pytest.FixtureRequest, toy_checkpoint: Path, clips: list[Clip], tmp_path: Path
) -> Callable[[str], Job]:
    return lambda name: Job(toy_checkpoint, clips, tmp_path / name, **SETTINGS[request.param])


STOPS = ([4], [2, 3.5], [1, 3, 4, 5, 6.5])


def test_training_that_was_stopped_ends_as_if_it_had_not_been(job: Callable[[str], Job]) -> None:
    plain = job("plain")
    wanted, weights = plain.start()
    assert wanted.best_step == 3
    for number, stops in enumerate(STOPS):
        stopped = job(f"stopped-{number}")
        result, found = stopped.run(stops)
        assert result.history == wanted.history
        assert (result.best_step, result.stopped_by) == (wanted.best_step, wanted.stopped_by)
        assert (result.audio_seconds, result.first_loss) == (wanted.audio_seconds, wanted.first_loss)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], value) for name, value in weights.items())
        # Every row was told once: a resumed run tells only what it computes.
        assert stopped.rows == plain.rows


def test_it_does_not_end_so_without_the_optimizers_state(
    toy_checkpoint: Path, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: each part of the state matters."""
    wanted = Job(toy_checkpoint, clips, tmp_path / "plain").start()[0].history
    monkeypatch.setattr("lora.training.state._restore_optimizer_", lambda trainer, moments: None)
    assert Job(toy_checkpoint, clips, tmp_path / "stopped").run([4])[0].history != wanted


def test_memory_that_ran_out_before_the_stop_is_remembered(
    toy_checkpoint: Path, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_once(*arguments: Any) -> Any:
        monkeypatch.setattr(shares, "attempt", attempt)
        return None

    results = []
    for stops in ([], [2]):
        monkeypatch.setattr(shares, "attempt", run_out_once)
        results.append(Job(toy_checkpoint, clips, tmp_path / f"{len(stops)}").run(stops))
    assert [row["out_of_memory"] for row in results[0][0].history if "out_of_memory" in row] == [
        {"gradient_accumulation": 2}
    ]
    assert results[0][0].history == results[1][0].history


@pytest.mark.parametrize("damaged", [TENSORS, HASHES])
def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(
    toy_checkpoint: Path, clips: list[Clip], tmp_path: Path, damaged: str
) -> None:
    wanted, weights = Job(toy_checkpoint, clips, tmp_path / "plain").start()
    job = Job(toy_checkpoint, clips, tmp_path / "stopped", interval="1")
    job.stop_at = 5
    with pytest.raises(signals.Stopped), signals.handled():
        job.start()
    states = steps_in(job.folder)
    assert [state.name for state in states] == ["step-00000004", "step-00000005"]
    content = bytearray((states[1] / damaged).read_bytes())
    content[len(content) // 2] ^= 1
    (states[1] / damaged).write_bytes(bytes(content))
    result, found = job.start()
    assert "step-00000005" in job.told[0]
    assert result.history == wanted.history
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    for state in steps_in(job.folder):
        (state / damaged).unlink()
    with pytest.raises(InputError, match="no training state is whole"):
        job.start()


def test_two_states_are_kept_and_what_a_killed_writer_left_goes(
    toy_checkpoint: Path, clips: list[Clip], tmp_path: Path
) -> None:
    job = Job(toy_checkpoint, clips, tmp_path / "job", interval="1")
    job.folder.mkdir()
    (job.folder / f".step-00000001.01234567{LITTER}").mkdir()
    job.start()
    assert sorted(path.name for path in job.folder.iterdir()) == ["step-00000006", "step-00000007"]


def test_a_state_of_another_adapter_is_refused(toy_checkpoint: Path, clips: list[Clip], tmp_path: Path) -> None:
    Job(toy_checkpoint, clips, tmp_path / "job").start()
    with pytest.raises(InputError, match="of another adapter"):
        Job(toy_checkpoint, clips, tmp_path / "job", adapter=replace(ADAPTER, rank=8)).start()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("lora.training.checkpoints.time.monotonic", lambda: now[0])
    return now


def test_a_state_is_due_after_so_many_minutes_or_steps(tmp_path: Path, clock: list[float]) -> None:
    minutes = Checkpoints(tmp_path, Interval.parse("5min"), print)
    steps = Checkpoints(tmp_path, Interval.parse("20"), print)
    clock[0] = 299.0
    assert not minutes.due(1000)
    assert [steps.due(step) for step in (19, 20, 21)] == [False, True, True]
    clock[0] = 300.0
    assert minutes.due(1)


@pytest.mark.parametrize("text", ["0", "5 min", "min", "-1", "1h", ""])
def test_an_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="checkpoint_interval"):
        Interval.parse(text)
