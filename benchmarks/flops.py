#!/usr/bin/env python3
"""Measure how much of the machine's matrix limit a training step reaches: all-linear LoRA, counting model FLOPs.

The limit is the best rate of a large matrix product in the same run, in fp32 and in bf16. A step's FLOPs are counted
from the model (docs/performance.md has the formula): two for each weight and position forward, two more for the
gradient of a layer's input, and those of the adapter and of attention. Padding, norms, softmax and the optimizer are
work that does not count. The model is a random one of streaming-tiny size, or `--model-id`.

    python benchmarks/flops.py
    python benchmarks/flops.py --batch-seconds 40 80 160 --precision bf16
    python benchmarks/flops.py --model-id builtin:digits --steps 3
    python benchmarks/flops.py --compile --batch-seconds 80
    python benchmarks/flops.py --device cuda --precision bf16
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from recipe import recipe_of
from workload import FSDD, LIBRIVOX, MAX_DIGITS, MIN_DIGITS, ROOT, fail, machine, make_checkpoint, require_folder

from lora.config import PreprocessConfig
from lora.data.audio import prepare_wave
from lora.data.batches import length_batches
from lora.data.sources.fsdd import read_fsdd
from lora.errors import LoraError
from lora.model.adapters import AdapterConfig
from lora.model.device import resolve_device
from lora.model.load import Bundle, load_bundle
from lora.model.methods import Adaptation, start_adaptation
from lora.model.text import encode_text
from lora.runners.progress import progress_bar
from lora.training.examples import Example
from lora.training.loop import Trainer
from lora.training.objective import OBJECTIVES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIMIT_SIZE, RANK = 2048, 16
ADAPTER = AdapterConfig("lora", RANK, 2.0 * RANK, 0.0, "all-linear")
READ_ENCODER = ("encoder_attn.k_proj", "encoder_attn.v_proj")


def matrix_limit(device: torch.device, dtype: torch.dtype, seconds: float = 3.0) -> float:
    """Return the best FLOP/s of a product of two square matrices."""
    left = torch.randn(LIMIT_SIZE, LIMIT_SIZE, device=device).to(dtype)
    right = torch.randn(LIMIT_SIZE, LIMIT_SIZE, device=device).to(dtype)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * LIMIT_SIZE**3 / best


def step_flops(adaptation: Adaptation, batch: Sequence[Example]) -> float:
    """Return the model FLOPs of a training step on a batch, at each utterance's own length."""
    return sum(_utterance_flops(adaptation, example) for example in batch)


def _utterance_flops(adaptation: Adaptation, example: Example) -> float:
    """Count one utterance: linear layers with their adapters, convolutions, attention, the output layer."""
    core, family = adaptation.bundle.core, adaptation.bundle.family
    frames = int(family.num_frames(torch.tensor(example.num_samples)))
    tokens = len(example.token_ids) + 1
    total = _convolution_flops(core.model.encoder, example.num_samples)
    for name, layer in core.named_modules():
        if not isinstance(layer, torch.nn.Linear) or ".lora_" in name or name == "model.encoder.embedder.linear":
            continue
        plain = name.removesuffix(".base_layer")
        of_encoder = plain.startswith("model.encoder.") or plain.endswith(READ_ENCODER)
        positions = frames if of_encoder else tokens
        # Forward, and the gradient of the layer's input, which nothing below needs at the lowest layers.
        lowest = ".layers.0.self_attn." in plain and not plain.endswith("o_proj")
        total += (2 if lowest else 4) * layer.weight.numel() * positions
        if plain in adaptation.layers:
            # Two factors: forward, the gradient of each one's input, and the gradient of the factor itself.
            total += 6 * RANK * (layer.in_features + layer.out_features) * positions
            total -= 2 * RANK * layer.in_features * positions * lowest
    # A product with the keys and one with the values: 2 x 2 FLOPs a pair and channel forward, twice that backward.
    pairs = 0.0
    for layer, window in zip(core.model.encoder.layers, _windows(core, frames), strict=True):
        pairs += frames * min(frames, window) * layer.self_attn.o_proj.in_features
    for layer in core.model.decoder.layers:
        width = layer.self_attn.o_proj.in_features
        pairs += width * (tokens * (tokens + 1) / 2 + tokens * frames)
    return total + 12 * pairs


def _convolution_flops(encoder: Any, num_samples: int) -> float:
    """Return the FLOPs of the convolutions and of the streaming family's first layer: frozen and lowest, so forward."""
    embedder = getattr(encoder, "embedder", None)
    if embedder is None:
        total, length = 0.0, num_samples
        for layer in (encoder.conv1, encoder.conv2, encoder.conv3):
            length = (length - layer.kernel_size[0]) // layer.stride[0] + 1
            total += 2 * layer.weight.numel() * length
        return total
    length = num_samples // embedder.frame_len
    total = 2.0 * embedder.linear.weight.numel() * length
    for layer in (embedder.conv1, embedder.conv2):
        length = (length - 1) // 2 + 1
        total += 2 * layer.weight.numel() * length
    return total


