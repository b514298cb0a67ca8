"""A sweep: the same table interrupted or not, pruning by interval score, slots shared by workers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml

from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError
from lora.runners import study as studies
from lora.runners.sweep import Choices, Objective, OnEvaluation, Range, SearchSettings, SweepPlan, run_sweep
from lora.units import JsonObject

SPACE: dict[str, Range | Choices] = {
    "learning_rate": Range(1e-4, 1e-2, log=True),
    "rank": Choices((4, 8, 16)),
    "max_steps": Range(100, 300, step=100, integer=True),
    "replay_ratio": Range(0.0, 0.8, step=0.2),
}


def make_plan(folder: Path, **changes: object) -> SweepPlan:
    path = folder / "x.jsonl"
    base = ExperimentConfig(
        output_dir=folder / "sweep" / "best",
        dataset_path=path,
        replay_manifest=path,
        distillation_weight=0.0,
        manifest_path=path,
        guardrail_manifest=[path],
    )
    fields = {
        "name": "toy",
        "base": base,
        "space": SPACE,
        "settings": SearchSettings(seed=7, startup_trials=4, pruning_startup_trials=3),
        "manifests": (),
        "output": folder / "sweep",
    }
    return SweepPlan(**{**fields, **changes})  # type: ignore[arg-type]


def bowl(config: ExperimentConfig, on_evaluation: OnEvaluation) -> float:
    """A stub objective: best at a learning rate of 1e-3 and a large rank; approached over three evaluations."""
    import math

    score = abs(math.log10(config.learning_rate) + 3) + 1 / config.rank + abs(config.replay_ratio - 0.4) / 10
    on_evaluation(0, 5.0)
    for step in (50, 100, 150):
        on_evaluation(step, score * (1 + (150 - step) / 300))
    return score


class Interrupting:
    """The stub objective, but the process is stopped in its n-th call."""

    def __init__(self, at: int, how: BaseException) -> None:
        self.calls, self.at, self.how = 0, at, how

    def __call__(self, config: ExperimentConfig, on_evaluation: OnEvaluation) -> float:
        self.calls += 1
        if self.calls == self.at:
            on_evaluation(50, 0.0)
            raise self.how
        return bowl(config, on_evaluation)


def sweep(folder: Path, trials: int, objective: Objective = bowl, plan: SweepPlan | None = None) -> JsonObject:
    return run_sweep(plan or make_plan(folder), f"sqlite:///{folder}/sweep.db", trials, objective=objective)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted sweep of twelve trials."""
    folder = tmp_path_factory.mktemp("whole")
    sweep(folder, 12)
    return folder


def table_of(folder: Path) -> str:
    return (folder / "sweep" / "sweep.md").read_text(encoding="utf-8")


