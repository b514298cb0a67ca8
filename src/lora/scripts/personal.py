"""`moonshine-lora personal`: a folder of one speaker's recordings to an adapter and its verdict."""

import sys
from collections.abc import Sequence

from lora.runners.personal import PersonalOptions, run_personal
from lora.scripts import experiment
from lora.scripts.cli import Command, read_config_file, run_command


def run(options: PersonalOptions) -> None:
    """Run the whole job; the experiment prints the verdict."""
    overrides = {} if options.recipe is None else read_config_file(experiment.COMMAND, options.recipe)
    run_personal(options, overrides)


COMMAND = Command(
    name="personal",
    options=PersonalOptions,
    run=run,
    description="Adapt to one speaker: recordings in a folder to an adapter and a verdict, in one step. A part of the "
    "recordings is held out for the verdict, by seed. For the builtin digits model guardrail and replay are synthetic "
    "speech made here; for another model they must be given.",
    examples="""
        moonshine-lora personal recordings --output-dir outputs/me
        moonshine-lora personal recordings --output-dir outputs/me --test-manifest data/me_test.jsonl
        moonshine-lora personal recordings --output-dir outputs/me --model-id UsefulSensors/moonshine-tiny \\
          --guardrail-manifest data/clean_test.jsonl --replay-manifest data/clean_train.jsonl
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
