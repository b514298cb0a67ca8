"""`moonshine-lora training-report`: fill the training report from runs' own JSON."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class TrainingReportOptions:
    """Options of `training-report`."""

    run_dirs: list[Path] = option(help="output folders of finished experiments, in the order to show", positional=True)
    output: Path = option(Path("docs/training_report.md"), help="document with the markers; made where there is none")


def run(options: TrainingReportOptions) -> int:
    """Write the sections between the markers, and print where the document is."""
    from lora.report.training_report import write_training_report

    print(write_training_report(options.run_dirs, options.output))
    return 0


COMMAND = Command(
    name="training-report",
    options=TrainingReportOptions,
    run=run,
    description="Write one section a run between <!-- runs --> and <!-- /runs --> of the training report.",
    examples="""
        moonshine-lora training-report outputs/fsdd-42 outputs/fsdd-43
        moonshine-lora training-report outputs/demo --output outputs/demo_report.md
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
