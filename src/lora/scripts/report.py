"""`moonshine-lora report`: write a finished run's reports again."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`."""

    run_dir: Path = option(help="the --output-dir of a finished experiment", positional=True)


def run(options: ReportOptions) -> int:
    """Write `report.md` and `report.html`, and print where they are."""
    from lora.report.pages import write_pages

    for path in write_pages(options.run_dir):
        print(path)
    return 0


COMMAND = Command(
    name="report",
    options=ReportOptions,
    run=run,
    description="Write report.md and report.html of a finished run again, from its own files.",
    examples="""
        moonshine-lora report outputs/demo
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
