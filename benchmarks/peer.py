#!/usr/bin/env python3
"""Compare training with the official trainer, `moonshine_voice.lora`: same model, data, recipe and batch order.

`make bench-peer` makes the peer's environment and runs this. Each round runs the official trainer and then ours, each
in a process of its own: the official one with its own command line, ours on the batches that the official one made,
the samples of its audio cache and its adapter's initial values. Reported are ratios within a round, median and range.

The last line is JSON. `throughput_ratio` is audio seconds a second with the encoder states computed; with their
computation counted, `throughput_ratio_with_filling` is extrapolated from the measured rates to the official default of
3,000 steps on 2 hours of audio. Exit code 3 when a bar is missed: throughput 8 and 3, memory 0.7, losses 0.001.

    make bench-peer
    python benchmarks/peer.py --rounds 5 --precision bf16 fp32
    python benchmarks/peer.py --fsdd ../shared/fsdd --clips 32 --steps 8 --rounds 1
    python benchmarks/peer.py --device cuda --precision bf16
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_ours import OFFICIAL_STEPS
from workload import (
    FSDD,
    LIBRIVOX,
    ROOT,
    Spread,
    fail,
    machine,
    make_checkpoint,
    make_speech,
    read_json,
    require_folder,
)

from lora.errors import LoraError, SetupError
from lora.files import folder_beside
from lora.runners.progress import progress_bar

HERE = Path(__file__).resolve().parent
WARMUP_STEPS = 3
OFFICIAL_AUDIO_SECONDS = 2 * 3600.0
MIN_RATIO, MIN_RATIO_WITH_FILLING, MAX_MEMORY_RATIO, MAX_LOSS_DIFFERENCE = 8.0, 3.0, 0.7, 1e-3


@dataclass(frozen=True)
class Round:
    """What one round measured with one precision of ours."""

    peer: Any
    ours: Any

    def rates(self) -> tuple[float, float]:
        """Return audio seconds a second of the peer and of ours, over the same steps after the first ones."""
        audio = sum(self.ours["audio_seconds"][WARMUP_STEPS:])
        peer, ours = (sum(side["step_seconds"][WARMUP_STEPS:]) for side in (self.peer, self.ours))
        return audio / peer, audio / ours

    def filling_rate(self) -> float:
        """Return the audio seconds a second at which ours computed the encoder states."""
        return float(self.ours["fill_audio_seconds"] / self.ours["fill_seconds"])

    def throughput_ratio(self) -> float:
        """Return ours over theirs, with the encoder states computed."""
        peer, ours = self.rates()
        return ours / peer

    def ratio_with_filling(self) -> float:
        """Return the peer's time over ours: the official default's steps, and every state computed once.

        Extrapolated: the audio of that many steps at each side's measured rate, and two hours at the rate at which
        the states of this round were computed.
        """
        peer, ours = self.rates()
        steps_audio = self.ours["audio_seconds"]
        audio = OFFICIAL_STEPS * sum(steps_audio) / len(steps_audio)
        return (audio / peer) / (audio / ours + OFFICIAL_AUDIO_SECONDS / self.filling_rate())

    def memory_ratio(self) -> float:
        """Return our peak memory over theirs."""
        return float(self.ours["peak_mb"] / self.peer["peak_mb"])

    def loss_difference(self) -> float:
        """Return the largest difference of the two losses of a step."""
        return max(abs(a - b) for a, b in zip(self.peer["losses"], self.ours["losses"], strict=True))


def run_worker(command: Sequence[str | Path], log: Path) -> None:
    """Run one side.

    Raises:
        SetupError: it failed; the end of what it wrote is in the message.
    """
    words = [str(word) for word in command]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)])}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise SetupError(f"{words[1]} ended with exit code {done.returncode}. Its last lines", tail)


def run_round(options: argparse.Namespace, place: Path, advance: Any) -> dict[str, Round]:
    """Run the official trainer, then ours with each precision."""
    with folder_beside(place) as work:
        common = ["--model", options.model, "--manifest", options.manifest, "--work", work, "--device", options.device]
        advance(0, "official trainer")
        official = HERE / "peer_official.py"
        words = [options.peer_python, official, *common, "--steps", options.steps]
        run_worker(words, place.with_suffix(".official.log"))
        advance(1)
        rounds = {}
        for precision in options.precision:
            advance(0, f"ours, {precision}")
            log = place.with_suffix(f".{precision}.log")
            ours = [sys.executable, HERE / "peer_ours.py", *common, "--peer", "official", "--precision", precision]
            ours += ["--parts", options.parts]
            run_worker(ours, log)
            rounds[precision] = Round(read_json(work / "result.json"), read_json(work / "ours.json"))
            advance(1)
        return rounds


def summarise(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Return every measure of one precision with its spread; those of filling where something was computed once."""
    measures: dict[str, Callable[[Round], float]] = {
        "throughput_ratio": Round.throughput_ratio,
        "throughput_ratio_with_filling": Round.ratio_with_filling,
        "memory_ratio": Round.memory_ratio,
        "loss_max_difference": Round.loss_difference,
        "peer_audio_seconds_per_second": lambda item: item.rates()[0],
        "our_audio_seconds_per_second": lambda item: item.rates()[1],
        "our_filling_audio_seconds_per_second": Round.filling_rate,
        "peer_peak_mb": lambda item: item.peer["peak_mb"],
        "our_peak_mb": lambda item: item.ours["peak_mb"],
    }
    fills = all(item.ours["fill_seconds"] for item in rounds)
    return {
        name: Spread(tuple(measure(item) for item in rounds))
        for name, measure in measures.items()
        if fills or "filling" not in name
    }


