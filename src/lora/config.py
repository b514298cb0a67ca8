"""Configuration: frozen dataclasses whose fields are also command line options and YAML keys.

A default is written here, once. `option` adds the help text that the command line shows.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lora.errors import ConfigError
from lora.units import Seconds

TrackerName = Literal["trackio", "wandb", "mlflow"]
TargetPreset = Literal["decoder-attention", "attention", "decoder", "encoder", "upper", "all-linear"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
StateFormat = Literal["fp32", "bf16", "fp16"]


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    positional: bool = False,
    choices: Sequence[Any] | None = None,
    default_factory: Any = dataclasses.MISSING,
    allow_single: bool = False,
) -> Any:
    """Declare one dataclass field that is also a command line option.

    Without a default the option is required. `list[T]` takes one or more values; `bool` becomes `--x/--no-x`.
    A YAML file must give a list for `list[T]`, unless `allow_single` lets one value stand for a list of one.
    """
    metadata = {"help": help, "positional": positional, "choices": choices, "allow_single": allow_single}
    # field() is overloaded on which default is given, so the absent ones cannot be passed explicitly.
    given = {"default": default, "default_factory": default_factory}
    return dataclasses.field(
        metadata=metadata, **{name: value for name, value in given.items() if value is not dataclasses.MISSING}
    )


@dataclasses.dataclass(frozen=True)
class PreprocessConfig:
    """How a waveform is prepared; saved beside every adapter and loaded with it.

    Attributes:
        target_rms: level that every utterance is scaled to, as root mean square of full scale.
            0.075 is -22.5 dBFS, a usual speech level.
        peak_limit: the gain is lowered where it would push a sample beyond this, so nothing clips.
        min_seconds: shorter audio is refused; Moonshine's frontend needs 895 samples (0.056 s).
    """

    target_rms: float = 0.075
    peak_limit: float = 0.99
    min_seconds: Seconds = 0.1


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """How text is generated; saved beside every adapter and loaded with it.

    Attributes:
        tokens_per_second: most tokens for a second of audio; 6.5 is the Moonshine model card's value
            for English, some other languages need 13.
        min_token_limit: the limit never goes below this, for very short clips.
    """

    tokens_per_second: float = 6.5
    min_token_limit: int = 4

    def token_limit(self, seconds: Seconds, max_tokens: int) -> int:
        """Return the most tokens that an utterance of `seconds` may have, its end token not counted."""
        return min(max(math.ceil(seconds * self.tokens_per_second), self.min_token_limit), max_tokens - 1)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: baseline, training, tuned, verdict."""

    output_dir: Path = option(
        help="where artifacts, metrics and report go; an earlier run there is replaced once the new adapter is chosen"
    )
    dataset_path: Path = option(help="training manifest (JSONL)")
    manifest_path: Path = option(help="domain manifest: the evaluation set that the run tries to improve")
    guardrail_manifest: list[Path] = option(help="evaluation sets that must not get worse")
    model_id: str = option("builtin:digits", help="hub id, local folder or builtin:digits")
    replay_manifest: Path | None = option(None, help="guardrail-like training data, mixed in against forgetting")
    replay_ratio: float = option(0.6, help="share of replay in every step's audio, 0 (none) to 0.9")
    validation_manifest: Path | None = option(
        None, help="development set of the domain; without it a part of the training manifest is held out"
    )
    guardrail_validation_manifest: Path | None = option(
        None, help="development set of the guardrail; without it a part of the replay manifest is held out"
    )
    validation_fraction: float = option(0.1, help="part of a manifest that is held out as development set")

    method: Literal["lora", "rslora", "dora", "pissa", "full"] = option(
        "lora", help="adaptation method; full trains the target layers themselves"
    )
    rank: int = option(16, help="rank of the adapter")
    alpha: float = option(32.0, help="scale numerator: the update is alpha/rank x BA")
    dropout: float = option(0.05, help="dropout on the adapter's input")
    targets: TargetPreset = option(
        "all-linear",
        help="which linear layers get an adapter; upper is all-linear without the lower half of the encoder's layers",
    )
    lora_plus: float = option(1.0, help="LoRA+: learning rate of B over that of A")
    flat_sigma: float = option(0.0, help="Flat-LoRA: size of the random weight perturbation, 0 (off) to 0.3")
    average_decay: float = option(
        0.98, help="exponential moving average of the trained weights: what is evaluated and kept, 0 (off) to 0.9999"
    )
    distillation_weight: float = option(
        0.7, help="part of the replay loss that is KL to the base model's own output, 0 to 1"
    )
    distillation_texts: Literal["transcripts", "base"] = option(
        "transcripts", help="what replay is scored on: its transcripts, or the base model's own texts"
    )
    strengths: list[float] = option(
        default_factory=lambda: [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0],
        help="adapter strengths to compare on the development sets after training; the best one is kept",
    )

    augment: list[str] = option(
        default_factory=list,
        help="changes of the domain's training audio, new in each epoch, such as speed:0.9-1.1 (see `shift --help`)",
    )

    augment_views: int = option(
        0,
        help="draw only this many changes of each clip and repeat them, so that encoder states are kept; 0 is no limit",
    )

    augment_replay: bool = option(
        False, help="change replay as well; needs --distillation-weight 0, because the teacher hears replay as it is"
    )

    max_steps: int = option(300, help="optimizer steps")
    learning_rate: float = option(1e-3, help="peak learning rate")
    warmup_ratio: float = option(0.1, help="part of the steps with rising learning rate; then cosine decay to zero")
    weight_decay: float = option(0.01, help="AdamW weight decay")
    batch_seconds: float = option(120.0, help="audio in one optimizer step, replay included")
    gradient_accumulation: int = option(1, help="parts in which a step's batch is computed; more where memory runs out")
    gradient_checkpointing: bool = option(
        False, help="keep less for the backward pass and compute it again: less memory, about a third more time"
    )
    compile: bool = option(
        False,
        help="compile the layers for training: minutes before the first step, for long runs on a GPU",
    )
    max_grad_norm: float = option(1.0, help="gradients are scaled down to this norm")
    eval_interval: int = option(50, help="steps between evaluations by generation on the development sets")
    wer_stop_threshold: float = option(
        1.5, help="stop when the development WER exceeds this multiple of the baseline's"
    )
    guardrail_budget: list[float] = option(
        default_factory=lambda: [0.01],
        help="WER that a guardrail may lose, as a fraction (0.01 is one point); one for all, or one each in order",
        allow_single=True,
    )
    selection_budget: float = option(
        0.002,
        help="WER that the guardrail's development set may lose before a state or strength is held back; less than "
        "the guardrail budget, because a development set is small and the kept state is the luckiest of several",
    )
    objective: Literal["aligned", "misaligned"] = option(
        "aligned", help="training objective; misaligned exists to measure what the alignment check prevents"
    )
    alignment_check: bool = option(True, help="refuse to train with an objective that fails the alignment check")

    max_seconds: float = option(20.0, help="longer training clips are left out, counted and reported")
    tokens_per_second: float = option(6.5, help="decode limit; 6.5 fits English, some languages need 13")
    eval_batch_seconds: float = option(160.0, help="audio in one evaluation batch")
    seed: int = option(42, help="seed of everything that is drawn")
    seeds: list[int] | None = option(
        None, help="run once per seed into OUTPUT_DIR/seed-N; the verdict needs the improvement in each"
    )
    device: DeviceName = option("auto", help="auto takes CUDA, then MPS, then the CPU")
    precision: Precision = option("auto", help="training precision; auto is bf16 on CUDA, fp32 elsewhere")
    trackers: list[TrackerName] = option(
        default_factory=list, help="further trackers beside the TensorBoard files that every run writes"
    )
    cache_dir: Path | None = option(
        None, help="baselines and encoder states of earlier runs; .cache beside the output folder unless given"
    )
    wave_cache_gib: float = option(
        1.0,
        help="most memory for decoded audio, in GiB; training sets that fit are decoded and checked before the start",
    )
    feature_cache_gib: float = option(
        16.0, help="most disk for encoder states, in GiB, oldest out first; 0 runs the encoder in every step"
    )
    feature_cache_dtype: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", help="format of stored encoder states; auto is the training precision, so nothing is lost"
    )
    checkpoint_interval: str = option(
        "5min",
        help="the state of training is written into OUTPUT_DIR.partial at each evaluation, and at least after so many "
        "steps (200) or minutes (5min)",
    )
    resume: bool = option(
        False, help="go on where the same command was stopped; with --output-dir alone it reads what it was"
    )
    restart: bool = option(False, help="discard the unfinished training in OUTPUT_DIR.partial and train anew")
    overwrite: bool = option(False, help="keep files of yours in the output folder beside the new ones")
    dry_run: bool = option(
        False, help="read and check everything, show the resolved options, estimate time and memory, write nothing"
    )
    allow_leakage: bool = option(False, help="go on where training and evaluation share clips; the report shows it")
    allow_outside_audio: bool = option(False, help="accept audio paths outside a manifest's folder")

    def check(self) -> None:
        """Refuse values out of range and options that contradict each other, all at once.

        Raises:
            ConfigError: one problem a value.
        """
        ranges: list[tuple[str, float, float]] = [
            ("replay_ratio", 0.0, 0.9),
            ("validation_fraction", 0.01, 0.5),
            ("rank", 1, 1024),
            ("alpha", 1e-3, 1e6),
            ("dropout", 0.0, 0.9),
            ("lora_plus", 0.01, 1000.0),
            ("flat_sigma", 0.0, 0.3),
            ("average_decay", 0.0, 0.9999),
            ("distillation_weight", 0.0, 1.0),
            ("augment_views", 0, 1000),
            ("max_steps", 1, 10_000_000),
            ("learning_rate", 1e-9, 1.0),
            ("warmup_ratio", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("batch_seconds", 1.0, 1e6),
            ("gradient_accumulation", 1, 10_000),
            ("max_grad_norm", 1e-6, 1e6),
            ("eval_interval", 1, 10_000_000),
            ("wer_stop_threshold", 1.0, 1e6),
            ("selection_budget", 0.0, 1.0),
            ("max_seconds", 0.5, 3600.0),
            ("tokens_per_second", 0.1, 1000.0),
            ("eval_batch_seconds", 1.0, 1e6),
            ("wave_cache_gib", 0.0, 1e6),
            ("feature_cache_gib", 0.0, 1e6),
            ("seed", 0, 2**31 - 1),
        ]
        problems = [
            f"{name}: got {getattr(self, name)}, expected {low:g} to {high:g}"
            for name, low, high in ranges
            if not low <= getattr(self, name) <= high
        ]
        if self.seeds is not None and (len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds)):
            problems.append(f"seeds: got {self.seeds}, expected at least two, all different")
        if self.seeds is not None and not all(0 <= seed < 2**31 for seed in self.seeds):
            problems.append(f"seeds: got {self.seeds}, expected each from 0 to {2**31 - 1}")
        problems += [f"strengths: got {value}, expected 0 to 4" for value in self.strengths if not 0 <= value <= 4]
        if len(set(self.trackers)) < len(self.trackers):
            problems.append(f"trackers: got {self.trackers}, expected each once")
        if not self.strengths:
            problems.append("strengths: got none, expected at least one, for example 1.0")
        problems += self._replay_problems()
        if self.augment_views and not self.augment:
            problems.append("augment_views: nothing is drawn without augment. Give --augment, or leave it out")
        problems += self._augment_replay_problems()
        if self.resume and self.restart:
            problems.append("resume and restart exclude each other")
        if self.method == "full" and (self.flat_sigma or self.lora_plus != 1):
            problems.append("method full has no factors: flat_sigma must be 0 and lora_plus 1")
        problems += [
            f"guardrail_budget: got {value}, expected 0 to 1" for value in self.guardrail_budget if not 0 <= value < 1
        ]
        if len(self.guardrail_budget) not in (1, len(self.guardrail_manifest)):
            problems.append(
                f"guardrail_budget: got {len(self.guardrail_budget)} for {len(self.guardrail_manifest)} guardrail(s), "
                "expected one for all, or one each in the order of guardrail_manifest"
            )
        if not self.guardrail_manifest:
            problems.append("guardrail_manifest: got none, expected at least one set that must not get worse")
        if problems:
            raise ConfigError("the configuration does not hold", problems)

    def _augment_replay_problems(self) -> list[str]:
        if not self.augment_replay:
            return []
        if not (self.augment and self.replay_ratio):
            return ["augment_replay: there is nothing to change. Give --augment, replay and a --replay-ratio"]
        if self.distillation_weight:
            return [
                f"augment_replay: got distillation_weight {self.distillation_weight:g}, but the teacher hears replay "
                "as it is, and so must the model. Give --distillation-weight 0, or leave out --augment-replay"
            ]
        return []

    def _replay_problems(self) -> list[str]:
        problems: list[str] = []
        if self.replay_manifest is None and self.replay_ratio:
            problems.append(
                "replay_manifest: got none, so nothing would guard what the model had. Give --replay-manifest, or say "
                "so with --replay-ratio 0 --distillation-weight 0"
            )
        if self.distillation_weight and not self.replay_ratio:
            problems.append(
                f"distillation_weight: got {self.distillation_weight:g} with replay_ratio 0, but distillation works on "
                "replay. Give --replay-manifest and a --replay-ratio, or --distillation-weight 0"
            )
        if self.distillation_texts == "base" and not self.replay_ratio:
            problems.append(
                "distillation_texts: got base with replay_ratio 0, but the base model's texts take the place of "
                "replay's. Give --replay-manifest and a --replay-ratio, or --distillation-texts transcripts"
            )
        return problems
