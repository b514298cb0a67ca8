"""`moonshine-lora sample`: a random part of a manifest."""

import sys
from collections.abc import Sequence

from lora.runners.manifest_tools import SampleOptions, sample
from lora.scripts.cli import Command, run_command


def run(options: SampleOptions) -> None:
    """Run and print what came of it."""
    print(sample(options))


COMMAND = Command(
    name="sample",
    options=SampleOptions,
    run=run,
    description="Draw a random part of a manifest.",
    examples="""
        moonshine-lora sample data/all.jsonl --samples 500 --output data/small.jsonl
        moonshine-lora sample data/all.jsonl --hours 1.5 --balanced --output data/small.jsonl
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
