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


def test_a_report_that_was_edited_stays(audible_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = shutil.copytree(audible_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*"))
    (run_dir / "notes.md").write_text("mine")
    for _ in range(2):
        assert report.main([str(run_dir)]) == 0
    (run_dir / "report.html").write_text("mine")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert report.main([str(run_dir)]) == 2
    assert "report.html: exists, and is not an earlier output" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    assert before[run_dir / "notes.md"] == b"mine"


def test_a_report_of_the_first_version_may_have_been_edited_and_stays_beside(audible_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(audible_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.*"))
    (run_dir / "report.md").write_text("mine, perhaps")
    for _ in range(2):
        assert report.main([str(run_dir)]) == 0
    assert (run_dir / "report.earlier.md").read_text() == "mine, perhaps"
    assert (run_dir / "report.md").read_text().startswith("# Run demo-42")
    assert not (run_dir / "report.earlier.html").exists()
