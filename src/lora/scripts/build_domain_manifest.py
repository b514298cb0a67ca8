"""`moonshine-lora build-domain-manifest`: the evaluation set that a run tries to improve."""

import sys
from collections.abc import Sequence

from lora.runners.build import BuildOptions
from lora.scripts.build_manifest import run
from lora.scripts.cli import Command, run_command

COMMAND = Command(
    name="build-domain-manifest",
    options=BuildOptions,
    run=run,
    description="Build the domain manifest, the evaluation set that a run tries to improve; options as build-manifest.",
    examples="""
        moonshine-lora build-domain-manifest --config other --split test --samples 200 --output data/domain.jsonl
        moonshine-lora build-domain-manifest --source fsdd --path ../fsdd --split test --output data/accents.jsonl
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