def test_the_table_has_every_trial_and_some_were_pruned(whole: Path) -> None:
    record = json.loads((whole / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [row["trial"] for row in record["trials"]] == list(range(12))
    outcomes = {row["outcome"] for row in record["trials"]}
    assert outcomes == {"complete", "pruned"}
    assert all(row["step"] < 150 for row in record["trials"] if row["outcome"] == "pruned")
    complete = [row for row in record["trials"] if row["outcome"] == "complete"]
    assert record["best"]["score"] == min(row["score"] for row in complete)
    assert table_of(whole).count("\n| ") == 2 + 12


def test_values_are_drawn_from_the_space(whole: Path) -> None:
    for row in json.loads((whole / "sweep" / "sweep.json").read_text(encoding="utf-8"))["trials"]:
        options = row["options"]
        assert 1e-4 <= options["learning_rate"] <= 1e-2
        assert options["rank"] in (4, 8, 16)
        assert options["max_steps"] in (100, 200, 300)


def test_the_best_configuration_is_a_file_for_experiment(whole: Path) -> None:
    from lora.scripts.cli import parse_options
    from lora.scripts.experiment import COMMAND

    path = whole / "sweep" / "best.yaml"
    best = json.loads((whole / "sweep" / "sweep.json").read_text(encoding="utf-8"))["best"]
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["rank"] == best["options"]["rank"]
    config = parse_options(COMMAND, ["--config", str(path)])
    assert config.learning_rate == pytest.approx(best["options"]["learning_rate"])
    assert config.output_dir == whole / "sweep" / "best"


@pytest.mark.parametrize("stops", [[3], [1, 6], [5, 1]])
def test_an_interrupted_and_resumed_sweep_has_the_table_of_an_uninterrupted_one(
    tmp_path: Path, whole: Path, stops: list[int]
) -> None:
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, 12, Interrupting(stop, KeyboardInterrupt()))
    sweep(tmp_path, 12)
    assert table_of(tmp_path) == table_of(whole)


def test_a_sweep_in_two_parts_has_the_table_of_one(tmp_path: Path, whole: Path) -> None:
    sweep(tmp_path, 5)
    sweep(tmp_path, 12)
    assert table_of(tmp_path) == table_of(whole)


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("helpers", {file!r})
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

class Killed(helpers.Interrupting):
    def __call__(self, config, on_evaluation):
        if self.calls + 1 == self.at:
            on_evaluation(50, 0.0)
            os._exit(9)
        return super().__call__(config, on_evaluation)

helpers.sweep(Path({folder!r}), 12, Killed({at}, KeyboardInterrupt()))
"""


def in_another_process(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_trial_of_a_worker_that_was_killed_is_done_again(tmp_path: Path, whole: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), file=__file__, folder=str(tmp_path), at=6)
    worker = in_another_process(code)
    assert (worker.wait(timeout=120), worker.communicate()[0]) == (9, "")
    sweep(tmp_path, 12)
    assert table_of(tmp_path) == table_of(whole)


def test_two_workers_on_one_storage_share_the_slots(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), file=__file__, folder=str(tmp_path), at=10_000)
    workers = [in_another_process(code) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    record = sweep(tmp_path, 12)
    assert [row["trial"] for row in record["trials"]] == list(range(12))


def test_a_trial_that_a_check_stops_is_an_outcome_with_its_message(tmp_path: Path) -> None:
    def diverges(config: ExperimentConfig, on_evaluation: OnEvaluation) -> float:
        if config.rank == 4:
            raise CheckFailed("the loss is not finite")
        return bowl(config, on_evaluation)

    record = sweep(tmp_path, 8, diverges)
    failed = [row for row in record["trials"] if row["outcome"] == "check failed"]
    assert failed
    assert {row["options"]["rank"] for row in failed} == {4}
    assert "check failed: the loss is not finite" in table_of(tmp_path)
    assert record["best"]["options"]["rank"] != 4


def test_no_completed_trial_is_a_failed_check(tmp_path: Path) -> None:
    def stopped(config: ExperimentConfig, on_evaluation: OnEvaluation) -> float:
        raise CheckFailed("no")

    with pytest.raises(CheckFailed, match="no trial completed"):
        sweep(tmp_path, 2, stopped)
    assert not (tmp_path / "sweep" / "best.yaml").exists()


def test_a_fault_of_the_input_stops_the_sweep_and_frees_the_slot(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="wrong"):
        sweep(tmp_path, 12, Interrupting(2, ConfigError("wrong")))
    sweep(tmp_path, 12)
    assert table_of(tmp_path) == table_of(whole)


def test_a_storage_with_another_sweep_is_refused(tmp_path: Path) -> None:
    sweep(tmp_path, 2)
    other = make_plan(tmp_path, settings=SearchSettings(seed=8))
    with pytest.raises(ConfigError, match=r"settings.seed was 7, wanted 8"):
        sweep(tmp_path, 2, plan=other)


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:/x", "mongodb://host/x"])
def test_an_address_of_no_database_is_refused(tmp_path: Path, storage: str) -> None:
    with pytest.raises(ConfigError, match="--storage"):
        run_sweep(make_plan(tmp_path), storage, 2, objective=bowl)


def test_a_worker_waits_for_the_slot_of_a_trial_that_was_created_before(tmp_path: Path) -> None:
    with studies.open_study(f"sqlite:///{tmp_path}/x.db", "x", optuna.pruners.NopPruner()) as study:
        first = studies.claim_trial(study, 3)
        assert first is not None
        assert first[1] == 0
        study.tell(first[0], 1.0)
        second = studies.claim_trial(study, 3)
        assert second is not None
        assert second[1] == 1
        # The same process claims again, so it has left the second trial: its slot is free.
        third = studies.claim_trial(study, 3)
        assert third is not None
        assert third[1] == 1


def test_no_trial_is_created_when_every_slot_is_taken(tmp_path: Path) -> None:
    with studies.open_study(f"sqlite:///{tmp_path}/x.db", "x", optuna.pruners.NopPruner()) as study:
        first = studies.claim_trial(study, 1)
        assert first is not None
        study.tell(first[0], 1.0)
        assert studies.claim_trial(study, 1) is None
        assert len(study.get_trials()) == 1


@pytest.fixture
def toy_config(toy_checkpoint: Path, write_toy_manifest: Callable[..., Path], tmp_path: Path) -> ExperimentConfig:
    return ExperimentConfig(
        output_dir=tmp_path / "out" / "run",
        model_id=str(toy_checkpoint),
        dataset_path=write_toy_manifest(tmp_path / "train.jsonl", count=12, seed=1),
        validation_manifest=write_toy_manifest(tmp_path / "dev.jsonl", count=4, seed=2),
        manifest_path=write_toy_manifest(tmp_path / "test.jsonl", count=4, seed=3),
        guardrail_manifest=[write_toy_manifest(tmp_path / "guard.jsonl", count=4, seed=4)],
        replay_ratio=0.0,
        distillation_weight=0.0,
        average_decay=0.0,
        strengths=[1.0],
        selection_budget=0.0,
        max_steps=4,
        eval_interval=2,
        batch_seconds=3,
        alignment_check=False,
        device="cpu",
    )


def test_the_real_objective_scores_development_sets_only_and_keeps_nothing(
    toy_config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora.runners import stages
    from lora.runners.sweep import select_on_development

    scored: list[str] = []
    original = stages.score_set
    monkeypatch.setattr(
        stages, "score_set", lambda r, item, *rest: scored.append(item.name) or original(r, item, *rest)
    )
    seen: list[tuple[int, float]] = []
    score = select_on_development(toy_config, lambda step, value: seen.append((step, value)))
    assert [step for step, _ in seen] == [0, 2, 4]
    assert score == min(value for _, value in seen)
    assert set(scored) == {"domain_dev"}
    assert not toy_config.output_dir.exists()
