"""`moonshine-lora sweep`: search over training options, scored on the development sets."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.errors import ConfigError
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class SweepOptions:
    """Options of `sweep`."""

    file: Path = option(positional=True, help="sweep file (YAML): experiment, space, manifests, search")
    storage: str = option("sqlite:///outputs/sweep.db", help="database; workers that share it share the sweep")
    trials: int = option(30, help="finished trials in all, those of earlier starts and other workers counted")
    output: Path = option(Path("outputs/sweep"), help="folder of the table and the best configuration")
    fsdd: Path = option(Path("../shared/fsdd"), help="value of {fsdd} in the file: the FSDD folder")
    dry_run: bool = option(False, help="check the file and print what would be searched, but run nothing")

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"--trials: got {self.trials}, expected at least 1.")
        if "://" not in self.storage:
            raise ConfigError(f"--storage: got {self.storage!r}, expected an address such as sqlite:///FILE.")


def run(options: SweepOptions) -> None:
    """Read the file, work on the sweep, print where the results are."""
    from lora.runners.sweep import run_sweep
    from lora.scripts.sweep_file import read_sweep

    plan = read_sweep(options.file, output=options.output, fsdd=options.fsdd)
    if options.dry_run:
        for name, part in plan.space.items():
            print(f"{name}: {part}")
        return
    best = run_sweep(plan, options.storage, options.trials)["best"]
    print(f"best: trial {best['trial']}, score {best['score']:.4f} on the development sets, {best['options']}")
    for name in ("sweep.md", "sweep.json", "best.yaml"):
        print(plan.output / name)


COMMAND = Command(
    name="sweep",
    options=SweepOptions,
    run=run,
    description="Search over training options with Optuna: scored on development sets, pruned by interval WER, "
    "resumable; start it several times on one storage for several workers.",
    examples="""
        moonshine-lora sweep configs/sweep_fsdd.yaml --storage sqlite:///outputs/sweep.db --trials 30
        moonshine-lora sweep configs/sweep_fsdd.yaml --dry-run
        moonshine-lora experiment --config outputs/sweep/best.yaml
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