def _windows(core: Any, frames: int) -> list[int]:
    """Return how many frames each encoder layer's attention reaches."""
    layers = len(core.model.encoder.layers)
    windows = getattr(core.model.encoder.config, "sliding_windows", None)
    return [frames] * layers if windows is None else [left + max(right - 1, 0) for left, right in windows]


def make_examples(bundle: Bundle, fsdd: Path, count: int) -> list[Example]:
    """Return connected digits as training examples."""
    clips = read_fsdd(fsdd, split="train", samples=count, seed=0, min_digits=MIN_DIGITS, max_digits=MAX_DIGITS)
    examples = []
    for clip in clips:
        wave = prepare_wave(clip.wave, clip.sampling_rate, PreprocessConfig(), name=clip.id)
        ids = encode_text(bundle, clip.text, place=clip.id)
        examples.append(Example(clip.id, np.ascontiguousarray(wave), tuple(ids), clip.text, clip.speaker_id))
    return examples


def make_trainer(adaptation: Adaptation, precision: str, *, compiled: bool) -> Trainer:
    """Return a trainer that takes the batches that it is given."""
    cpu = adaptation.bundle.device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision, and this one measures both
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)
    # A step that skipped the encoder would be another measurement, so nothing is kept.
    return Trainer(adaptation, OBJECTIVES["aligned"], recipe_of(compile=compiled), accelerator, None)


def main() -> int:
    """Print the limits and a row for each precision and batch; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, default=FSDD, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--model-id", help="a model to measure in place of the random one of streaming-tiny size")
    parser.add_argument("--batch-seconds", type=float, nargs="+", default=[10.0, 80.0, 160.0], help="audio in a batch")
    parser.add_argument("--precision", nargs="+", choices=sorted(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a row; the fastest half counts")
    parser.add_argument("--compile", action="store_true", help="compile the layers; the first step shows what it costs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench-peer", help="the random model is kept here")
    options = parser.parse_args()
    rows = []
    try:
        require_folder(options.fsdd, "--fsdd")
        device = resolve_device(options.device)
        librivox = LIBRIVOX if LIBRIVOX.is_dir() else None
        model_id = options.model_id or str(make_checkpoint(options.folder / "model", librivox=librivox))
        examples = make_examples(load_bundle(model_id, device), options.fsdd, 64)
        lengths = [example.num_samples for example in examples]
        with progress_bar(
            "steps", len(options.precision) * len(options.batch_seconds) * (options.steps + 1)
        ) as advance:
            for precision in options.precision:
                bundle = load_bundle(model_id, device)
                adaptation = start_adaptation(bundle, ADAPTER, seed=0)
                trainer = make_trainer(adaptation, precision, compiled=options.compile)
                for batch_seconds in options.batch_seconds:
                    # The second batch: the first has the longest utterance and what fits beside it.
                    batches = list(length_batches(lengths, batch_seconds=batch_seconds))
                    batch = [examples[index] for index in batches[min(1, len(batches) - 1)]]
                    limits = {name: matrix_limit(device, dtype) for name, dtype in DTYPES.items()}
                    times = []
                    for step in range(1, options.steps + 2):
                        started = time.perf_counter()
                        trainer.step(step, batch, [])
                        times.append(time.perf_counter() - started)
                        advance(1, f"{precision}, {batch_seconds:g} s")
                    spent = statistics.median(sorted(times[1:])[: max(options.steps // 2, 1)])
                    audio = sum(example.seconds for example in batch)
                    rate = step_flops(adaptation, batch) / spent
                    rows.append(
                        {
                            "precision": precision,
                            "batch_seconds": audio,
                            "utterances": len(batch),
                            "audio_seconds_per_second": audio / spent,
                            "first_step_seconds": times[0],
                            "gflops_per_second": rate / 1e9,
                            **{f"part_of_{name}_limit": rate / limit for name, limit in limits.items()},
                            **{f"{name}_limit_gflops": limit / 1e9 for name, limit in limits.items()},
                        }
                    )
    except LoraError as error:
        return fail(error)
    print(f"{machine()}; {options.model_id or 'random, streaming-tiny size'}, LoRA rank {RANK} in every linear layer\n")
    print(
        "| precision | utterances, audio s | audio s/s | GFLOP/s | of the fp32 limit | of the bf16 limit | first, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        shares = [f"{row[f'part_of_{name}_limit']:.0%} of {row[f'{name}_limit_gflops']:.0f}" for name in DTYPES]
        print(
            f"| {row['precision']} | {row['utterances']}, {row['batch_seconds']:.0f} | "
            f"{row['audio_seconds_per_second']:.0f} | {row['gflops_per_second']:.0f} | {shares[0]} | {shares[1]} | "
            f"{row['first_step_seconds']:.1f} |"
        )
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
