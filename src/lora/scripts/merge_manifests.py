"""`moonshine-lora merge-manifests`: one manifest of several."""

import sys
from collections.abc import Sequence

from lora.runners.manifest_tools import MergeOptions, merge
from lora.scripts.cli import Command, run_command


def run(options: MergeOptions) -> None:
    """Run and print what came of it."""
    print(merge(options))


COMMAND = Command(
    name="merge-manifests",
    options=MergeOptions,
    run=run,
    description="Merge manifests: duplicates found by their audio, ids made unique, the origin kept in every row.",
    examples="""
        moonshine-lora merge-manifests data/monday.jsonl data/tuesday.jsonl --output data/week.jsonl
        moonshine-lora merge-manifests a.jsonl b.jsonl --output all.jsonl --duplicates drop
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
