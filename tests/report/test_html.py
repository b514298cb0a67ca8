"""The HTML report is one safe offline file that says what it holds and what it lacks."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora.errors import InputError
from lora.files import read_json, write_json
from lora.report import clips
from lora.report.clips import collect_clips, find_manifest, most_changed
from lora.report.html import script_json, write_html_report
from lora.report.record import load_record


def page_of(run_dir: Path) -> str:
    return write_html_report(run_dir).read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    return json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])


@pytest.fixture
def copied_run(audible_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(audible_run.parents[1], tmp_path / "work")
    return tmp_path / "work" / "outputs" / "demo"


def test_the_verdict_comes_first_and_the_numbers_stand_side_by_side(run_dir: Path) -> None:
    page = page_of(run_dir)
    body = page.split("<main>")[1]
    assert body.index("Accept") < body.index("Baseline and tuned") < body.index('id="utterances"')
    assert '<span class="was">41.7%</span>' in body
    assert "<strong>16.7%</strong>" in body
    assert "95% interval -40.0 to -10.0" in body


def test_a_transcript_cannot_become_part_of_the_page(audible_run: Path) -> None:
    page = page_of(audible_run)
    assert len(re.findall(r"<script", page)) == 2
    assert len(re.findall(r"</script>", page)) == 2
    assert "<img" not in page
    assert data_of(page)["rows"][3]["texts"]["tuned"].startswith("</script><script>window.harmed=1")
    assert script_json("</script>&<!--") == '"\\u003c/script\\u003e\\u0026\\u003c!--"'


def test_names_are_escaped_wherever_they_stand(run_dir: Path) -> None:
    metrics = read_json(run_dir / "experiment_metrics.json")
    metrics |= {"run_id": "<b>x</b>", "command": "run <i>"}
    metrics["domain"]["name"] = "<u>d"
    metrics["verdict"]["reasons"] = ["<s>because"]
    write_json(run_dir / "experiment_metrics.json", metrics)
    page = page_of(run_dir).split('<script type="application/json"')[0]
    assert [tag for tag in ("<b>x", "<i>", "<u>", "<s>") if tag in page] == []
    assert "&lt;u&gt;d" in page
    assert "<title>&lt;b&gt;x&lt;/b&gt;: accept</title>" in page


def test_the_page_fetches_nothing_and_its_policy_forbids_it(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["']|url\(|@import|https?://""", page.replace("player.src = row.audio", ""))


def test_the_same_record_gives_the_same_page(audible_run: Path) -> None:
    assert page_of(audible_run) == page_of(audible_run)


def test_players_hold_the_audio_of_the_run_and_the_page_says_how_much(audible_run: Path) -> None:
    page = page_of(audible_run)
    assert sorted(data_of(page)["audio"]) == ["0", "1", "2"]
    assert all(audio.startswith("data:audio/flac;base64,ZkxhQ") for audio in data_of(page)["audio"].values())
    assert "3 of 5 utterances have a player" in page
    assert "No audio of us: the manifest us.jsonl is not there any more." in page


def test_a_manifest_that_was_changed_is_not_played(copied_run: Path) -> None:
    path = copied_run.parents[1] / "data" / "domain.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("ana", "eva"), encoding="utf-8")
    page = page_of(copied_run)
    assert data_of(page)["audio"] == {}
    assert "the manifest data/domain.jsonl was changed since the run (another SHA-256)" in page


def test_audio_of_another_length_than_was_scored_is_not_played(copied_run: Path) -> None:
    rows = [json.loads(line) for line in (copied_run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["seconds"] = 1.0
    (copied_run / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    page = page_of(copied_run)
    assert sorted(data_of(page)["audio"]) == ["1", "2"]
    assert "No audio of d1: the file was changed since the run (its length differs)." in page


def test_players_are_few_and_small_enough_and_the_most_changed_come_first(
    audible_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = load_record(audible_run)
    assert [sample.id for sample in most_changed(record.samples)] == ["d2", "d1", "d3", "d4", "g1"]
    monkeypatch.setattr(clips, "MAX_PLAYERS", 2)
    two = collect_clips(record)
    assert set(two.data) == {("domain", "d2"), ("domain", "d1")}
    monkeypatch.setattr(clips, "MAX_AUDIO_BYTES", two.audio_bytes - 1)
    assert set(collect_clips(record).data) == {("domain", "d2")}


def test_a_manifest_is_found_from_the_run_wherever_the_reader_stands(
    audible_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    row = load_record(audible_run).metrics["manifests"]["domain"]
    assert find_manifest(audible_run, row["path"], row["sha256"])[0] is not None
    assert find_manifest(audible_run, row["path"], "00")[0] is None


def test_the_strength_curve_is_drawn_where_the_run_swept_it(run_dir: Path) -> None:
    assert "by strength" not in page_of(run_dir)
    metrics = read_json(run_dir / "experiment_metrics.json")
    metrics["strength"] = [{"scale": x, "domain_wer": 0.4 - x / 4, "guardrail_wer": None} for x in (0.0, 1.0, 0.5)]
    metrics["adapter"]["strength"] = 0.5
    write_json(run_dir / "experiment_metrics.json", metrics)
    page = page_of(run_dir)
    assert "by strength (upright line: chosen)" in page
    assert 'title="domain, scale of the adapter 0.5: 27.5%"' in page
    assert 'points="0.0,0.0 500.0,312.5 1000.0,625.0"' in page


def test_a_missing_file_is_refused_and_nothing_is_written(run_dir: Path) -> None:
    (run_dir / "history.jsonl").unlink()
    with pytest.raises(InputError, match=r"history\.jsonl: no such file"):
        write_html_report(run_dir)
    assert not (run_dir / "report.html").exists()
