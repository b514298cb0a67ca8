"""Progress bars on stderr; JSON lines there instead for a program that watches."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lora import processes
from lora.console import PlainConsole
from lora.escape import printable

PROGRESS_VARIABLE = "MOONSHINE_LORA_PROGRESS"
"""Environment variable; `json` asks for one JSON object a line: stage, done, total, detail."""

console = PlainConsole(quiet=not processes.is_main())


class Report(Protocol):
    """Told how many more were finished, and a new description (empty keeps the old one)."""

    def __call__(self, count: int, description: str = "") -> None:
        """Move the bar on."""


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Report]:
    """Show a bar while the block runs, `total` None where nobody knows it; only the main process of several does."""
    if not processes.is_main():
        yield lambda count, description="": None
        return
    if os.environ.get(PROGRESS_VARIABLE) == "json":
        yield _json_report(title, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(printable(title), total=total)

        def report(count: int, description: str = "") -> None:
            progress.update(task, advance=count, description=printable(description or title))

        yield report


def _json_report(title: str, total: int | None) -> Report:
    done = 0

    def report(count: int, description: str = "") -> None:
        nonlocal done
        done += count
        row = {"stage": title, "done": done, "total": total or 0, "detail": description or title}
        sys.stderr.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stderr.flush()

    report(0, "")
    return report
