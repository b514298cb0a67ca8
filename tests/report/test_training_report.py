"""The training report is filled from the runs' own files, keeps what people wrote, and names no machine path."""

from pathlib import Path

import pytest

from lora.errors import InputError
from lora.files import read_json, write_json
from lora.report import training_report
from lora.report.training_report import relative_command, relative_path, write_training_report


def test_a_run_fills_the_section_of_the_template(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "docs" / "training_report.md"
    text = write_training_report([run_dir], output).read_text(encoding="utf-8")
    assert "### demo-42: accept, domain WER 41.7% to 16.7%, guardrail 0.0 points at worst" in text
    assert "| domain | `domain.jsonl` | 4 | 90 | unknown | `abababababab` |" in text
    assert "| guardrail | `us.jsonl` | 1 | 90 | 1 | `abababababab` |" in text
    assert "| accents | WER | 41.7% | **16.7%** | -25.0 | -40.0 to -10.0 | -60.0% |" in text
    assert "| accents | CER | 30.0% | 10.0% |" in text
    assert "Training: 40 steps (kept: not recorded) in 12 s on 4,321 s of audio" in text
    assert "Verdict: **accept**." in text
    assert write_training_report([run_dir], output).read_text(encoding="utf-8") == text


def test_text_around_the_markers_and_notes_inside_are_kept(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    output.write_text("# Mine\n\n<!-- runs -->\nold\n<!-- /runs -->\n\nLast words.\n", encoding="utf-8")
    text = write_training_report([run_dir], output).read_text(encoding="utf-8")
    assert text.startswith("# Mine\n")
    assert text.endswith("<!-- /runs -->\n\nLast words.\n")
    assert "old" not in text
    output.write_text(text.replace("<!-- notes demo-42 -->\n", "<!-- notes demo-42 -->\nRank 64.\n"), encoding="utf-8")
    assert "<!-- notes demo-42 -->\nRank 64.\n<!-- /notes -->" in write_training_report([run_dir], output).read_text(
        encoding="utf-8"
    )


def test_notes_on_a_run_that_is_not_given_are_not_lost(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    before = "<!-- runs -->\n<!-- notes other-1 -->\nDo not lose this.\n<!-- /notes -->\n<!-- /runs -->\n"
    output.write_text(before, encoding="utf-8")
    with pytest.raises(InputError, match="other-1: has notes"):
        write_training_report([run_dir], output)
    assert output.read_text(encoding="utf-8") == before


def test_a_document_without_markers_and_a_run_given_twice_are_refused(run_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    output.write_text("# No markers\n", encoding="utf-8")
    with pytest.raises(InputError, match="<!-- runs -->"):
        write_training_report([run_dir], output)
    with pytest.raises(InputError, match="each run id once"):
        write_training_report([run_dir, run_dir], output)


def test_paths_of_the_machine_become_relative(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    metrics = read_json(run_dir / "experiment_metrics.json")
    metrics["command"] = f"moonshine-lora experiment --dataset-path {here}/data/a.jsonl --cache-dir /far/away/cache"
    metrics["manifests"]["domain"]["path"] = f"{tmp_path}/shared/domain.jsonl"
    write_json(run_dir / "experiment_metrics.json", metrics)
    text = write_training_report([run_dir], Path("out.md")).read_text(encoding="utf-8")
    assert "--dataset-path data/a.jsonl --cache-dir cache" in text
    assert "`../shared/domain.jsonl`" in text
    assert str(tmp_path) not in text


def test_relative_paths_stay_as_they_are() -> None:
    root = Path("/a/b")
    assert relative_path("data/x.jsonl", root) == "data/x.jsonl"
    assert relative_path("/a/b/data/x.jsonl", root) == "data/x.jsonl"
    assert relative_path("/a/c/x.jsonl", root) == "../c/x.jsonl"
    assert relative_path("/d/c/x.jsonl", root) == "x.jsonl"
    assert relative_command("run --x '/a/b/two words'", root) == "run --x 'two words'"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_document_keeps_its_bytes_its_link_and_its_permissions(run_dir: Path, tmp_path: Path, end: str) -> None:
    head, tail = f"# Mine\ufeff{end}{end}a\rb{end}", f"{end}Last words, no end of line"
    notes = f"<!-- notes demo-42 -->{end}Rank 64.{end}<!-- /notes -->"
    real, link = tmp_path / "real.md", tmp_path / "link.md"
    real.write_bytes(f"{head}<!-- runs -->{end}{notes}{end}<!-- /runs -->{tail}".encode())
    real.chmod(0o600)
    link.symlink_to(real.name)
    for _ in range(2):
        write_training_report([run_dir], link)
        data = real.read_bytes()
        assert data.startswith(f"{head}<!-- runs -->".encode())
        assert data.endswith(f"<!-- /runs -->{tail}".encode())
        assert notes.encode() in data
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_document_that_changes_meanwhile_is_not_written(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "report.md"
    output.write_text("<!-- runs -->\n<!-- /runs -->\n")
    replace_section = training_report.replace_section

    def slowly(text: str, *words: str, where: Path) -> str:
        output.write_text(text + "One more line.\n")
        return replace_section(text, *words, where=where)

    monkeypatch.setattr(training_report, "replace_section", slowly)
    with pytest.raises(InputError, match="was changed while"):
        write_training_report([run_dir], output)
    assert output.read_text() == "<!-- runs -->\n<!-- /runs -->\nOne more line.\n"


def test_what_is_no_text_document_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "dangling.md").symlink_to("nowhere")
    for name, told in (("image.png", "not UTF-8"), ("dangling.md", "no such document"), (".", "no such document")):
        with pytest.raises(InputError, match=told):
            write_training_report([run_dir], tmp_path / name)
    assert (tmp_path / "image.png").read_bytes() == b"\x89PNG\xff"
