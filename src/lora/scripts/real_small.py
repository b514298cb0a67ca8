"""`moonshine-lora real-small`: a small run on real speech, as a check of a machine."""

import sys
from collections.abc import Sequence

from lora.runners.real_small import RealSmallOptions, run_real_small
from lora.scripts.cli import Command, run_command


def run(options: RealSmallOptions) -> None:
    """Run it; the experiment prints its verdict."""
    run_real_small(options)


COMMAND = Command(
    name="real-small",
    options=RealSmallOptions,
    run=run,
    description="Adapt to two accents with a little real speech; writes real_metrics.json, lora_adapter/, processor/.",
    examples="""
        moonshine-lora real-small --fsdd ../shared/fsdd
        moonshine-lora real-small --fsdd ../shared/fsdd --output-dir outputs/check --max-steps 20 --seed 7
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
