"""The training loop, explicit and short.

A step takes `batch_seconds` of audio, a share of it replay, sums the loss over all its tokens and divides
once. Of several processes each computes its share of the same batch, and the gradients are added up.
Evaluation by generation comes in as a function, over the averaged weights; the state with the best score is
kept.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from lora import processes
from lora.data.batches import pad_waves
from lora.errors import CheckFailed
from lora.model.adapters import restore_state_, trainable_state
from lora.model.families import EncoderStates
from lora.model.feature_cache import EncoderCache
from lora.model.methods import Adaptation, optimizer_groups
from lora.model.text import TokenBatch, build_token_batch
from lora.training.averaging import WeightAverage
from lora.training.batching import Augment, BatchReader
from lora.training.compiling import compile_layers_
from lora.training.cross_attention import absorb_projections_
from lora.training.examples import Example
from lora.training.linear import fuse_linear_layers_
from lora.training.objective import Objective, score_positions
from lora.training.perturbation import FlatPerturbation
from lora.training.precision import keep_fp32_parts_
from lora.training.schedule import learning_rate_factor
from lora.training.shares import (
    add_up_gradients_,
    checkpoint_layers_,
    compute_share,
    count_tokens,
    require_same_weights,
)
from lora.training.teacher import TeacherOutput, distillation_loss
from lora.units import JsonObject, Seconds

MAX_SKIPPED_STEPS = 10
"""fp16 starts with too high a loss scale and halves it at each overflow; more in a row than this is divergence."""


@dataclass(frozen=True)
class TrainingConfig:
    """What the loop needs to know; see `ExperimentConfig` for the meaning of each."""

    max_steps: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    batch_seconds: Seconds
    augment_views: int
    augment_replay: bool
    replay_ratio: float
    gradient_accumulation: int
    gradient_checkpointing: bool
    compile: bool
    max_grad_norm: float
    lora_plus: float
    flat_sigma: float
    average_decay: float
    distillation_weight: float
    eval_interval: int
    wer_stop_threshold: float
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation on the development sets.

    Attributes:
        score: what the kept state minimises, compared in order.
        tripped: what went wrong so badly that training must stop; empty while all is well.
        wer: development WER of the domain, for the stop threshold.
        record: what goes into the history.
    """

    score: tuple[float, ...]
    wer: float
    record: JsonObject
    tripped: str = ""


@dataclass
class TrainingResult:
    """What happened in training; the model holds the best state."""

    steps: int = 0
    audio_seconds: Seconds = 0.0
    first_loss: float = math.nan
    final_loss: float = math.nan
    best_step: int = 0
    stopped_by: str = "max_steps"
    evaluations: list[JsonObject] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingData:
    """Training examples of the domain, and replay against forgetting (may be empty).

    Attributes:
        teachers: the base model's outputs on every replay example, by id; empty without distillation.
    """

    domain: Sequence[Example]
    replay: Sequence[Example]
    teachers: Mapping[str, TeacherOutput] = field(default_factory=dict)


