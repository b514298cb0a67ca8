"""Several seeds: one run each, one cache, one verdict over all."""

import json
from pathlib import Path

import pytest

from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError
from lora.runners.experiment import run_experiment
from lora.runners.seeds import run_seeds
from lora.units import JsonObject

TUNED = {42: 0.05, 43: 0.06, 44: 0.10}


def config(folder: Path, seeds: list[int] | None) -> ExperimentConfig:
    path = folder / "x.jsonl"
    return ExperimentConfig(
        output_dir=folder / "runs",
        dataset_path=path,
        replay_manifest=path,
        manifest_path=path,
        guardrail_manifest=[path],
        seeds=seeds,
    )


def part(name: str, baseline: float, tuned: float) -> JsonObject:
    delta = tuned - baseline
    return {
        "name": name,
        "baseline": baseline,
        "tuned": tuned,
        "delta": delta,
        "ci95": [delta - 0.01, delta + 0.01],
        "relative_reduction": -delta / baseline,
        "more": "is ignored",
    }


class StubRun:
    """Stands for `run_experiment`: notes the configurations and returns metrics by seed."""

    def __init__(self, decisions: dict[int, str] | None = None) -> None:
        self.seen: list[ExperimentConfig] = []
        self.decisions = decisions or {}

    def __call__(self, config: ExperimentConfig) -> JsonObject:
        self.seen.append(config)
        return {
            "seed": config.seed,
            "domain": part("domain", 0.45, TUNED[config.seed]),
            "guardrails": [part("us", 0.01, 0.01)],
            "verdict": {"decision": self.decisions.get(config.seed, "accept"), "reasons": []},
            "train": {"seconds": 1.0},
        }


def test_each_seed_has_its_own_folder_and_all_share_one_cache(tmp_path: Path) -> None:
    run = StubRun()
    run_seeds(config(tmp_path, [42, 43, 44]), run)
    assert [(item.seed, item.seeds, item.output_dir.name) for item in run.seen] == [
        (42, None, "seed-42"),
        (43, None, "seed-43"),
        (44, None, "seed-44"),
    ]
    assert {item.cache_dir for item in run.seen} == {tmp_path / ".cache"}


def test_the_record_has_a_row_a_seed_the_spread_and_the_verdict(tmp_path: Path) -> None:
    record = run_seeds(config(tmp_path, [42, 43, 44]), StubRun())
    assert json.loads((tmp_path / "runs" / "seeds.json").read_text(encoding="utf-8"))["verdict"] == record["verdict"]
    assert [row["domain"]["tuned"] for row in record["seeds"]] == [0.05, 0.06, 0.10]
    # Changes -0.40, -0.39, -0.35: mean -0.38.
    assert record["summary"]["domain_delta"] == pytest.approx({"mean": -0.38, "min": -0.40, "max": -0.35})
    assert record["verdict"]["decision"] == "accept"
    assert record["command"].endswith("--seeds 42 43 44")
    shown = (tmp_path / "runs" / "seeds.md").read_text(encoding="utf-8")
    assert "| 44 | domain | accept | 45.0% | 10.0% | -35.0 | -36.0 to -34.0 |" in shown
    assert "| domain | -38.0 | -40.0 | -35.0 |" in shown


def test_one_seed_that_is_inconclusive_keeps_the_verdict_open(tmp_path: Path) -> None:
    assert run_seeds(config(tmp_path, [42, 43]), StubRun({43: "inconclusive"}))["verdict"]["decision"] == "inconclusive"


def test_a_run_that_fails_leaves_no_summary_of_earlier_seeds(tmp_path: Path) -> None:
    run_seeds(config(tmp_path, [42, 43]), StubRun())

    def fail(_: ExperimentConfig) -> JsonObject:
        raise CheckFailed("stopped")

    with pytest.raises(CheckFailed):
        run_seeds(config(tmp_path, [42, 43]), fail)
    assert list((tmp_path / "runs").glob("seeds.*")) == []


@pytest.mark.parametrize("seeds", [None, [42], [42, 42], [42, -1]])
def test_fewer_than_two_seeds_repeated_or_negative_ones_are_refused(tmp_path: Path, seeds: list[int] | None) -> None:
    with pytest.raises(ConfigError) as caught:
        run_seeds(config(tmp_path, seeds), StubRun())
    assert "seeds: got" in str(caught.value)


def test_the_folder_of_a_single_run_is_not_used_for_several(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "experiment_metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds a single run"):
        run_seeds(config(tmp_path, [42, 43]), StubRun())


def test_a_single_experiment_refuses_several_seeds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one"):
        run_experiment(config(tmp_path, [42, 43]))
