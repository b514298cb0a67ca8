#!/usr/bin/env python3
"""Measure the peak memory of building a manifest: many clips, a draw from a very long table, one long clip.

Each measurement runs in a process of its own, because peak memory is a process's. Exit code 3 when one
needs 1 GB or more, or when ten times the clips need more than 50 MB more.

    python benchmarks/build_memory.py [--clips 4000] [--rows 1000000]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from lora.runners.build import BuildOptions, build_manifest

MAX_MB, MAX_GROWTH_MB = 1000.0, 50.0
NUM_FILES = 50


def peak_mb() -> float:
    """Return this process's peak resident memory in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * 1024 / 1e6 if sys.platform != "darwin" else peak / 1e6


def make_recordings(folder: Path) -> None:
    """Write clips of 5 to 15 s at 44.1 kHz, and one of 15 minutes at 48 kHz stereo."""
    rng = np.random.default_rng(0)
    for number in range(NUM_FILES):
        noise = 0.1 * rng.standard_normal(round(rng.uniform(5, 15) * 44_100))
        soundfile.write(folder / f"{number}.flac", noise, 44_100)
    with soundfile.SoundFile(folder / "long.flac", "w", 48_000, 2) as file:
        for _ in range(900):
            file.write(0.1 * rng.standard_normal((48_000, 2)))


def make_table(folder: Path, rows: int) -> Path:
    """Write a table of `rows` rows that take the recordings in turn; read from end to end it is that long a source."""
    path = folder / f"rows{rows}.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("audio,text,speaker_id,id\n")
        for number in range(rows):
            file.write(f"{number % NUM_FILES}.flac,the words of utterance {number},s{number % 997},utt-{number:09d}\n")
    return path


def measure(table: Path, options: dict[str, object]) -> dict[str, float]:
    """Build in this process."""
    before, start = peak_mb(), time.perf_counter()
    output = table.with_name(f"{table.stem}-{os.getpid()}") / "m.jsonl"
    built = build_manifest(BuildOptions(source="csv", path=table, output=output, **options))  # type: ignore[arg-type]
    return {
        "clips": built.utterances,
        "hours": built.seconds / 3600,
        "seconds": time.perf_counter() - start,
        "peak_mb": peak_mb(),
        "start_mb": before,
    }


def measure_apart(name: str, table: Path, **options: object) -> dict[str, float]:
    """Build in a new process, and print what it needed."""
    command = [sys.executable, __file__, "--table", str(table), "--options", json.dumps(options)]
    result: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(
        f"{name:<28} {result['clips']:.0f} clips, {result['hours']:.2f} h of audio: {result['seconds']:.0f} s, "
        f"peak {result['peak_mb']:.0f} MB ({result['start_mb']:.0f} MB before)",
        flush=True,
    )
    return result


def main() -> int:
    """Print one line a measurement; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(json.dumps(measure(options.table, options.options)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_recordings(folder)
        few = measure_apart("a tenth of the clips", make_table(folder, options.clips // 10))
        many = measure_apart("all clips", make_table(folder, options.clips))
        draw = measure_apart(f"100 of {options.rows} rows", make_table(folder, options.rows), samples=100)
        (folder / "long.csv").write_text("audio,text\nlong.flac,many words\n", encoding="utf-8")
        long = measure_apart("one clip of 15 minutes", folder / "long.csv")
    growth_mb = many["peak_mb"] - few["peak_mb"]
    print(f"ten times the clips: {growth_mb:+.0f} MB")
    missed = max(result["peak_mb"] for result in (few, many, draw, long)) >= MAX_MB or growth_mb > MAX_GROWTH_MB
    print("a bar is missed" if missed else "every bar is met")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
