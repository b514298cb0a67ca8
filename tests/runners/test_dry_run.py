"""A dry run says what a run would do and how long it takes, and leaves nothing behind."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lora.config import ExperimentConfig
from lora.errors import ConfigError
from lora.runners import inputs
from lora.runners.dry_run import estimate_experiment
from lora.runners.experiment import run_experiment
from lora.runners.features import count_views
from lora.runners.pace import Estimate, Work, clock, count_work
from lora.runners.provenance import command_of
from lora.scripts import experiment
from lora.training.examples import Example
from lora.training.loop import TrainingData


@pytest.fixture(scope="module")
def job(make_job: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    data = tmp_path_factory.mktemp("dry")
    return make_job(
        data,
        {"train": 12, "domain": 6, "guardrail": 5, "dev": 4},
        seed=50,
        output_dir=data / "out" / "run",
        max_steps=50,
        eval_interval=20,
        batch_seconds=4.0,
        targets="decoder",
        dry_run=True,
    )


def words(config: ExperimentConfig) -> list[str]:

    return shlex.split(command_of("experiment", config))[2:]


def test_the_command_shows_options_and_estimate_and_writes_nothing(
    job: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(job.dataset_path.parent.rglob("*"))
    assert experiment.main(words(job)) == 0
    shown, _, estimate = capsys.readouterr().out.rpartition("estimate: ")
    assert "s a step; 50 steps" in estimate
    assert "3 evaluations with baseline and tuned scores" in estimate
    assert "peak memory" in estimate
    values = yaml.safe_load(shown)
    assert values["warmup_ratio"] == ExperimentConfig.warmup_ratio
    assert values["dry_run"] is False
    assert sorted(job.dataset_path.parent.rglob("*")) == before


def test_every_seed_is_a_run(job: ExperimentConfig) -> None:
    assert "3 seeds: 3 runs" in estimate_experiment(replace(job, seeds=[1, 2, 3])).text()


def test_a_dry_run_finds_what_would_stop_the_run(job: ExperimentConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment.main(words(replace(job, objective="misaligned"))) == 3
    assert "alignment check" in capsys.readouterr().err
    assert experiment.main(words(replace(job, distillation_weight=0.5))) == 2
    assert "--replay-manifest" in capsys.readouterr().err


def test_a_run_refuses_a_configuration_that_asks_for_a_dry_run(job: ExperimentConfig) -> None:
    with pytest.raises(ConfigError, match="dry_run"):
        run_experiment(job)


def test_a_run_tells_its_estimate_after_the_first_steps(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(replace(job, dry_run=False, max_steps=4, output_dir=tmp_path / "run"))
    told = capsys.readouterr().err
    assert told.count("estimate: ") == 1
    assert told.count("first step ") == 1


def test_the_work_of_a_run_is_counted_from_its_sets(job: ExperimentConfig) -> None:
    config = replace(job, strengths=[0.5, 1.0])
    run = inputs.open_run(config)
    data = inputs.load_data(run, inputs.read_manifests(config))
    work = count_work(run, data)
    # After steps 20, 40 and 50, and two strengths; the baseline of each set, the tuned scores of the reported ones.
    assert (work.steps, work.evaluations) == (50, 5)
    reported = data.domain.seconds + data.guardrails[0].seconds
    assert work.evaluated_seconds == pytest.approx(6 * data.domain_dev.seconds + 2 * reported)


def test_the_states_of_a_run_are_of_every_view_of_the_domain_and_one_of_replay(job: ExperimentConfig) -> None:
    clip = Example("a", np.zeros(16_000, np.float32), (1,), "one", None)
    training = TrainingData([clip] * 3, [clip] * 5)
    augmented = replace(job, augment=["speed:0.9-1.1"], augment_views=4)
    assert count_views(job).seconds(training) == 3 + 5
    assert count_views(augmented).seconds(training) == 4 * 3 + 5
    assert count_views(replace(augmented, augment_replay=True)).seconds(training) == 4 * (3 + 5)


def test_the_parts_of_an_estimate_add_up() -> None:
    estimate = Estimate(Work(300, 6, 1000.0), 0.5, 20.0, 40.0, 1234.0)
    assert estimate.training_seconds == 170.0
    assert estimate.total_seconds == 210.0
    assert "300 steps 3 min" in estimate.text()
    assert "1.23 GB" in estimate.text()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_shown_in_the_unit_that_suits_them(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
