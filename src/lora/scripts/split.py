"""`moonshine-lora split`: parts that share no speaker."""

import sys
from collections.abc import Sequence

from lora.runners.manifest_tools import SplitOptions, split
from lora.scripts.cli import Command, run_command


def run(options: SplitOptions) -> None:
    """Run and print what came of it."""
    print(split(options))


COMMAND = Command(
    name="split",
    options=SplitOptions,
    run=run,
    description="Divide a manifest so that no speaker and no audio is in two parts, and check that nothing leaks.",
    examples="""
        moonshine-lora split data/all.jsonl --parts train=0.8 validation=0.1 test=0.1
        moonshine-lora split data/all.jsonl --parts test=2h train=rest --seed 7
        moonshine-lora split data/one_voice.jsonl --parts train=0.9 test=0.1 --by utterance
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
