#!/usr/bin/env python3
"""Train the same decoder adapter in each precision and with each format of stored encoder states, and compare.

Prints seconds a step (the median of those after the first epoch, when states are stored), the largest difference of
a step's loss from that in fp32 with the encoder in every step, and the WER after training. The runs see the same
batches; each is a process of its own, because Accelerate fixes a process's precision.

    python benchmarks/precision.py --train TRAIN.jsonl --evaluate TEST.jsonl [--model-id builtin:digits] [--steps 100]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from accelerate import Accelerator
from accelerate.utils import set_seed
from recipe import recipe_of

from lora.config import DecodeSettings, Precision, PreprocessConfig, StateFormat, TargetPreset
from lora.data.manifest import read_manifest
from lora.data.wave_store import WaveStore
from lora.decoding import Recognizer
from lora.evaluation.score import load_evaluation_set, score_set
from lora.model.adapters import AdapterConfig
from lora.model.device import resolve_device, resolve_precision
from lora.model.feature_cache import EncoderCache
from lora.model.load import load_bundle
from lora.model.methods import start_adaptation
from lora.training.examples import build_examples
from lora.training.loop import Evaluation, Trainer, TrainingData
from lora.training.objective import aligned_objective


@dataclass(frozen=True)
class Variant:
    """One row of the table; `states` is the format of stored states, `None` runs the encoder in every step."""

    precision: Precision
    targets: TargetPreset
    states: StateFormat | None


VARIANTS = (
    Variant("fp32", "decoder", None),
    Variant("fp32", "decoder", "fp32"),
    Variant("fp32", "decoder", "bf16"),
    Variant("fp32", "decoder", "fp16"),
    Variant("bf16", "decoder", None),
    Variant("bf16", "decoder", "bf16"),
    Variant("fp32", "all-linear", None),
    Variant("bf16", "all-linear", None),
)


@dataclass(frozen=True)
class Measured:
    """What one variant gave."""

    step_seconds: float
    losses: list[float]
    wer: float


def measure(variant: Variant, options: argparse.Namespace, folder: Path) -> Measured:
    """Train and score one variant."""
    device = resolve_device(options.device)
    precision = resolve_precision(variant.precision, device)
    bundle = load_bundle(options.model_id, device)
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    waves = WaveStore(recognizer.preprocess)
    examples = build_examples(bundle, read_manifest(options.train).utterances, waves, max_seconds=20.0)
    evaluation_set = load_evaluation_set("test", read_manifest(options.evaluate), recognizer, waves)
    settings = recipe_of(max_steps=options.steps)
    set_seed(settings.seed)
    adaptation = start_adaptation(bundle, AdapterConfig("lora", 16, 32.0, 0.05, variant.targets), seed=settings.seed)
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=device.type == "cpu")
    cache = None
    if variant.states is not None:
        cache = EncoderCache(
            bundle,
            recognizer.encode,
            folder,
            cut=adaptation.frozen_encoder_layers,
            preprocess=recognizer.preprocess,
            state_format=variant.states,
            limit_bytes=2**36,
        )
    trainer = Trainer(adaptation, aligned_objective, settings, accelerator, cache)
    rows: list[tuple[float, float, float]] = []

    def record(row: dict[str, float]) -> None:
        if "loss" in row:
            rows.append((time.perf_counter(), row["loss"], row["audio_seconds"]))

    # The last state is the one to compare, so every evaluation is better than the one before.
    trainer.train(TrainingData(examples, []), lambda step: Evaluation((-float(step),), 0.5, {}), record)
    wer = score_set(recognizer, evaluation_set, lambda count: None).wer()
    if cache is not None:
        cache.close()
    times = [time for time, _, _ in rows]
    steps = [after - before for before, after in pairwise(times)]
    epoch = sum(example.seconds for example in examples) / settings.batch_seconds
    return Measured(median(steps[int(epoch) :] or steps), [loss for _, loss, _ in rows], wer or 0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row a variant, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--model-id", default="builtin:digits")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.variant is not None:
        print(json.dumps(vars(measure(VARIANTS[options.variant], options, options.folder))))
        return 0
    print("| targets | precision | stored states | s a step | against fp32 | largest loss difference | WER |")
    print("|---|---|---|---|---|---|---|")
    table = []
    first: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, variant in enumerate(VARIANTS):
            words = [*(argv or sys.argv[1:]), "--variant", str(number), "--folder", folder]
            child = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE)
            result = Measured(**json.loads(child.stdout))
            base = first.setdefault(variant.targets, result)
            apart = max(abs(one - other) for one, other in zip(result.losses, base.losses, strict=True))
            speed = base.step_seconds / result.step_seconds
            print(
                f"| {variant.targets} | {variant.precision} | {variant.states or 'none'} | {result.step_seconds:.3f} | "
                f"{speed:.2f} | {apart:.1e} | {result.wer:.2%} |",
                flush=True,
            )
            table.append({"variant": vars(variant), "seconds": result.step_seconds, "apart": apart, "wer": result.wer})
    print(json.dumps(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
