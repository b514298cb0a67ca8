#!/usr/bin/env python3
"""Compare training with Transformers' Seq2SeqTrainer and PEFT: same model, data, adapter and batch order.

Each round runs the peer and then ours, each in a process of its own, on random weights of streaming-tiny size and real
speech. Printed are ratios of the same round, median and range, for an adapter in the decoder's self-attention (ours
computes the encoder once) and one in every linear layer (ours computes everything in every step, as the peer does).
The peer pads the encoder as Transformers does, so the losses are close and not equal.

    make build/peer/.installed && python benchmarks/seq2seq_trainer.py
    python benchmarks/seq2seq_trainer.py --targets all-linear --precision fp32 --rounds 5
    python benchmarks/seq2seq_trainer.py --clips 32 --steps 5 --rounds 1
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from peer import HERE, Round, parse_options, prepare, print_table, run_worker, summarise
from workload import LAYERS, fail, machine, read_json

from lora.errors import LoraError
from lora.files import folder_beside
from lora.model.adapters import TARGET_PRESETS, target_pattern
from lora.runners.progress import progress_bar


def run_round(options: argparse.Namespace, targets: Any, place: Path) -> Round:
    """Run the peer, then ours on its batches."""
    with folder_beside(place) as work:
        common = ["--model", options.model, "--manifest", options.manifest, "--work", work, "--device", options.device]
        peer = [options.peer_python, HERE / "seq2seq_peer.py", *common, "--steps", options.steps]
        run_worker(
            [*peer, "--pattern", target_pattern(targets, num_encoder_layers=LAYERS)], place.with_suffix(".peer.log")
        )
        ours = [sys.executable, HERE / "peer_ours.py", *common, "--peer", "seq2seq", "--targets", targets]
        run_worker([*ours, "--precision", options.precision], place.with_suffix(".ours.log"))
        return Round(read_json(work / "result.json"), read_json(work / "ours.json"))


def main() -> int:
    """Prepare model and speech, run the rounds in turn, and print a table for each kind of adapter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=80, help="utterances; 8 make a batch (default: 80)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each side in a round (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, peer and ours in turn (default: 3)")
    parser.add_argument(
        "--targets", nargs="+", choices=sorted(TARGET_PRESETS), default=["decoder-attention", "all-linear"],
        help="layers with an adapter (default: both kinds)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="of ours (default: fp32)")
    options = parse_options(parser)
    try:
        prepare(options)
        rounds: dict[str, list[Round]] = {targets: [] for targets in options.targets}
        with progress_bar("rounds", options.rounds * len(rounds)) as advance:
            for _ in range(options.rounds):
                for targets, done in rounds.items():
                    advance(0, f"Seq2SeqTrainer and ours, {targets}")
                    done.append(run_round(options, targets, options.folder / "work-seq2seq"))
                    advance(1)
    except LoraError as error:
        return fail(error)
    print(f"{machine()}; {options.rounds} round(s) of {options.steps} steps of 8 utterances")
    for targets, done in rounds.items():
        print_table(f"adapter in {targets}, ours in {options.precision}", summarise(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
