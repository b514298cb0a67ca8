"""What the trackers of a run are told: TensorBoard's event files hold the history; others only when asked for."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import LoggerType

from lora.config import ExperimentConfig
from lora.errors import SetupError
from lora.runners import trackers
from lora.runners.experiment import run_experiment
from lora.scripts import experiment

FAKE_TRACKIO = """
config = {}
class Run:
    def __init__(self, project, name):
        import json, os
        self.path = os.environ["FAKE_TRACKIO"]
        self.write(["init", project, name])
    def write(self, row):
        import json
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\\n")
    def log(self, values, step=None):
        self.write(["log", step, values])
    def finish(self):
        self.write(["finish"])
def init(project, name):
    return Run(project, name)
class Config(dict):
    def update(self, values, allow_val_change):
        dict.update(self, values)
config = Config()
"""


@pytest.fixture(scope="module")
def job(make_job: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    data = tmp_path_factory.mktemp("data")
    counts = {"train": 12, "replay": 8, "domain": 6, "guardrail": 6, "dev": 4, "guard_dev": 4}
    return make_job(
        data,
        counts,
        seed=50,
        output_dir=data / "run",
        max_steps=2,
        eval_interval=1,
        batch_seconds=6.0,
        strengths=[0.5, 1.0],
    )


@pytest.fixture(scope="module")
def finished(job: ExperimentConfig) -> Path:
    run_experiment(job)
    return job.output_dir


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """Return step -> value of every scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_runs_of_several_precisions_follow_each_other_in_one_process() -> None:
    bundle = SimpleNamespace(device=torch.device("cpu"))
    for precision, expected in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        run: Any = SimpleNamespace(precision=precision, bundle=bundle)
        accelerator = trackers.build_accelerator(run)
        assert accelerator.mixed_precision == expected
        with accelerator.autocast():
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")


def test_event_files_hold_every_number_of_the_history(finished: Path) -> None:
    events = read_events(finished)
    rows = [json.loads(line) for line in (finished / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {name for name in events if name.startswith(("train/", "development/"))}
    assert {f"train/{name}" for name in ("loss", "domain_loss", "replay_loss", "learning_rate", "grad_norm")} < told
    assert {"development/validation_wer", "development/guardrail_wer"} < told
    for row in rows:
        part, values = ("development", row["eval"]) if "eval" in row else ("train", row)
        for name, value in values.items():
            if name != "step":
                assert events[f"{part}/{name}"].pop(row["step"]) == pytest.approx(value, rel=1e-6)
    assert not any(events[name] for name in told)


def test_event_files_hold_the_strength_curve_and_the_result(finished: Path) -> None:
    events, metrics = read_events(finished), read_json(finished / "experiment_metrics.json")
    curve = {round(100 * row["scale"]): row["domain_wer"] for row in metrics["strength"]}
    assert events["strength/domain_wer"] == pytest.approx(curve, rel=1e-6)
    assert events["result/domain/tuned"] == pytest.approx({2: metrics["tuned_wer"]}, rel=1e-6)
    guardrail = metrics["guardrails"][0]
    assert events["result/guardrail/delta"] == pytest.approx({2: guardrail["delta"]}, rel=1e-6)


def test_a_tracker_that_is_not_installed_stops_the_run_before_it_starts(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name in ("wandb", "mlflow") else name)
    with pytest.raises(SetupError, match="pip install wandb mlflow"):
        run_experiment(replace(job, output_dir=tmp_path / "run", trackers=["wandb", "trackio", "mlflow"]))
    words = ["--output-dir", str(tmp_path / "run"), "--dataset-path", "none.jsonl", "--manifest-path", "none.jsonl"]
    words += ["--replay-manifest", "none.jsonl"]
    assert experiment.main([*words, "--guardrail-manifest", "none.jsonl", "--trackers", "wandb"]) == 1
    assert "wandb cannot be imported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_on_request_is_told_the_same_in_rising_steps(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, log = tmp_path / "packages", tmp_path / "log.jsonl"
    write_package(packages, {"trackio/__init__.py": FAKE_TRACKIO, "trackio-1.0.dist-info/METADATA": METADATA})
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("FAKE_TRACKIO", str(log))
    # Accelerate looked for packages when it was imported.
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD, LoggerType.TRACKIO])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    run_experiment(replace(job, output_dir=tmp_path / "run", trackers=["trackio"]))
    first, *rows, last = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert (first, last) == (["init", "moonshine-lora", "run"], ["finish"])
    assert sys.modules["trackio"].config["max_steps"] == 2
    steps = [row[1] for row in rows]
    assert steps == sorted(steps)
    told: dict[str, Any] = {}
    for row in rows:
        told |= row[2]
    metrics = read_json(tmp_path / "run" / "experiment_metrics.json")
    assert told["strength/domain_wer/0.5"] == metrics["strength"][0]["domain_wer"]
    assert told["result/accepted"] == (metrics["verdict"]["decision"] == "accept")
    monkeypatch.delitem(sys.modules, "trackio")


METADATA = "Metadata-Version: 2.1\nName: trackio\nVersion: 1.0\n"


def write_package(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
