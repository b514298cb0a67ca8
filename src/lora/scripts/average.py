"""`moonshine-lora average`: the mean of several adapters as one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class AverageOptions:
    """Options of `average`."""

    adapters: list[Path] = option(positional=True, help="lora_adapter folders of one base")
    output: Path = option(help="folder for the averaged adapter")
    weights: list[float] = option(default_factory=list, help="one weight an adapter, summing to 1; equal unless given")
    overwrite: bool = option(False, help="keep files in the output folder that this tool did not write, beside the new")


def run(options: AverageOptions) -> None:
    """Average and print where the result is."""
    from lora.export.average import publish_average

    weights = options.weights or None
    publish_average(options.adapters, options.output, weights=weights, overwrite=options.overwrite)
    print(f"{options.output}: average of {len(options.adapters)} adapters")


COMMAND = Command(
    name="average",
    options=AverageOptions,
    run=run,
    description="Average adapters of several seeds or checkpoints exactly, as one adapter at the sum of their ranks.",
    examples="""
        moonshine-lora average outputs/fsdd-42/lora_adapter outputs/fsdd-43/lora_adapter --output outputs/average
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
