"""`moonshine-lora stats`: manifests in numbers."""

import sys
from collections.abc import Sequence

from lora.runners.manifest_tools import StatsOptions, stats
from lora.scripts.cli import Command, run_command


def run(options: StatsOptions) -> None:
    """Run and print what came of it."""
    print(stats(options))


COMMAND = Command(
    name="stats",
    options=StatsOptions,
    run=run,
    description="Describe manifests: hours, durations, speakers, words. Durations are those of the files' headers.",
    examples="""
        moonshine-lora stats data/train.jsonl data/test.jsonl
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
