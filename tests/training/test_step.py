"""The arithmetic of training, done again in plain PyTorch: losses, gradients, weights, and the average that is kept.

With the options that ship, except where a test says so; dropout is off, so that the numbers can be computed again.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from lora.config import DecodeSettings, ExperimentConfig, PreprocessConfig
from lora.data.sources.base import Clip
from lora.decoding import Recognizer
from lora.model.adapters import AdapterConfig, trainable_state
from lora.model.load import Bundle, load_bundle
from lora.model.methods import start_adaptation
from lora.model.text import encode_text
from lora.training.examples import Example
from lora.training.loop import Evaluation, Trainer, TrainingConfig, TrainingData
from lora.training.objective import aligned_objective
from lora.training.teacher import teach

CPU = torch.device("cpu")
SHIPPED = ExperimentConfig(
    output_dir=Path("out"), dataset_path=Path("a"), manifest_path=Path("b"), guardrail_manifest=[Path("c")]
)
CONFIG = TrainingConfig(**{name: getattr(SHIPPED, name) for name in TrainingConfig.__dataclass_fields__})
ADAPTER = AdapterConfig(SHIPPED.method, 4, 8.0, 0.0, SHIPPED.targets)
UNBOUNDED = 1e6
"""A gradient norm that nothing reaches."""

Gradients = dict[str, Tensor]


def load_adapted(folder: Path) -> tuple[Bundle, Any]:
    """Load the model with an adapter that changes it: a fresh one would have the base's outputs."""
    bundle = load_bundle(str(folder), CPU)
    adaptation = start_adaptation(bundle, ADAPTER, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in adaptation.module.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return bundle, adaptation


class Plain:
    """The same model and adapter outside of the trainer; computes one utterance at a time."""

    def __init__(self, folder: Path) -> None:
        self.base = load_bundle(str(folder), CPU)
        self.bundle, adaptation = load_adapted(folder)
        self.module: PeftModel = adaptation.module
        self.weights = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}

    def log_probs(self, bundle: Bundle, example: Example) -> Tensor:
        """Return log probabilities (tokens + 1, vocabulary) of what follows each token."""
        wave = torch.from_numpy(example.wave).unsqueeze(0)
        encoded = bundle.family.encode(bundle.core, wave, torch.tensor([wave.shape[1]]))
        states = bundle.core.model.decoder(
            input_ids=torch.tensor([[bundle.start_id, *example.token_ids]]),
            encoder_hidden_states=bundle.family.decoder_memory(encoded),
            encoder_attention_mask=encoded.mask,
            use_cache=False,
        ).last_hidden_state[0]
        found: Tensor = bundle.core.proj_out(states).log_softmax(-1)
        return found

    def entropy(self, example: Example) -> Tensor:
        """Return the negative log probability of the text and its end."""
        wanted = torch.tensor([*example.token_ids, self.bundle.end_id]).unsqueeze(1)
        return -self.log_probs(self.bundle, example).gather(1, wanted).sum()

    def divergence(self, example: Example) -> Tensor:
        """Return KL(base || adapted) over the base's 64 likeliest tokens and one bucket for the others."""
        with torch.no_grad():
            top = self.log_probs(self.base, example).topk(64)
        found = self.log_probs(self.bundle, example).gather(1, top.indices)
        rest, left = 1 - top.values.exp().sum(-1), 1 - found.exp().sum(-1)
        inside = (top.values.exp() * (top.values - found)).sum()
        return inside + (rest * (rest.log() - left.log())).sum()

    def gradients(self, loss: Tensor) -> Gradients:
        return dict(zip(self.weights, torch.autograd.grad(loss, list(self.weights.values())), strict=True))


@dataclass
class Setting:
    """A trainer and what its steps get; `seen` has the gradients at each of its optimizer's steps."""

    trainer: Trainer
    plain: Plain
    domain: list[Example]
    replay: list[Example]
    seen: list[Gradients]

    @property
    def num_tokens(self) -> int:
        return sum(len(example.token_ids) + 1 for example in self.domain + self.replay)


