"""`moonshine-lora matrix`: experiments from a file of hypotheses and runs, and their table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora.config import option
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class MatrixOptions:
    """Options of `matrix`."""

    action: Literal["run", "table"] = option(
        positional=True, help="run: do what is missing, then write the table; table: only write it"
    )
    file: Path = option(positional=True, help="matrix file (YAML): hypotheses, manifests, shared options, runs")
    fsdd: Path = option(Path("../shared/fsdd"), help="value of {fsdd} in the file: the FSDD folder")
    only: list[str] | None = option(None, help="hypotheses or runs to do; all unless given")
    output: Path = option(Path("outputs/matrix"), help="folder of the runs, one each; value of {output} in the file")
    document: Path | None = option(
        None,
        help="document with the markers <!-- matrix --> and <!-- hypotheses -->; the one that the file names unless "
        "given, and docs/experiment_plan.md where it names none",
    )
    dry_run: bool = option(
        False, help="check everything and print the runs and whether they were done, but run nothing"
    )


def run(options: MatrixOptions) -> None:
    """Read the file, then run or only write."""
    from lora.runners import matrix as runner
    from lora.scripts.matrix_file import read_matrix

    matrix = read_matrix(options.file, output=options.output, fsdd=options.fsdd)
    selected = runner.select_runs(matrix, options.only)
    if options.dry_run:
        records = runner.read_records(matrix, matrix.runs)
        for plan in selected:
            print(f"{plan.id}: {records[plan.id]['status'] if plan.id in records else 'missing'}")
        return
    document = options.document or matrix.document
    if options.action == "run":
        runner.run_matrix(matrix, selected, document)
    else:
        runner.write_tables(matrix, document)
    print(document)


COMMAND = Command(
    name="matrix",
    options=MatrixOptions,
    run=run,
    description="Run the experiments of a matrix file that were not run yet, and write their table and the outcome of "
    "every hypothesis, from the runs' own records, between the markers of a document. The file has hypotheses "
    "(problem, change, expectation, success, and rules that a machine checks), manifests to build, options that all "
    "runs share, and the runs, each with what differs in it. Stopped and started again it does what is missing.",
    examples="""
        moonshine-lora matrix run configs/matrix_fsdd.yaml --fsdd ../shared/fsdd
        moonshine-lora matrix run configs/matrix_fsdd.yaml --only H3 steps-50
        moonshine-lora matrix run configs/matrix_fsdd.yaml --dry-run
        moonshine-lora matrix table configs/matrix_fsdd.yaml
        moonshine-lora matrix run configs/ablation_fsdd.yaml --output outputs/ablation
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
