"""`moonshine-lora real`: the whole job on real speech, accents against US speakers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.scripts import run as run_script
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class RealOptions:
    """Options of `real`."""

    seed: int = option(42, help="seed of data and training; the results go to outputs/fsdd-SEED")
    fsdd: Path = option(Path("../shared/fsdd"), help="folder of the Free Spoken Digit Dataset")
    config: Path = option(Path("configs/fsdd_accents.yaml"), help="the job; see `moonshine-lora run --help`")


def run(options: RealOptions) -> int:
    """Run the documented job on FSDD."""
    return run_script.run(run_script.RunOptions(config=options.config, seed=options.seed, fsdd=options.fsdd))


COMMAND = Command(
    name="real",
    options=RealOptions,
    run=run,
    description="Adapt the builtin model to two accents of the Free Spoken Digit Dataset and guard its US speakers.",
    examples="""
        moonshine-lora real
        moonshine-lora real --seed 43 --fsdd ~/corpora/fsdd
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
