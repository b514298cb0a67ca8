#!/usr/bin/env python3
"""Measure how a manifest of 100,000 rows loads, and how inline waveforms stream: seconds and peak memory.

Each measurement runs in a process of its own, because peak memory is a process's. Exit code 3 when a
bar is missed: 100,000 rows under 2 s and 500 MB; streaming adds less than 100 MB however many rows.

    python benchmarks/manifest_scale.py [--rows 100000] [--inline-rows 300]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lora.data.manifest import Utterance, iter_manifest, read_manifest, write_manifest

MAX_LOAD_SECONDS, MAX_LOAD_MB, MAX_STREAM_MB = 2.0, 500.0, 100.0
INLINE_SECONDS = 10


def peak_mb() -> float:
    """Return this process's peak resident memory."""
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024  # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 / 1e6 if unit == 1024 else 1 / 1e6)


def build_rows(folder: Path, count: int) -> Path:
    """Make `count` files in folders of a thousand, and the manifest that names them, with metadata keys."""
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(count):
            name = f"audio/{number // 1000:03d}/{number:06d}.flac"
            if number % 1000 == 0:
                (folder / name).parent.mkdir(parents=True)
            (folder / name).touch()
            row = {"id": f"utt-{number:06d}", "audio": name, "text": f"the words of utterance number {number}"}
            file.write(json.dumps(row | {"speaker_id": number % 97, "chapter": number % 11, "duration": 4.2}) + "\n")
    return folder / "rows.jsonl"


def build_inline(folder: Path, count: int) -> Path:
    """Write `count` inline waveforms from a generator: the writer must stream too."""
    rng = np.random.default_rng(0)
    waves = (rng.uniform(-1, 1, INLINE_SECONDS * 16_000).astype(np.float32) for _ in range(count))
    utterances = (Utterance(f"utt-{number}", "some words", wave) for number, wave in enumerate(waves))
    write_manifest(folder / "inline.jsonl", utterances)
    return folder / "inline.jsonl"


def measure(task: str, path: Path) -> dict[str, float]:
    """Run one task in this process."""
    before = peak_mb()
    start, start_cpu = time.perf_counter(), time.process_time()
    if task == "load":
        count = len(read_manifest(path))
    elif task == "stream":
        count = sum(1 for _ in iter_manifest(path))
    else:
        count = int(path.name)
        build_inline(path.parent, count)
    return {
        "rows": count,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - start_cpu,
        "peak_mb": peak_mb(),
        "added_mb": peak_mb() - before,
    }


def measure_apart(task: str, path: Path) -> dict[str, float]:
    """Run one task in a new process."""
    command = [sys.executable, __file__, "--task", task, "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> int:
    """Print one line a measurement; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--inline-rows", type=int, default=300)
    parser.add_argument("--task", choices=["load", "stream", "write"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(options.task, options.path)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = build_rows(folder, options.rows)
        load = measure_apart("load", rows)
        write = measure_apart("write", folder / str(options.inline_rows))
        stream = measure_apart("stream", folder / "inline.jsonl")
        size_mb = (folder / "inline.jsonl").stat().st_size / 1e6
    print(
        f"load    {load['rows']:.0f} rows: {load['seconds']:.2f} s ({load['cpu']:.2f} s of one core), "
        f"peak {load['peak_mb']:.0f} MB"
    )
    for what, result in (("write", write), ("stream", stream)):
        print(
            f"{what:<7} {result['rows']:.0f} inline waveforms of {INLINE_SECONDS} s ({size_mb:.0f} MB): "
            f"{result['seconds']:.2f} s, peak {result['peak_mb']:.0f} MB, {result['added_mb']:.0f} MB above the start"
        )
    missed = load["seconds"] > MAX_LOAD_SECONDS or load["peak_mb"] > MAX_LOAD_MB
    missed = missed or max(write["added_mb"], stream["added_mb"]) > MAX_STREAM_MB
    print("a bar is missed" if missed else "every bar is met")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
