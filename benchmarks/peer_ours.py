#!/usr/bin/env python3
"""Train on the batches that a peer made, with this project's loop, and write what it did as JSON.

Started by `peer.py` and `seq2seq_trainer.py`. Reads the peer's batches and its adapter's initial values, and from the
official trainer its audio cache too, so that both train on the same samples. The official adapter shares one A between
the queries, keys and values of a layer; here the three A of PEFT's adapter are made one parameter, so that the same
function is trained.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from recipe import recipe_of
from safetensors.torch import load_file

from lora.config import DecodeSettings, PreprocessConfig, TargetPreset
from lora.data.waves import LazyWave
from lora.decoding import Recognizer
from lora.model.adapters import AdapterConfig, restore_state_
from lora.model.device import resolve_device, resolve_precision
from lora.model.feature_cache import EncoderCache
from lora.model.load import Bundle, load_bundle
from lora.model.methods import Adaptation, start_adaptation
from lora.model.text import encode_text
from lora.runners.pace import peak_mb
from lora.training.examples import Example
from lora.training.loop import Trainer
from lora.training.objective import OBJECTIVES
from lora.units import Wave

OFFICIAL_STEPS, OFFICIAL_WARMUP = 3000, 100
CACHE_BYTES = 16 * 2**30
ROLES = ("q_proj", "k_proj", "v_proj")
RECIPE = recipe_of(
    max_steps=OFFICIAL_STEPS,
    learning_rate=1e-3,
    warmup_ratio=OFFICIAL_WARMUP / OFFICIAL_STEPS,
    weight_decay=0.0,
    max_grad_norm=1.0,
)
"""The official defaults: AdamW at 1e-3 after a warm-up of 100 steps, gradients clipped at 1. Within the first 100 steps
the two schedules are the same; after them the official rate stays and ours falls."""


def read_manifest_examples(bundle: Bundle, manifest: Path) -> list[Example]:
    """Return the rows of a manifest with their samples as they are in the files, as the Seq2SeqTrainer hears them."""

    def read(path: Path) -> Wave:
        wave: Wave = soundfile.read(path, dtype="float32")[0]
        return wave

    examples = []
    for row in read_rows(manifest):
        path = manifest.parent / row["audio"]
        wave = LazyWave(partial(read, path), soundfile.info(path).frames)
        token_ids = encode_text(bundle, row["text"], place=row["id"])
        examples.append(Example(row["id"], wave, tuple(token_ids), row["text"], row["speaker_id"]))
    return examples


def read_official_examples(bundle: Bundle, manifest: Path, work: Path) -> list[Example]:
    """Return the rows of the official trainer's audio cache, in its order.

    Raises:
        SystemExit: the official tokens of a row are not ours.
    """
    index = json.loads((work / f"{manifest.stem}_index.json").read_text())

    def read(start: int, count: int) -> Wave:
        samples = np.fromfile(work / f"{manifest.stem}.i16", dtype=np.int16, count=count, offset=2 * start)
        return samples.astype(np.float32) / np.float32(32768)

    examples = []
    for row, entry in zip(read_rows(manifest), index["entries"], strict=True):
        token_ids = entry["tokens"][1:-1]
        if token_ids != encode_text(bundle, row["text"], place=row["id"]):
            raise SystemExit(f"{row['id']}: the official trainer's tokens are not ours; the runs cannot be compared.")
        wave = LazyWave(partial(read, entry["offset"], entry["samples"]), entry["samples"])
        examples.append(Example(row["id"], wave, tuple(token_ids), row["text"], row["speaker_id"]))
    return examples


def read_rows(manifest: Path) -> list[Any]:
    """Return a manifest's rows."""
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def start_peft_adapter(bundle: Bundle, targets: TargetPreset, initial: dict[str, torch.Tensor]) -> Adaptation:
    """Inject the same adapter as the peer's PEFT model has: rank 8, alpha = rank, no dropout."""
    adaptation = start_adaptation(bundle, AdapterConfig("lora", 8, 8.0, 0.0, targets), seed=0)
    restore_state_(adaptation.module, initial)
    return adaptation


def start_official_adapter(bundle: Bundle, initial: dict[str, torch.Tensor]) -> Adaptation:
    """Inject the official recipe's adapter: rank 8, alpha = rank, one A for the three projections of a layer."""
    adaptation = start_adaptation(bundle, AdapterConfig("lora", 8, 8.0, 0.0, "decoder-attention"), seed=0)
    for number, layer in enumerate(bundle.core.model.decoder.layers):
        first: Any = layer.self_attn.q_proj.lora_A["default"]
        with torch.no_grad():
            first.weight.copy_(initial[f"decoder.{number}.down"])
        for role in ROLES[1:]:
            getattr(layer.self_attn, role).lora_A["default"].weight = first.weight
    return adaptation


def fill(cache: EncoderCache, examples: Sequence[Example], batches: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Encode every row that the batches use, batch by batch; return seconds of work and of audio."""
    seen: set[int] = set()
    started = time.perf_counter()
    for batch in batches:
        if not seen.issuperset(batch):
            rows = [examples[index] for index in batch]
            cache.encode([row.audio_sha256 for row in rows], lambda place, rows=rows: rows[place].wave)
            seen.update(batch)
    return time.perf_counter() - started, sum(examples[index].seconds for index in seen)


def main() -> int:
    """Fill the cache, train, and write `ours.json` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer", choices=["official", "seq2seq"], required=True)
    parser.add_argument("--targets", default="decoder-attention", help="of the Seq2SeqTrainer's adapter")
    parser.add_argument("--parts", type=int, default=1, help="in which a step's batch is computed")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    bundle = load_bundle(str(options.model), device)
    initial = load_file(options.work / "adapter.safetensors")
    if options.peer == "official":
        examples = read_official_examples(bundle, options.manifest, options.work)
        adaptation, recipe = start_official_adapter(bundle, initial), RECIPE
    else:
        examples = read_manifest_examples(bundle, options.manifest)
        # The peer's rate is constant; over a benchmark's steps ours falls by less than a thousandth.
        adaptation = start_peft_adapter(bundle, options.targets, initial)
        recipe = replace(RECIPE, learning_rate=1e-4, warmup_ratio=0.0)
    batches: list[list[int]] = json.loads((options.work / "result.json").read_text())["batches"]
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=device.type == "cpu")
    cache = None
    if adaptation.frozen_encoder_layers:
        # A folder of its own: nothing is there before, as in a first run.
        cache = EncoderCache(
            bundle,
            recognizer.encode,
            options.work / f"features-{precision}",
            cut=adaptation.frozen_encoder_layers,
            preprocess=recognizer.preprocess,
            state_format=precision,
            limit_bytes=CACHE_BYTES,
        )
    fill_seconds, fill_audio_seconds = (0.0, 1.0) if cache is None else fill(cache, examples, batches)
    recipe = replace(recipe, gradient_accumulation=options.parts)
    trainer = Trainer(adaptation, OBJECTIVES["aligned"], recipe, accelerator, cache)
    losses, step_seconds = [], []
    for step, batch in enumerate(batches, start=1):
        started = time.perf_counter()
        row = trainer.step(step, [examples[index] for index in batch], [])
        step_seconds.append(time.perf_counter() - started)
        losses.append(row["loss"])
    result = {
        "precision": precision,
        "losses": losses,
        "step_seconds": step_seconds,
        "audio_seconds": [sum(examples[index].seconds for index in batch) for batch in batches],
        "fill_seconds": fill_seconds,
        "fill_audio_seconds": fill_audio_seconds,
        "peak_mb": peak_mb(device),
    }
    (options.work / "ours.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
