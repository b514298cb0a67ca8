"""The reports of a finished run, written again in their places."""

from pathlib import Path

from lora.files import writing
from lora.outputs import RECORD_NAME, check_file
from lora.report.html import HTML_FILE, write_html_report
from lora.report.markdown import CHANGES_FILE, CURVES_FILE, REPORT_FILE, write_report
from lora.report.record import load_record

PAGES = (REPORT_FILE, CURVES_FILE, CHANGES_FILE, HTML_FILE)


def write_pages(run_dir: Path) -> list[Path]:
    """Write `report.md` with its plots and `report.html` of a finished run again; return the two.

    Version 0.1.0 kept no record of its files, so nobody knows whether its reports were edited: they stay, as
    `report.earlier.md` and so on.

    Raises:
        InputError: the run's record is incomplete or contradicts itself.
        ConfigError: a report was changed since it was written; nothing is written then.
    """
    load_record(run_dir)
    if not (run_dir / RECORD_NAME).exists():
        _set_aside(run_dir)
    for name in PAGES:
        check_file(run_dir / name, root=run_dir)
    return [write_report(run_dir), write_html_report(run_dir)]


def _set_aside(run_dir: Path) -> None:
    for path in (run_dir / name for name in PAGES):
        earlier = path.with_name(f"{path.stem}.earlier{path.suffix}")
        if path.is_file() and not earlier.exists():
            with writing(path):
                path.rename(earlier)