def missed_bars(measures: dict[str, Spread]) -> list[str]:
    """Return which requirements the medians do not meet; for the losses it is the largest difference."""
    bars = [
        ("throughput_ratio", measures["throughput_ratio"].median >= MIN_RATIO),
        ("throughput_ratio_with_filling", measures["throughput_ratio_with_filling"].median >= MIN_RATIO_WITH_FILLING),
        ("memory_ratio", measures["memory_ratio"].median <= MAX_MEMORY_RATIO),
        ("loss_max_difference", max(measures["loss_max_difference"].values) <= MAX_LOSS_DIFFERENCE),
    ]
    return [name for name, met in bars if not met]


def print_table(title: str, measures: dict[str, Spread]) -> None:
    """Print measures as a Markdown table."""
    print(f"\n{title}\n\n| measure | median (range) |\n|---|---|")
    for measure, values in measures.items():
        digits = 6 if "loss" in measure else 0 if values.median > 20 else 2
        print(f"| {measure.replace('_', ' ')} | {values.text(digits)} |")


def report(options: argparse.Namespace, rounds: list[dict[str, Round]]) -> int:
    """Print a table a precision and the JSON line; return the exit code."""
    print(f"{machine()}; {len(rounds)} round(s) of {options.steps} steps of 8 utterances")
    tables = {name: summarise([item[name] for item in rounds]) for name in options.precision}
    for name, measures in tables.items():
        print_table(f"ours in {name}", measures)
    losses = rounds[0][options.precision[0]].peer["losses"]
    print(f"\nofficial loss: {losses[0]:.4f} at step 1, {losses[-1]:.4f} at step {len(losses)}")
    headline = tables[options.precision[0]]
    missed = missed_bars(headline)
    print(f"missed: {', '.join(missed)}" if missed else "every bar is met", flush=True)
    result: dict[str, Any] = {name: values.median for name, values in headline.items()}
    result["loss_max_difference"] = max(headline["loss_max_difference"].values)
    result["precision"] = options.precision[0]
    result["spread"] = {name: [min(values.values), max(values.values)] for name, values in headline.items()}
    print(json.dumps(result))
    return 3 if missed else 0


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that both peers have, and parse."""
    parser.add_argument("--fsdd", type=Path, default=FSDD, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--librivox", type=Path, default=LIBRIVOX, help="sentences to add, where the folder is there")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both (default: cpu)")
    parser.add_argument("--peer-python", type=Path, default=ROOT / "build/peer/bin/python", help="Python of the peer")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench-peer", help="model and speech are kept here")
    options = parser.parse_args()
    if options.steps <= WARMUP_STEPS:
        parser.error(f"--steps: got {options.steps}, expected more than {WARMUP_STEPS}, which warm up and do not count")
    return options


def prepare(options: argparse.Namespace) -> None:
    """Add `model` and `manifest` to the options, made unless they are there.

    Raises:
        SetupError: the peer's Python is missing.
        InputError: there is no FSDD.
    """
    if not options.peer_python.is_file():
        raise SetupError(f"{options.peer_python}: no such Python. `make build/peer/.installed` makes it.")
    require_folder(options.fsdd, "--fsdd")
    librivox = options.librivox if options.librivox.is_dir() else None
    options.model = make_checkpoint(options.folder / "model", librivox=librivox)
    manifest = options.folder / f"speech-{options.clips}.jsonl"
    options.manifest = make_speech(manifest, fsdd=options.fsdd, librivox=librivox, clips=options.clips)


def main() -> int:
    """Prepare model and speech, run the rounds in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=160, help="utterances; 8 make a batch (default: 160, 20 minutes)")
    parser.add_argument("--steps", type=int, default=50, help="steps of each side in a round (default: 50)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, official and ours in turn (default: 3)")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16", "fp16"], default=["bf16", "fp32"],
        help="of ours; the first one is that of the JSON line (default: bf16 fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--parts", type=int, default=1, help="in which ours computes a step's batch; more take less memory (default: 1)"
    )
    options = parse_options(parser)
    try:
        prepare(options)
        with progress_bar("rounds", options.rounds * (1 + len(options.precision))) as advance:
            rounds = [run_round(options, options.folder / "work", advance) for _ in range(options.rounds)]
    except LoraError as error:
        return fail(error)
    return report(options, rounds)


if __name__ == "__main__":
    sys.exit(main())
