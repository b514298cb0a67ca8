"""The report says the verdict first and loses nothing."""

from pathlib import Path
from typing import Any

import pytest

from lora.errors import InputError
from lora.files import read_json, write_json
from lora.report.markdown import write_report


def report_after(run_dir: Path, section: str, change: dict[str, Any]) -> str:
    metrics = read_json(run_dir / "experiment_metrics.json")
    metrics[section] |= change
    write_json(run_dir / "experiment_metrics.json", metrics)
    return write_report(run_dir).read_text(encoding="utf-8")


def test_the_verdict_comes_first_in_one_sentence_with_numbers_and_interval(run_dir: Path) -> None:
    lines = write_report(run_dir).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Run demo-42"
    assert lines[2] == (
        "> **Accept**: WER on the domain fell from 41.7% to 16.7% (-25.0 points, 95% interval -40.0 to -10.0); on the "
        "guardrail (us) it stayed at 0.0% (0.0 points, no interval)."
    )
    assert lines[4:6] == ["- Domain accents: improved.", "- Guardrail us: within the budget."]


def test_the_sets_stand_side_by_side(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "| accents | domain | 4 | 12 | 41.7% | **16.7%** | -25.0 | -40.0 to -10.0 | -60.0% | 99.8% |" in text
    assert "| us | guardrail | 1 | 3 | 0.0% | **0.0%** | 0.0 | n/a | undefined | n/a |" in text
    assert "| WER, raw text | 50.0% | 25.0% |" in text
    assert "| Loss, teacher-forced | 1.9 | n/a |" in text
    assert "Resampled by utterance: accents, us." in text


def test_utterances_are_sorted_by_change_and_marked(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    improved, worsened = text.split("### Most improved (2)")[1].split("### Most worsened (1)")
    assert (
        "| `d1` | accents | 2 to 0 | ref: one two three four<br>baseline: one **ten** ~~three~~ four"
        "<br>tuned: one two three four |"
    ) in improved
    assert "| `d3` | accents | 0 to 1 | ref: nine oh<br>baseline: nine oh<br>tuned: nine oh **oh** |" in worsened
    assert "d4" not in improved


def test_checks_and_provenance_are_in_the_report(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "| Label alignment | passed | aligned loss 1.9, misaligned 7.25 |" in text
    assert "| Adapter efficacy | acts | weight change 1.25 (norm), outputs changed: 3 |" in text
    assert "moonshine-lora experiment --seed 42" in text
    assert "| domain | `domain.jsonl` | `abababababababab` | 4 | 1.5 |" in text
    assert "not in a repository" in text
    assert '"max_steps": 40' in text


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("alignment_check", {"passed": False}, "**failed**"),
        ("efficacy", {"outputs_changed": 0}, "**no effect**"),
        ("headroom", {"enough": False}, "**little**"),
        ("verdict", {"decision": "inconclusive"}, "> **Inconclusive**"),
        ("domain", {"ci95": None}, "(-25.0 points, no interval)"),
        ("domain", {"delta": 0.1}, "rose from"),
    ],
)
def test_bad_news_is_shown(run_dir: Path, section: str, change: dict[str, Any], expected: str) -> None:
    assert expected in report_after(run_dir, section, change)


def test_every_picture_exists_and_the_report_is_the_same_twice(run_dir: Path) -> None:
    first = write_report(run_dir).read_bytes()
    pictures = [line.split("(")[1].rstrip(")") for line in first.decode().splitlines() if line.startswith("![")]
    assert pictures == ["plots/training.png", "plots/utterances.png"]
    assert all((run_dir / picture).is_file() for picture in pictures)
    assert write_report(run_dir).read_bytes() == first


def test_an_unchanged_set_says_what_it_cannot_show(run_dir: Path) -> None:
    path = run_dir / "samples.jsonl"
    last = path.read_text(encoding="utf-8").splitlines()[-1]
    path.write_text(path.read_text(encoding="utf-8") + f"{last}\n" * 29, encoding="utf-8")
    assert "up to 10.0% of such utterances may still change" in write_report(run_dir).read_text(encoding="utf-8")


def test_what_a_set_could_show_is_said_where_the_run_stated_it(run_dir: Path) -> None:
    assert "four times in five" not in write_report(run_dir).read_text(encoding="utf-8")
    text = report_after(run_dir, "domain", {"minimum_detectable_difference": 0.0312})
    assert "accents shows a true change of 3.1 points four times in five" in text


def test_a_missing_file_is_refused_and_nothing_is_written(run_dir: Path) -> None:
    (run_dir / "samples.jsonl").unlink()
    with pytest.raises(InputError, match=r"samples\.jsonl: no such file"):
        write_report(run_dir)
    assert not (run_dir / "report.md").exists()
    assert not (run_dir / "plots").exists()