class Trainer:
    """Trains the injected adapter of one bundle.

    Args:
        accelerator: decides precision and scaling; its device is the bundle's.
        encoder_cache: given when the adapter leaves the lowest encoder layers alone; then those run once for each wave.
        augment: changes a wave of the domain (and of replay, with `augment_replay`) by epoch and utterance id; the
            epoch counts modulo `augment_views` unless that is 0.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        objective: Objective,
        config: TrainingConfig,
        accelerator: Accelerator,
        encoder_cache: EncoderCache | None,
        augment: Augment | None = None,
    ) -> None:
        self.bundle = adaptation.bundle
        self.model = adaptation.module
        self.objective = objective
        self.config = config
        self.accelerator = accelerator
        self.encoder_cache = encoder_cache
        self.domain_reader = BatchReader(augment, config.augment_views, encoder_cache)
        self.replay_reader = self.domain_reader if config.augment_replay else BatchReader(None, 0, encoder_cache)
        groups = optimizer_groups(self.model, learning_rate=config.learning_rate, b_ratio=config.lora_plus)
        self.trainable = [parameter for group in groups for parameter in group["params"]]
        self.optimizer: Any = accelerator.prepare(torch.optim.AdamW(groups, weight_decay=config.weight_decay))
        self.perturbation = FlatPerturbation(
            list(adaptation.layers.values()), sigma=config.flat_sigma, max_steps=config.max_steps, seed=config.seed
        )
        self.average = WeightAverage(self.trainable, config.average_decay)
        self.teachers: Mapping[str, TeacherOutput] = {}
        self.skipped = 0
        self.num_pieces = config.gradient_accumulation
        if config.gradient_checkpointing:
            checkpoint_layers_(self.bundle.core)
        cpu = self.bundle.device.type == "cpu"
        cpu_bf16 = cpu and accelerator.mixed_precision == "bf16"
        if cpu_bf16:
            keep_fp32_parts_(self.bundle.core)
        if config.compile:
            compile_layers_(self.bundle.core)
        elif cpu:
            if cpu_bf16:
                absorb_projections_(self.bundle.core)
            fuse_linear_layers_(self.bundle.core)

    def train(
        self,
        data: TrainingData,
        evaluate: Callable[[int], Evaluation],
        record: Callable[[JsonObject], None],
    ) -> TrainingResult:
        """Run the steps and leave the best evaluated state in the model.

        Args:
            evaluate: step -> development scores of the model as it is; called before the first step, as step 0, too.
            record: takes one history row a step or evaluation.

        Raises:
            CheckFailed: a loss or gradient is not finite; the message names the utterances.
        """
        config, result = self.config, TrainingResult()
        self.teachers = data.teachers
        before = self._evaluate(0, evaluate, record, result)
        best, best_state = before, trainable_state(self.model)
        with closing(self.batches(data)) as batches:
            for step in range(1, config.max_steps + 1):
                row = self.step(step, *next(batches))
                result.steps, result.final_loss = step, row["loss"]
                result.audio_seconds += row["audio_seconds"]
                if step == 1:
                    result.first_loss = row["loss"]
                record(row)
                if step % config.eval_interval and step != config.max_steps:
                    continue
                with self.average.applied():
                    now = self._evaluate(step, evaluate, record, result)
                    if now.score < best.score:
                        best, best_state, result.best_step = now, trainable_state(self.model), step
                if now.wer > config.wer_stop_threshold * max(before.wer, 0.01):
                    result.stopped_by = "wer_stop_threshold"
                    break
                if now.tripped:
                    result.stopped_by = now.tripped
                    break
        restore_state_(self.model, best_state)
        return result

    def batches(self, data: TrainingData) -> Generator[tuple[list[Example], list[Example]]]:
        """Yield each step's batch of the domain and of replay, without end; closing it stops the reading ahead."""
        config = self.config
        replay_ratio = config.replay_ratio if data.replay else 0.0
        domain = self.domain_reader.endless(data.domain, config.batch_seconds * (1 - replay_ratio), config.seed)
        replay_batches = self.replay_reader.endless(
            data.replay if replay_ratio else (), config.batch_seconds * replay_ratio, config.seed + 1
        )
        for batch in domain:
            yield batch, next(replay_batches, [])

    def _evaluate(
        self,
        step: int,
        evaluate: Callable[[int], Evaluation],
        record: Callable[[JsonObject], None],
        result: TrainingResult,
    ) -> Evaluation:
        self.model.eval()
        require_same_weights(step, self.trainable)
        evaluation = evaluate(step)
        row = {"step": step, "eval": evaluation.record}
        record(row)
        result.evaluations.append(row)
        return evaluation

    def step(self, step: int, domain: list[Example], replay: list[Example]) -> JsonObject:
        """Take one optimizer step on one batch of each kind."""
        self.model.train()
        if self.encoder_cache is not None:
            # States that are kept must not have a checkpoint's own dropout in them.
            self.bundle.core.model.encoder.layers[: self.encoder_cache.cut].eval()
        factor = learning_rate_factor(step, max_steps=self.config.max_steps, warmup_ratio=self.config.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        examples = domain + replay
        parts = {kind: part for kind, part in (("domain", domain), ("replay", replay)) if part}
        num_tokens = count_tokens(examples)
        own = {kind: processes.share_of(part) for kind, part in parts.items()}

        def backward(kind: str, piece: list[Example]) -> Tensor:
            return self._backward(piece, num_tokens, taught=kind == "replay" and bool(self.teachers))

        with self.perturbation.applied(step) if self.config.flat_sigma else nullcontext():
            share = compute_share(step, own, self.num_pieces, backward, self.optimizer, self.bundle.device)
        self.num_pieces = share.num_pieces
        add_up_gradients_(self.trainable)
        shares = processes.gather(share)
        norm = self._update(step, examples)
        losses = {kind: sum(share.losses.get(kind, 0.0) for share in shares) for kind in parts}
        row: JsonObject = {
            "step": step,
            "loss": sum(losses.values()) / num_tokens,
            **{f"{kind}_loss": value / count_tokens(parts[kind]) for kind, value in losses.items()},
            "learning_rate": self.config.learning_rate * factor,
            "grad_norm": norm if math.isfinite(norm) else None,
            "audio_seconds": sum(share.audio_seconds for share in shares),
        }
        if any(share.ran_out for share in shares):
            row["out_of_memory"] = {"gradient_accumulation": max(share.num_pieces for share in shares)}
        return row

    def _update(self, step: int, examples: list[Example]) -> float:
        """Clip, step, and return the gradient's norm; fp16 skips a step whose scaled gradient overflowed."""
        norm = float(self.accelerator.clip_grad_norm_(self.trainable, self.config.max_grad_norm))
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped > (0 if self.accelerator.scaler is None else MAX_SKIPPED_STEPS):
            raise CheckFailed(
                f"step {step}: the gradient is not finite. Lower --learning-rate or use --precision fp32.",
                [example.id for example in examples],
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        return norm

    def _backward(self, examples: list[Example], num_tokens: int, *, taught: bool) -> Tensor:
        targets = build_token_batch(self.bundle, [example.token_ids for example in examples]).to(self.bundle.device)
        with self.accelerator.autocast():
            encoded = self._encode(examples)
            if taught:
                losses = self._distill(examples, encoded, targets)
            else:
                losses = self.objective(self.bundle.core, self.bundle.family, encoded, targets)
        bad = [example.id for example, loss in zip(examples, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise CheckFailed(
                "the loss of these utterances is not finite. Check their audio and text, or lower --learning-rate.", bad
            )
        self.accelerator.backward(losses.sum() / num_tokens)
        return losses.detach()

    def _distill(self, examples: list[Example], encoded: EncoderStates, targets: TokenBatch) -> Tensor:
        """Return (1 - w) cross-entropy + w KL(base || adapted) of each replay utterance."""
        weight = self.config.distillation_weight
        positions = score_positions(self.bundle.core, self.bundle.family, encoded, targets)
        logits = positions.logits()
        divergence = distillation_loss(logits, [self.teachers[example.id] for example in examples])
        entropy = F.cross_entropy(logits, positions.labels, reduction="none")
        return positions.sum_rows((1 - weight) * entropy + weight * divergence)

    def _encode(self, examples: list[Example]) -> EncoderStates:
        core, family, device = self.bundle.core, self.bundle.family, self.bundle.device
        if self.encoder_cache is not None:
            hashes = [example.audio_sha256 for example in examples]
            cut = self.encoder_cache.cut
            kept = self.encoder_cache.encode(hashes, lambda row: examples[row].wave)
            lower = EncoderStates(kept.states.to(device), kept.mask.to(device))
            if cut < len(core.model.encoder.layers) or not _is_autocast_to(lower.states.dtype, device):
                lower = EncoderStates(lower.states.float(), lower.mask)  # the decoder rounds what it reads, a layer not
            return family.encode_above(core, lower, cut)
        audio, num_samples = pad_waves([example.wave for example in examples])
        return family.encode(core, audio.to(device), num_samples.to(device))


def _is_autocast_to(dtype: torch.dtype, device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) is dtype