@pytest.fixture
def build(toy_checkpoint: Path, make_clip: Callable[..., Clip]) -> Callable[..., Setting]:
    """Return a function that builds a setting; `taught` has the base model teach replay."""

    def build_one(*, taught: bool = True, **changes: Any) -> Setting:
        bundle, adaptation = load_adapted(toy_checkpoint)
        clips = [make_clip(number, seed=6) for number in range(9)]
        rows = [
            Example(clip.id, clip.wave, tuple(encode_text(bundle, clip.text, place=clip.id)), clip.text, None)
            for clip in clips
        ]
        assert len({len(row.token_ids) for row in rows[:5]}) > 1  # else a mean over utterances is one over tokens
        trainer = Trainer(adaptation, aligned_objective, replace(CONFIG, **changes), Accelerator(cpu=True), None)
        setting = Setting(trainer, Plain(toy_checkpoint), rows[:5], rows[5:], [])
        if taught:
            recognizer = Recognizer(setting.plain.base, PreprocessConfig(), DecodeSettings())
            trainer.teachers = teach(recognizer, setting.replay, own_texts=False, advance=lambda count: None)[1]
        take = trainer.optimizer.step

        def spy() -> None:
            setting.seen.append({name: weight.grad.clone() for name, weight in trainer.named.items()})
            take()

        trainer.optimizer.step = spy
        return setting

    return build_one


