"""`moonshine-lora experiment`: baseline, LoRA training, tuned result and verdict."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lora import processes
from lora.config import ExperimentConfig
from lora.runners.experiment import run_experiment
from lora.runners.output import CONFIG_FILE, partial_folder
from lora.scripts.cli import Command, run_command


def run(options: ExperimentConfig) -> None:
    """Run the experiment, or with `--seeds` one a seed; it prints the verdict itself."""
    if options.dry_run:
        from lora.runners.dry_run import estimate_experiment

        found = estimate_experiment(options)
        if processes.is_main():
            print(found.text())
    elif options.seeds is None:
        run_experiment(options)
    else:
        from lora.runners.seeds import run_seeds

        run_seeds(options)


COMMAND = Command(
    name="experiment",
    options=ExperimentConfig,
    run=run,
    several_processes=True,
    description="Measure the base model, train an adapter, measure again, decide, and write artifacts and a report.",
    examples="""
        moonshine-lora experiment --output-dir outputs/radio --dataset-path data/radio_train.jsonl \\
          --manifest-path data/radio_test.jsonl --guardrail-manifest data/heldout_manifest.jsonl
        moonshine-lora experiment --config outputs/radio/config.yaml --seed 43 --output-dir outputs/radio-43
        moonshine-lora experiment --config outputs/radio/config.yaml --seeds 42 43 44 --output-dir outputs/radio-seeds
        moonshine-lora experiment --config outputs/radio/config.yaml --output-dir outputs/new --dry-run
        moonshine-lora experiment --output-dir outputs/radio --resume
        moonshine-lora experiment --model-id UsefulSensors/moonshine-tiny --output-dir outputs/tiny \\
          --dataset-path train.jsonl --replay-manifest clean_train.jsonl \\
          --manifest-path test.jsonl --guardrail-manifest clean_test.jsonl
        torchrun --nproc-per-node 4 -m lora experiment --config outputs/tiny/config.yaml
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(COMMAND, [*stored_config(words), *words])


def stored_config(words: Sequence[str]) -> list[str]:
    """Return `--config` with what a run was started with, for a command that resumes and says no more than where."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--output-dir", "--dataset-path", "--config"):
        finder.add_argument(name, type=Path)
    finder.add_argument("--resume", action="store_true")
    try:
        given = finder.parse_known_args(list(words))[0]
    except argparse.ArgumentError:
        return []  # the command says what is wrong
    if not given.resume or given.output_dir is None or given.dataset_path or given.config:
        return []
    places = (partial_folder(given.output_dir), given.output_dir)
    return next((["--config", str(path / CONFIG_FILE)] for path in places if (path / CONFIG_FILE).is_file()), [])


if __name__ == "__main__":
    sys.exit(main())
