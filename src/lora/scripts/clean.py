"""`moonshine-lora clean`: remove what killed commands left."""

import sys
from collections.abc import Sequence

from lora.runners.clean import CleanOptions, clean
from lora.scripts.cli import Command, run_command


def run(options: CleanOptions) -> None:
    """Remove it, or only list it, and print the table."""
    print(clean(options))


COMMAND = Command(
    name="clean",
    options=CleanOptions,
    run=run,
    description=(
        "Remove what killed commands left: half-written files, builds that nobody went on with, audio that no\n"
        "manifest names. Unfinished training (OUTPUT.partial) is listed and never removed. Commands remove their own\n"
        "litter in passing; this is for what no command comes back to."
    ),
    examples="""
        moonshine-lora clean --dry-run
        moonshine-lora clean data outputs --older-than 1
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