def assert_close(found: Gradients, wanted: Gradients, *, rtol: float = 1e-3, atol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol)


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_loss_and_its_gradient_are_of_the_sum_over_all_tokens(build: Callable[..., Setting], pieces: int) -> None:
    """However many pieces it is computed in, each token counts the same."""
    setting = build(taught=False, max_grad_norm=UNBOUNDED, gradient_accumulation=pieces)
    row = setting.trainer.step(1, setting.domain, setting.replay)
    losses = [setting.plain.entropy(example) for example in setting.domain + setting.replay]
    wanted = torch.stack(losses).sum() / setting.num_tokens
    assert row["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    own = sum(loss.item() for loss in losses[:5]) / sum(len(example.token_ids) + 1 for example in setting.domain)
    assert row["domain_loss"] == pytest.approx(own, rel=1e-5)
    assert_close(setting.seen[0], setting.plain.gradients(wanted))


@pytest.mark.parametrize("weight", [SHIPPED.distillation_weight, 1.0])
def test_replay_is_taught_with_the_shipped_weight_and_the_domain_is_not(
    build: Callable[..., Setting], weight: float
) -> None:
    setting = build(max_grad_norm=UNBOUNDED, distillation_weight=weight)
    plain = setting.plain
    row = setting.trainer.step(1, setting.domain, setting.replay)
    own = torch.stack([plain.entropy(example) for example in setting.domain]).sum()
    replay = [(1 - weight) * plain.entropy(row) + weight * plain.divergence(row) for row in setting.replay]
    kept = torch.stack(replay).sum()
    wanted = (own + kept) / setting.num_tokens
    assert row["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    in_replay = sum(len(example.token_ids) + 1 for example in setting.replay)
    assert row["replay_loss"] == pytest.approx(kept.item() / in_replay, rel=1e-4)
    assert_close(setting.seen[0], plain.gradients(wanted), atol=1e-5)


def test_two_steps_are_those_of_adamw_each_on_its_own_gradient(build: Callable[..., Setting]) -> None:
    setting = build(taught=False, max_steps=10, learning_rate=0.01, weight_decay=0.1, warmup_ratio=0.2)
    trainer, plain = setting.trainer, setting.plain
    for step in (1, 2):
        trainer.step(step, setting.domain, setting.replay)
    wanted = {name: weight.detach().clone() for name, weight in plain.weights.items()}
    first = {name: torch.zeros_like(weight) for name, weight in wanted.items()}
    second = {name: torch.zeros_like(weight) for name, weight in wanted.items()}
    for step in (1, 2):
        rate = 0.01 * step / 2  # two steps of warm-up
        losses = [plain.entropy(example) for example in setting.domain + setting.replay]
        gradients = plain.gradients(torch.stack(losses).sum() / setting.num_tokens)
        norm = torch.cat([value.flatten() for value in gradients.values()]).norm()
        for name, weight in wanted.items():
            gradient = gradients[name] * min(1.0, 1 / float(norm))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            wanted[name] = weight * (1 - rate * 0.1) - rate * mean / (square.sqrt() + 1e-8)
        with torch.no_grad():
            for name, weight in plain.weights.items():
                weight.copy_(wanted[name])
    # Where a gradient is next to nothing, its sign is that of a rounding error: a step of twice the rate apart.
    found = trainable_state(trainer.model)
    apart = torch.cat([(found[name] - wanted[name]).abs().flatten() for name in wanted])
    assert apart.quantile(0.99) < 1e-5


def test_gradients_are_scaled_down_to_the_largest_norm_and_the_recorded_one_is_theirs(
    build: Callable[..., Setting],
) -> None:
    setting = build(taught=False, max_grad_norm=0.01)
    row = setting.trainer.step(1, setting.domain, setting.replay)
    losses = [setting.plain.entropy(example) for example in setting.domain + setting.replay]
    wanted = setting.plain.gradients(torch.stack(losses).sum() / setting.num_tokens)
    norm = torch.cat([value.flatten() for value in wanted.values()]).norm().item()
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert_close(setting.seen[0], {name: value * 0.01 / norm for name, value in wanted.items()})


def test_what_is_evaluated_and_kept_is_the_average_and_training_goes_on_from_the_weights(
    build: Callable[..., Setting],
) -> None:
    setting = build(taught=False, max_steps=6, eval_interval=2, batch_seconds=4.0, learning_rate=0.01)
    trainer = setting.trainer
    average = trainable_state(trainer.model)
    states = [dict(average)]
    step = trainer.step

    def spy(number: int, *batch: list[Example]) -> Any:
        before = trainable_state(trainer.model)
        assert all(torch.equal(value, states[-1][name]) for name, value in before.items())
        row = step(number, *batch)
        assert trainer.model.training
        states.append(trainable_state(trainer.model))
        decay = min(0.98, (1 + number) / (10 + number))
        for name, value in states[-1].items():
            average[name] = decay * average[name] + (1 - decay) * value
        return row

    trainer.step = spy  # type: ignore[method-assign]
    evaluated: dict[int, dict[str, Tensor]] = {}
    wers = {0: 0.5, 2: 0.4, 4: 0.2, 6: 0.3}

    def evaluate(number: int) -> Evaluation:
        assert not any(module.training for module in trainer.model.modules())
        evaluated[number] = trainable_state(trainer.model)
        assert_close(evaluated[number], average, rtol=1e-5)
        return Evaluation((wers[number],), wers[number], {})

    result = trainer.train(TrainingData(setting.domain, setting.replay), evaluate, lambda row: None)
    assert (list(evaluated), result.best_step) == ([0, 2, 4, 6], 4)
    found = trainable_state(trainer.model)
    assert all(torch.equal(value, evaluated[4][name]) for name, value in found.items())
    assert not all(torch.equal(value, states[4][name]) for name, value in found.items())


def test_domain_and_replay_are_drawn_independently_of_each_other(build: Callable[..., Setting]) -> None:
    """The same clips in both, so that the same draw would give the same batches."""
    setting = build(taught=False, batch_seconds=4.0, replay_ratio=0.5)
    clips = setting.domain + setting.replay
    with closing(setting.trainer.batches(TrainingData(clips, clips))) as batches:
        drawn = [next(batches) for _ in range(8)]
    assert [[row.id for row in domain] for domain, _ in drawn] != [[row.id for row in replay] for _, replay in drawn]
