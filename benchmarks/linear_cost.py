#!/usr/bin/env python3
"""Measure how cost grows: training time with hours of audio, evaluation time with utterances, from 1 to 16 times.

Runs the commands that users run, each in a process of its own: `experiment` for one pass over the audio, and `run-stt`
over a manifest. Training time is the run's own record, evaluation time that of the whole process less its start-up,
which is measured on one utterance. A line through the origin is fitted; what is farthest from it is reported, and
peak memory at each size. Writes a plot. Exit code 3 when a point is farther than 25% from the line at 16 times.

    python benchmarks/linear_cost.py --fsdd ../shared/fsdd --plot docs/images/linear-cost.svg
    python benchmarks/linear_cost.py --sizes 1 2 --clips 16 --plot build/linear-cost.svg
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workload import FSDD, ROOT, fail, machine, require_folder

from lora.data.sources.base import write_clips
from lora.data.sources.fsdd import read_fsdd
from lora.errors import LoraError, SetupError
from lora.runners.progress import progress_bar

BATCH_SECONDS = 60.0
MAX_DEVIATION = 0.25


@dataclass(frozen=True)
class Point:
    """One size: hours of audio or number of utterances, seconds of work, peak memory."""

    size: float
    seconds: float
    peak_mb: float


def run_measured(words: Sequence[object], log: Path) -> tuple[float, float]:
    """Run `moonshine-lora` in a process of its own; return its seconds and its peak memory in MB.

    Raises:
        SetupError: it failed; the end of what it wrote is in the message.
    """
    command = [sys.executable, "-m", "lora", *map(str, words)]
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    spent = time.perf_counter() - started
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SetupError(f"{command[3]} ended with exit code {process.returncode}. Its last lines", tail)
    return spent, usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6


def make_manifest(path: Path, fsdd: Path, clips: int, *, split: str, seed: int) -> tuple[Path, float]:
    """Write connected digits; return the manifest and its hours of audio."""
    made = list(read_fsdd(fsdd, split=split, samples=clips, seed=seed))  # type: ignore[arg-type]
    write_clips(made, path, total=clips)
    return path, sum(len(clip.wave) / clip.sampling_rate for clip in made) / 3600


def measure_training(options: argparse.Namespace, folder: Path, size: int, sets: dict[str, Path]) -> Point:
    """Train for one pass over `size` times the clips."""
    manifest, hours = make_manifest(
        folder / f"train-{size}.jsonl", options.fsdd, size * options.clips, split="train", seed=1
    )
    steps = max(round(hours * 3600 / BATCH_SECONDS), 1)
    output = folder / f"run-{size}"
    words = ["experiment", "--output-dir", output, "--dataset-path", manifest, "--model-id", options.model_id]
    words += ["--manifest-path", sets["domain"], "--guardrail-manifest", sets["guardrail"]]
    words += ["--validation-manifest", sets["dev"], "--max-steps", steps, "--eval-interval", steps]
    words += ["--batch-seconds", BATCH_SECONDS, "--targets", options.targets, "--device", options.device]
    words += ["--replay-ratio", 0, "--distillation-weight", 0, "--strengths", 1, "--allow-leakage"]
    _, peak_mb = run_measured(words, folder / "log.txt")
    record = json.loads((output / "experiment_metrics.json").read_text(encoding="utf-8"))
    return Point(hours, record["train"]["seconds"], peak_mb)


def measure_evaluation(options: argparse.Namespace, folder: Path, clips: int) -> Point:
    """Transcribe and score `clips` utterances."""
    manifest, _ = make_manifest(folder / f"test-{clips}.jsonl", options.fsdd, clips, split="test", seed=2)
    words = ["run-stt", "--manifest", manifest, "--output", folder / "result.json", "--model-id", options.model_id]
    seconds, peak_mb = run_measured([*words, "--device", options.device], folder / "log.txt")
    return Point(clips, seconds, peak_mb)


def slope(points: Sequence[Point]) -> float:
    """Return the slope of the line through the origin that fits best by least squares."""
    return sum(point.size * point.seconds for point in points) / sum(point.size**2 for point in points)


def deviation(points: Sequence[Point]) -> float:
    """Return how far the largest size is from the line of the smaller ones, as a part of the line's value."""
    *smaller, largest = points
    line = slope(smaller) * largest.size
    return (largest.seconds - line) / line


