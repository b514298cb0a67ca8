#!/usr/bin/env python3
"""Measure how long a run of `make run`'s job takes until its first training step is done.

Starts `experiment` on the demo's manifests (`make run` makes them) in a process of its own, until it says that the
first step was done, and ends it. Once with an empty cache folder, where baselines are scored first, and once with what
that left. Exit code 3 when either takes longer than 10 s.

    make run && python benchmarks/startup.py
    python benchmarks/startup.py --rounds 5
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from workload import ROOT, Spread, fail, machine

from lora.errors import InputError, LoraError, SetupError
from lora.runners.progress import progress_bar

MAX_SECONDS = 10.0
MARK = "first step "


def seconds_to_first_step(config: Path, folder: Path) -> float:
    """Return the seconds from starting the command to its first step.

    Raises:
        SetupError: it ended before that; its last lines are in the message.
    """
    words = [sys.executable, "-m", "lora", "experiment", "--config", str(config), "--output-dir", str(folder / "run")]
    words += ["--cache-dir", str(folder / "cache")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    lines = []
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith(MARK):
                spent = time.perf_counter() - started
                process.kill()
                return spent
    raise SetupError(f"experiment ended with exit code {process.returncode} before its first step", lines[-15:])


def main() -> int:
    """Print seconds without and with what an earlier run left; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, default=ROOT / "configs/demo.yaml", help="job file (default: the demo)")
    parser.add_argument("--rounds", type=int, default=3, help="both in turn, this many times (default: 3)")
    options = parser.parse_args()
    experiment = yaml.safe_load(options.job.read_text(encoding="utf-8"))["experiment"] | {"seed": 42}
    try:
        if not (ROOT / experiment["dataset_path"]).is_file():
            raise InputError(f"{experiment['dataset_path']} is missing. Run `make run` first.")
        empty, warm = [], []
        with progress_bar("starts", 2 * options.rounds) as advance:
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as name:
                    config = Path(name) / "config.yaml"
                    config.write_text(yaml.safe_dump(experiment), encoding="utf-8")
                    for times in (empty, warm):
                        times.append(seconds_to_first_step(config, Path(name)))
                        advance(1)
    except LoraError as error:
        return fail(error)
    spreads = {"empty cache": Spread(tuple(empty)), "baselines known": Spread(tuple(warm))}
    print(f"{machine()}\n\n| start | seconds to the first step |\n|---|---|")
    for kind, values in spreads.items():
        print(f"| {kind} | {values.text(1)} |")
    print(json.dumps({kind: values.median for kind, values in spreads.items()}))
    return 0 if all(values.median <= MAX_SECONDS for values in spreads.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
