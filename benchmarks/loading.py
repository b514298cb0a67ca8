#!/usr/bin/env python3
"""Measure how a training manifest of 100,000 rows starts: seconds and peak memory, each in a process of its own.

Exit code 3 when a bar is missed: ready under 30 s; from 1 to 16 times the inline audio, memory grows by under 50 MB.

    python benchmarks/loading.py [--rows 100000] [--inline-rows 100]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

MAX_START_SECONDS, MAX_GROWTH_MB = 30.0, 50.0
DIFFERENT_FILES = 200
INLINE_SECONDS = 10


def peak_mb() -> float:
    """Return this process's peak resident memory."""
    unit = 1024 if sys.platform != "darwin" else 1  # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def build_files(folder: Path, count: int) -> Path:
    """Name 200 different FLAC files of one to five seconds `count` times, by hard links."""
    rng = np.random.default_rng(0)
    for number in range(DIFFERENT_FILES):
        samples = int(rng.uniform(1, 5) * 16_000)
        soundfile.write(folder / f"source-{number}.flac", 0.1 * rng.standard_normal(samples), 16_000)
    with (folder / "files.jsonl").open("w") as file:
        for number in range(count):
            name = f"audio/{number // 1000:03d}/{number:06d}.flac"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / f"source-{number % DIFFERENT_FILES}.flac", folder / name)
            file.write(json.dumps({"audio": name, "text": "one two three four five"}) + "\n")
    return folder / "files.jsonl"


def build_inline(folder: Path, count: int) -> Path:
    """Write inline waveforms."""
    rng = np.random.default_rng(0)
    path = folder / f"inline-{count}.jsonl"
    with path.open("w") as file:
        for _ in range(count):
            wave = np.round(0.1 * rng.standard_normal(INLINE_SECONDS * 16_000), 4).tolist()
            file.write(json.dumps({"audio": wave, "text": "one two three four five"}) + "\n")
    return path


def measure(path: Path) -> dict[str, float]:
    """Read a manifest, check its audio by headers and tokenize it, then read every inline wave once."""
    import torch

    from lora.config import PreprocessConfig
    from lora.data.manifest import read_manifest
    from lora.data.wave_store import WaveStore
    from lora.data.waves import work_ahead
    from lora.model.load import load_bundle
    from lora.training.examples import build_examples

    bundle = load_bundle("builtin:digits", torch.device("cpu"))
    before, start = peak_mb(), time.perf_counter()
    manifest = read_manifest(path, stream_inline=True)
    manifest_seconds = time.perf_counter() - start
    waves = WaveStore(PreprocessConfig(), memory_bytes=16 * 2**20)
    examples = build_examples(bundle, manifest.utterances, waves, decode_all=False)
    ready_seconds = time.perf_counter() - start
    if path.name.startswith("inline"):
        batches = ([examples[start].audio.load] for start in range(len(examples)))
        assert sum(len(wave) for [wave] in work_ahead(batches)) == len(examples) * INLINE_SECONDS * 16_000
    return {"manifest_s": manifest_seconds, "ready_s": ready_seconds, "added_mb": peak_mb() - before}


def in_process(path: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    output = subprocess.run([sys.executable, __file__, "--measure", str(path)], check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(output.stdout)
    print(path.name, {name: round(value, 2) for name, value in result.items()}, flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Build the manifests, measure, compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--inline-rows", type=int, default=100)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        files = in_process(build_files(Path(name), options.rows))
        few, many = (in_process(build_inline(Path(name), count * options.inline_rows // 16)) for count in (1, 16))
    growth = many["added_mb"] - few["added_mb"]
    print(json.dumps({"ready_s": files["ready_s"], "inline_growth_mb": growth}))
    return 0 if files["ready_s"] < MAX_START_SECONDS and growth < MAX_GROWTH_MB else 3


if __name__ == "__main__":
    raise SystemExit(main())
