"""The report commands write what they say and refuse what is no run."""

import shutil
from pathlib import Path

import pytest

from lora.scripts import report, training_report


def test_report_writes_both_files_and_prints_them(
    audible_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = shutil.copytree(audible_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*"))
    assert report.main([str(run_dir)]) == 0
    written = [run_dir / "report.md", run_dir / "report.html"]
    assert capsys.readouterr().out.split() == list(map(str, written))
    assert all(path.is_file() for path in written)


def test_training_report_takes_several_runs(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "training_report.md"
    assert training_report.main([str(run_dir), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert "### demo-42: accept" in output.read_text(encoding="utf-8")
    assert training_report.main([str(run_dir), str(run_dir), "--output", str(output)]) == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "not the directory of a finished run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
