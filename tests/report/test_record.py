"""A record is read whole or refused with every fault."""

import copy
from pathlib import Path
from typing import Any

import pytest

from lora.errors import InputError
from lora.files import read_json, write_json, write_jsonl, write_text
from lora.report.record import load_record


def change_metrics(run_dir: Path, change: dict[str, Any]) -> None:
    metrics = copy.deepcopy(read_json(run_dir / "experiment_metrics.json"))
    write_json(run_dir / "experiment_metrics.json", metrics | change)


def test_a_record_joins_samples_and_metrics_by_set(run_dir: Path) -> None:
    record = load_record(run_dir)
    assert [(name, compared["name"]) for name, compared in record.sets] == [("domain", "accents"), ("us", "us")]
    assert [sample.id for sample in record.samples_of("us")] == ["g1"]
    assert [sample.change for sample in record.samples_of("domain")] == [-2, -2, 1, 0]


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "experiment_metrics.json", {})
    with pytest.raises(InputError) as caught:
        load_record(tmp_path)
    assert "--output-dir" in caught.value.message
    assert [problem.rsplit("/", 1)[1] for problem in caught.value.problems] == [
        "history.jsonl: no such file",
        "samples.jsonl: no such file",
    ]


def test_every_missing_key_is_named(run_dir: Path) -> None:
    metrics = read_json(run_dir / "experiment_metrics.json")
    del metrics["seed"], metrics["domain"]["ci95"], metrics["guardrails"][0]["delta"]
    metrics["train"] = None
    write_json(run_dir / "experiment_metrics.json", metrics)
    with pytest.raises(InputError) as caught:
        load_record(run_dir)
    found = caught.value.problems
    assert found[0] == "seed: missing"
    assert "domain.ci95: missing" in found
    assert "guardrails[0].delta: missing" in found
    assert any(problem.startswith("train: got None") for problem in found)
    assert len(found) == 4


def test_another_schema_is_refused(run_dir: Path) -> None:
    change_metrics(run_dir, {"schema_version": 2})
    with pytest.raises(InputError, match="got schema_version 2; expected 1"):
        load_record(run_dir)


def test_a_lost_sample_is_noticed(run_dir: Path) -> None:
    lines = (run_dir / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(run_dir / "samples.jsonl", "".join(lines[1:]))
    with pytest.raises(InputError, match=r"set 'domain': baseline is 0\.41\d+ in the metrics, 0\.375 in the samples"):
        load_record(run_dir)


def test_samples_of_an_unknown_set_are_noticed(run_dir: Path) -> None:
    change_metrics(run_dir, {"guardrails": []})
    with pytest.raises(InputError, match="set 'us' is not in the metrics"):
        load_record(run_dir)


@pytest.mark.parametrize(
    ("line", "message"), [("{", r"history\.jsonl:2: not valid JSON"), ("[1]", r"history\.jsonl:2: got a JSON list")]
)
def test_a_broken_history_line_is_named(run_dir: Path, line: str, message: str) -> None:
    write_text(run_dir / "history.jsonl", '{"step": 1, "loss": 2.0}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        load_record(run_dir)


def test_an_incomplete_sample_is_named(run_dir: Path) -> None:
    write_jsonl(run_dir / "samples.jsonl", [{"id": "a", "set": "domain"}])
    with pytest.raises(InputError, match=r"samples\.jsonl:1: missing speaker_id, seconds, reference"):
        load_record(run_dir)


def test_a_line_separator_inside_a_text_does_not_split_the_row(run_dir: Path) -> None:
    record = load_record(run_dir)
    rows = [{field: getattr(sample, field) for field in sample.__slots__} for sample in record.samples]
    rows[0]["tuned"] = "one two\u2028three four"
    write_jsonl(run_dir / "samples.jsonl", rows)
    assert load_record(run_dir).samples[0].tuned == "one two\u2028three four"