def print_points(title: str, unit: str, points: Sequence[Point]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n\n| {unit} | seconds | seconds per {unit.rstrip('s')} | peak MB |\n|---|---|---|---|")
    for point in points:
        rate = point.seconds / point.size
        print(f"| {point.size:.3g} | {point.seconds:.1f} | {rate:.3g} | {point.peak_mb:.0f} |")
    print(f"\nthe largest is {100 * deviation(points):+.0f}% from the line through the origin and the smaller ones")


def draw(path: Path, training: Sequence[Point], evaluation: Sequence[Point]) -> None:
    """Draw both with their lines, and peak memory below."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7, 4.5), sharex="col", height_ratios=[2, 1])
    for column, (points, label) in enumerate(((training, "hours of audio"), (evaluation, "utterances"))):
        sizes = [point.size for point in points]
        above, below = axes[0][column], axes[1][column]
        above.plot(sizes, [point.seconds for point in points], "o", color="#1b6ca8")
        above.plot([0, sizes[-1]], [0, slope(points) * sizes[-1]], color="#b0b0b0", zorder=0)
        above.set_title(("training, one pass", "evaluation")[column], fontsize=10)
        above.set_ylabel("seconds")
        below.plot(sizes, [point.peak_mb for point in points], "o-", color="#a8501b")
        below.set_ylim(bottom=0)
        below.set_ylabel("peak MB")
        below.set_xlabel(label)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Measure every size, print two tables, draw, and return 3 where the growth is not linear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, default=FSDD, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="multiples (default: 1 to 16)")
    parser.add_argument("--clips", type=int, default=100, help="utterances at 1 time (default: 100, 5 minutes)")
    parser.add_argument("--model-id", default="builtin:digits")
    parser.add_argument("--targets", default="all-linear", help="layers with an adapter (default: all-linear)")
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu")
    parser.add_argument("--plot", type=Path, default=ROOT / "build/linear-cost.svg")
    options = parser.parse_args()
    if len(options.sizes) < 2 or options.sizes != sorted(set(options.sizes)):
        parser.error("--sizes: expected at least two rising multiples, such as 1 2 4 8 16")
    try:
        require_folder(options.fsdd, "--fsdd")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sets = {
                part: make_manifest(folder / f"{part}.jsonl", options.fsdd, 20, split="test", seed=seed)[0]
                for seed, part in enumerate(("domain", "guardrail", "dev"), start=10)
            }
            training, evaluation = [], []
            with progress_bar("sizes", 2 * len(options.sizes) + 1) as advance:
                startup = measure_evaluation(options, folder, 1)
                advance(1)
                for size in options.sizes:
                    training.append(measure_training(options, folder, size, sets))
                    advance(1, f"training, {size} times")
                    point = measure_evaluation(options, folder, size * options.clips)
                    evaluation.append(Point(point.size, point.seconds - startup.seconds, point.peak_mb))
                    advance(1, f"evaluation, {size} times")
    except LoraError as error:
        return fail(error)
    print(f"{machine()}; {options.model_id}, adapter in {options.targets}")
    print_points("Training, one pass over the audio", "hours", training)
    print_points(f"Evaluation (start-up of {startup.seconds:.1f} s taken off)", "utterances", evaluation)
    draw(options.plot, training, evaluation)
    print(f"\n{options.plot}")
    linear = all(abs(deviation(points)) <= MAX_DEVIATION for points in (training, evaluation))
    print("the growth is linear" if linear else f"the growth is not linear within {MAX_DEVIATION:.0%}")
    return 0 if linear else 3


if __name__ == "__main__":
    sys.exit(main())
