"""The training loop, explicit and short.

A step takes `batch_seconds` of audio, a share of it replay, sums the loss over all its tokens and divides
once. Of several processes each computes its share of the same batch, and the gradients are added up.
Evaluation by generation comes in as a function, over the averaged weights; the state with the best score is
kept.
"""

import math
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from lora import processes, signals
from lora.data.batches import pad_waves
from lora.errors import CheckFailed
from lora.model.adapters import restore_state_, trainable_state
from lora.model.families import EncoderStates
from lora.model.feature_cache import EncoderCache
from lora.model.methods import Adaptation, optimizer_groups
from lora.model.text import TokenBatch, build_token_batch
from lora.training.averaging import WeightAverage
from lora.training.batching import Augment, BatchReader
from lora.training.checkpoints import Checkpoints
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
from lora.training.state import capture, restore_
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
    """What happened in training so far; at the end the model holds the best state.

    Attributes:
        evaluated: the last step whose weights were evaluated; none yet is -1.
        baseline_wer: of the domain's development set before the first step.
        stopped_by: why training has ended; empty while it goes on.
        seconds: spent on training and its evaluations; `cpu_seconds` are those of all threads together.
        checkpoint_seconds: of them, spent on writing states.
        history: one row a step or evaluation, in their order.
        scores: (step, what the kept state minimises) of each evaluation.
    """

    steps: int = 0
    evaluated: int = -1
    audio_seconds: Seconds = 0.0
    first_loss: float | None = None
    final_loss: float | None = None
    baseline_wer: float = 0.0
    best_step: int = 0
    best_score: Sequence[float] = ()
    stopped_by: str = ""
    seconds: Seconds = 0.0
    cpu_seconds: Seconds = 0.0
    checkpoint_seconds: Seconds = 0.0
    history: list[JsonObject] = field(default_factory=list)
    scores: list[tuple[int, Sequence[float]]] = field(default_factory=list)


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
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.named: dict[str, Tensor] = {names[parameter]: parameter for parameter in self.trainable}
        self.moved_weights = adaptation.moved_weights
        self.optimizer: Any = accelerator.prepare(torch.optim.AdamW(groups, weight_decay=config.weight_decay))
        self.perturbation = FlatPerturbation(
            list(adaptation.layers.values()), sigma=config.flat_sigma, max_steps=config.max_steps, seed=config.seed
        )
        self.average = WeightAverage(self.trainable, config.average_decay)
        self.teachers: Mapping[str, TeacherOutput] = {}
        self.skipped = 0
        self.num_pieces = config.gradient_accumulation
        self.result = TrainingResult()
        self.best_state = trainable_state(self.model)
        self.lengths: dict[str, list[int]] = {}
        self._counted_to = 0.0, 0.0
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
        checkpoints: Checkpoints | None = None,
    ) -> TrainingResult:
        """Run the steps and leave the best evaluated state in the model.

        A signal that asks to end lets the step be finished and its state be written.

        Args:
            evaluate: step -> development scores of the model as it is; called before the first step, as step 0, too.
            record: takes one history row a step or evaluation.
            checkpoints: where the states of training go, and the one from which it goes on, on the main process.

        Raises:
            CheckFailed: a loss or gradient is not finite; the message names the utterances.
            Stopped: a signal came; the state is written.
        """
        result = self._begin(data, checkpoints)
        with signals.deferred() as stop, closing(self.batches(data, skip=result.steps)) as batches:
            while not result.stopped_by:
                if self._is_to_be_evaluated():
                    self._evaluate(evaluate, record, checkpoints)
                    self._keep(checkpoints)
                    continue
                row = self.step(result.steps + 1, *next(batches))
                result.steps, result.final_loss = row["step"], row["loss"]
                result.audio_seconds += row["audio_seconds"]
                if result.first_loss is None:
                    result.first_loss = row["loss"]
                self._record(row, record)
                asked, due = self._agree(stop, checkpoints)
                if asked or due:
                    self._keep(checkpoints)
                if asked:
                    self._leave(asked, checkpoints)
            if stop.requested is not None:
                self._leave(stop.requested, checkpoints)
        restore_state_(self.model, self.best_state)
        return result

    def _begin(self, data: TrainingData, checkpoints: Checkpoints | None) -> TrainingResult:
        self.teachers = data.teachers
        self.result, self.best_state = TrainingResult(), trainable_state(self.model)
        self.lengths, self._counted_to = {}, (time.monotonic(), time.process_time())
        state = processes.from_main(lambda: None if checkpoints is None else checkpoints.read())
        if state is not None:
            restore_(self, state)
        return self.result

    def _is_to_be_evaluated(self) -> bool:
        step = self.result.steps
        return step != self.result.evaluated and (
            step % self.config.eval_interval == 0 or step == self.config.max_steps
        )

    def _keep(self, checkpoints: Checkpoints | None) -> None:
        now, cpu_now = time.monotonic(), time.process_time()
        self.result.seconds += now - self._counted_to[0]
        self.result.cpu_seconds += cpu_now - self._counted_to[1]
        self._counted_to = now, cpu_now
        if checkpoints is not None:
            state = capture(self)
            if processes.is_main():
                checkpoints.write(state)
        self.result.checkpoint_seconds += time.monotonic() - now

    def _leave(self, number: signal.Signals, checkpoints: Checkpoints | None) -> NoReturn:
        message = "" if checkpoints is None else f"training is kept up to step {self.result.steps}; --resume goes on"
        raise signals.Stopped(number, message)

    def _record(self, row: JsonObject, record: Callable[[JsonObject], None]) -> None:
        self.result.history.append(row)
        record(row)

    def batches(self, data: TrainingData, *, skip: int = 0) -> Generator[tuple[list[Example], list[Example]]]:
        """Yield each step's batch of the domain and of replay, without end; closing it stops the reading ahead.

        Args:
            skip: steps that were taken before.
        """
        config = self.config
        replay_ratio = config.replay_ratio if data.replay else 0.0
        if not self.lengths:  # a length may be found to be another when a clip is read; the batches must stay the same
            parts = {"domain": data.domain, "replay": data.replay}
            self.lengths = {kind: [example.num_samples for example in part] for kind, part in parts.items()}
        domain = self.domain_reader.endless(
            data.domain, self.lengths["domain"], config.batch_seconds * (1 - replay_ratio), config.seed, skip=skip
        )
        replay_batches = self.replay_reader.endless(
            data.replay if replay_ratio else (),
            self.lengths["replay"],
            config.batch_seconds * replay_ratio,
            config.seed + 1,
            skip=skip,
        )
        for batch in domain:
            yield batch, next(replay_batches, [])

    def _evaluate(
        self,
        evaluate: Callable[[int], Evaluation],
        record: Callable[[JsonObject], None],
        checkpoints: Checkpoints | None,
    ) -> None:
        """Evaluate the averaged weights; one process alone can be stopped while it does."""
        result, step = self.result, self.result.steps
        self.model.eval()
        require_same_weights(step, self.trainable)
        try:
            with self.average.applied():  # before the first step that is the weights
                with signals.immediate() if processes.count() == 1 else nullcontext():
                    evaluation = evaluate(step)
                averaged = trainable_state(self.model)
        except signals.Stopped as stopped:
            self._keep(checkpoints)
            self._leave(stopped.signal, checkpoints)
        result.evaluated = step
        result.scores.append((step, evaluation.score))
        self._record({"step": step, "eval": evaluation.record}, record)
        if step == 0:
            result.baseline_wer, result.best_score = evaluation.wer, evaluation.score
            return
        if tuple(evaluation.score) < tuple(result.best_score):
            result.best_score, result.best_step, self.best_state = evaluation.score, step, averaged
        if evaluation.wer > self.config.wer_stop_threshold * max(result.baseline_wer, 0.01):
            result.stopped_by = "wer_stop_threshold"
        elif evaluation.tripped:
            result.stopped_by = evaluation.tripped
        elif step == self.config.max_steps:
            result.stopped_by = "max_steps"

    def _agree(self, stop: signals.Stop, checkpoints: Checkpoints | None) -> tuple[signal.Signals | None, bool]:
        """Return, the same on all processes, the signal that ends them and whether the state is to be written."""
        due = processes.is_main() and checkpoints is not None and checkpoints.due(self.result.steps)
        told = processes.gather((stop.requested, due))
        return next((asked for asked, _ in told if asked is not None), None), any(due for _, due in told)

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
