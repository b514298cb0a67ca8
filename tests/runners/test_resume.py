"""A run that was stopped, or failed after its training, goes on and ends as if nothing had happened."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from lora import signals
from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError, InputError, LoraError, SetupError
from lora.files import read_json
from lora.model.load import load_bundle
from lora.runners import outcome, output, stages
from lora.runners.experiment import run_experiment
from lora.runners.output import has_training, partial_folder
from lora.runners.pace import FirstSteps
from lora.runners.provenance import command_of
from lora.runners.seeds import run_seeds
from lora.runners.sweep import Range, SearchSettings, SweepPlan, run_sweep
from lora.runners.trackers import Tracking
from lora.scripts import experiment
from lora.training.loop import Trainer

ADAPTER = "lora_adapter/adapter_model.safetensors"
TIMES = ("seconds", "cpu_seconds", "checkpoint_seconds")


@pytest.fixture(scope="module")
def job(make_job: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """A job of six steps, with the guards that ship."""
    data = tmp_path_factory.mktemp("data")
    counts = {"train": 24, "replay": 12, "domain": 10, "guardrail": 8, "dev": 6, "guard_dev": 6}
    guards = {"distillation_weight": 0.7, "average_decay": 0.98, "strengths": [0.5, 1.0]}
    return make_job(
        data, counts, seed=10, output_dir=data / "never", max_steps=6, eval_interval=3, batch_seconds=6.0, **guards
    )


@pytest.fixture(scope="module")
def whole(job: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_experiment(replace(job, output_dir=folder))
    return folder


def results_of(folder: Path) -> tuple[Any, ...]:
    """Return everything of a run that must be the same, however often it was stopped."""
    metrics = json.loads((folder / "experiment_metrics.json").read_text())
    for name in ("run_id", "command", "seconds", "times"):
        del metrics[name]
    del metrics["config"]["output_dir"], metrics["config"]["cache_dir"]
    for name in TIMES:
        del metrics["train"][name]
    return metrics, *((folder / name).read_bytes() for name in (ADAPTER, "history.jsonl", "samples.jsonl"))


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send SIGTERM when this step's row is told, to the first run in the block that comes so far."""
    told, step_done = [0], FirstSteps.step_done

    def count(self: FirstSteps) -> None:
        step_done(self)
        told[0] += 1
        if told[0] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FirstSteps, "step_done", count)
        yield


def refuse_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "step", step)


def words_of(config: ExperimentConfig) -> list[str]:
    return shlex.split(command_of("experiment", config))[2:]


def test_a_stopped_run_says_how_to_go_on_and_ends_as_if_it_had_not_been(
    job: ExperimentConfig,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = replace(job, output_dir=tmp_path / "run")
    with stopped_at(2, monkeypatch):
        assert experiment.main(words_of(config)) == 143
    assert "ended by SIGTERM: training is kept up to step 2; --resume goes on" in capsys.readouterr().err
    assert has_training(partial_folder(config.output_dir))
    assert not config.output_dir.exists()
    # Nothing was said about what is there: it is neither lost nor silently taken.
    assert experiment.main(words_of(config)) == 2
    assert "kept up to step 2. Give --resume to go on, or --restart" in capsys.readouterr().err
    with stopped_at(3, monkeypatch):  # three more: step 5
        assert experiment.main([*words_of(config), "--resume"]) == 143
    assert experiment.main(["--output-dir", str(config.output_dir), "--resume"]) == 0
    assert results_of(config.output_dir) == results_of(whole)
    assert not partial_folder(config.output_dir).exists()
    told = capsys.readouterr()
    # A resumed run prints only what it computes.
    assert "step 6: development WER" in told.err
    assert "step 3: development WER" not in told.err.split("an unfinished run goes on")[-1]
    # Going on with what is finished is no work.
    refuse_to_train(monkeypatch)
    assert experiment.main([*words_of(config), "--resume"]) == 0
    assert "was finished before" in capsys.readouterr().err


def stop_early(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopped_at(2, monkeypatch), pytest.raises(signals.Stopped), signals.handled():
        run_experiment(config)


def test_another_configuration_or_other_data_are_refused_by_name_and_restart_begins_anew(
    job: ExperimentConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tmp_path / "train.jsonl"
    shutil.copy(job.dataset_path, train)
    [audio] = job.dataset_path.parent.glob("train_audio-*")
    shutil.copytree(audio, tmp_path / audio.name)
    config = replace(job, output_dir=tmp_path / "run", dataset_path=train, resume=True)
    stop_early(config, monkeypatch)
    with pytest.raises(ConfigError, match="another configuration") as caught:
        run_experiment(replace(config, rank=8, eval_batch_seconds=100.0))
    assert caught.value.problems == ("rank was 4, wanted 8", "eval_batch_seconds was 160.0, wanted 100.0")
    # What says nothing about the result may change.
    lines = train.read_text().splitlines()
    train.write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    with pytest.raises(InputError, match="read other data") as caught:
        run_experiment(replace(config, checkpoint_interval="7"))
    assert f"{train}: is not what it was when the run began" in caught.value.problems
    assert has_training(partial_folder(config.output_dir))
    train.write_text("\n".join(lines) + "\n")
    run_experiment(replace(config, resume=False, restart=True))
    assert read_json(config.output_dir / "experiment_metrics.json")["train"]["steps"] == 6
    assert (config.output_dir / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


@pytest.mark.parametrize("flag", ["resume", "restart"])
def test_a_run_that_cannot_begin_leaves_the_training_that_is_there(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    config = replace(job, output_dir=tmp_path / "run")
    stop_early(config, monkeypatch)
    before = {path: path.read_bytes() for path in partial_folder(config.output_dir).rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(stages, "require_alignment", lambda check: _raise(CheckFailed("misaligned")))
        with pytest.raises(CheckFailed, match="misaligned"):
            run_experiment(replace(config, **{flag: True}))
    assert {
        path: path.read_bytes() for path in partial_folder(config.output_dir).rglob("*") if path.is_file()
    } == before


def _raise(error: Exception) -> None:
    raise error


def test_a_check_that_stops_training_marks_the_run(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(job, output_dir=tmp_path / "run")
    step = Trainer.step

    def fail(self: Trainer, number: int, *parts: Any) -> Any:
        return step(self, number, *parts) if number < 5 else _raise(CheckFailed("the loss is not finite"))

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", fail)
        with pytest.raises(CheckFailed):
            run_experiment(config)
    record = read_json(partial_folder(config.output_dir) / "run.json")
    assert (record["status"], record["message"]) == ("check_failed", "the loss is not finite")
    run_experiment(replace(config, resume=True))


def test_what_is_at_the_partial_folders_place_and_no_run_stays(job: ExperimentConfig, tmp_path: Path) -> None:
    config = replace(job, output_dir=tmp_path / "run")
    partial_folder(config.output_dir).mkdir()
    mine = partial_folder(config.output_dir) / "run.txt"
    mine.write_text("mine")
    for changes in ({}, {"resume": True}, {"restart": True}):
        with pytest.raises(ConfigError, match="is not an unfinished run"):
            run_experiment(replace(config, **changes))
    assert mine.read_text() == "mine"


def test_notes_in_the_partial_folder_stay(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(job, output_dir=tmp_path / "run", resume=True)
    stop_early(config, monkeypatch)
    notes = partial_folder(config.output_dir) / "notes.md"
    notes.write_text("mine")
    run_experiment(config)
    assert [path.name for path in notes.parent.iterdir()] == ["notes.md"]


def test_two_processes_do_not_work_at_one_run(job: ExperimentConfig, tmp_path: Path) -> None:
    config = replace(job, output_dir=tmp_path / "run")
    with output.open_partial(config), pytest.raises(SetupError, match="another process is at this run"):
        run_experiment(config)


def fail_at(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    error: Exception = SetupError("the machine has a fault")
    if stage == "loading the base again":
        loaded = stages.load_adapter
        monkeypatch.setattr(stages, "load_adapter", lambda *given: fail() if given else loaded)
    elif stage == "scoring":
        error = MemoryError()
        score = stages.score_set

        def fail_on_the_reported(recognizer: Any, evaluation_set: Any, advance: Any) -> Any:
            return fail() if evaluation_set.name == "domain" else score(recognizer, evaluation_set, advance)

        monkeypatch.setattr(stages, "score_set", fail_on_the_reported)
    elif stage == "disk":
        error = OSError(28, "No space left on device")
        monkeypatch.setattr(outcome, "write_output_json", fail)
    elif stage == "report":
        error = ValueError("a plot")
        monkeypatch.setattr(outcome, "write_html_report", fail)
    elif stage == "card":
        monkeypatch.setattr(outcome, "write_model_card", fail)
    elif stage == "tracker":
        error = ConnectionError("HTTP 503")
        monkeypatch.setattr(Tracking, "log_result", fail)
    else:
        error = OSError(28, "No space left on device")
        monkeypatch.setattr(output.Partial, "finish", fail)


SLOW_STAGES = ("loading the base again", "report", "card", "tracker", "putting events in place")


@pytest.mark.parametrize(
    "stage", ["scoring", "disk", *(pytest.param(stage, marks=pytest.mark.slow) for stage in SLOW_STAGES)]
)
def test_a_fault_after_training_leaves_the_adapter_and_the_run_goes_on_without_training(
    job: ExperimentConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    config = replace(job, output_dir=tmp_path / "run", cache_dir=whole.parent / ".cache")
    with monkeypatch.context() as patch:
        fail_at(stage, patch)
        with pytest.raises((LoraError, MemoryError, OSError, ValueError)):
            run_experiment(config)
    base = load_bundle(config.model_id, stages.load_bundle(config.model_id, _cpu()).device)
    PeftModel.from_pretrained(base.core, str(config.output_dir / "lora_adapter"))
    with pytest.raises(ConfigError, match="unfinished training"):
        run_experiment(config)
    refuse_to_train(monkeypatch)
    run_experiment(replace(config, resume=True))
    assert results_of(config.output_dir) == results_of(whole)
    assert (config.output_dir / "report.html").is_file()
    assert any((config.output_dir / "tensorboard").rglob("events.*"))
    assert not partial_folder(config.output_dir).exists()


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def test_an_earlier_run_stays_until_the_new_adapter_is_chosen(
    job: ExperimentConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(job, output_dir=tmp_path / "run", max_steps=3)
    run_experiment(config)
    before = {path: path.read_bytes() for path in config.output_dir.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(stages, "gentlest_strength", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_experiment(replace(config, max_steps=6))
    assert {path: path.read_bytes() for path in config.output_dir.rglob("*") if path.is_file()} == before
    # The steps are kept, too.
    refuse_to_train(monkeypatch)
    run_experiment(replace(config, max_steps=6, resume=True))
    assert results_of(config.output_dir) == results_of(whole)


@pytest.mark.slow
def test_seeds_that_are_finished_are_not_run_again(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(job, output_dir=tmp_path / "seeds", seeds=[1, 2])
    with stopped_at(6 + 2, monkeypatch), pytest.raises(signals.Stopped), signals.handled():
        run_seeds(config)
    first = tmp_path / "seeds" / "seed-1" / "experiment_metrics.json"
    finished = first.read_bytes()
    with pytest.raises(ConfigError, match=r"seed-2\.partial: holds unfinished training"):
        run_seeds(config)
    assert first.read_bytes() == finished
    assert experiment.main(["--output-dir", str(config.output_dir), "--resume"]) == 0
    assert first.read_bytes() == finished
    record = read_json(tmp_path / "seeds" / "seeds.json")
    assert [row["seed"] for row in record["seeds"]] == [1, 2]
    run_experiment(replace(job, output_dir=tmp_path / "alone", seed=2, cache_dir=tmp_path / ".cache"))
    alone, two = (results_of(folder) for folder in (tmp_path / "alone", tmp_path / "seeds" / "seed-2"))
    assert alone[1:] == two[1:]


@pytest.mark.slow
def test_a_sweeps_trial_goes_on_where_it_was_stopped(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(name: str) -> SweepPlan:
        folder = tmp_path / name
        return SweepPlan(
            "toy",
            replace(job, output_dir=folder / "best", cache_dir=tmp_path / ".cache"),
            {"learning_rate": Range(1e-4, 1e-2, log=True)},
            SearchSettings(seed=7),
            (),
            folder,
        )

    def sweep(name: str) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        return run_sweep(plan(name), f"sqlite:///{tmp_path / name}/sweep.db", 2)

    wanted = sweep("whole")
    steps: list[int] = []
    take = Trainer.step

    def counted(self: Trainer, step: int, *parts: Any) -> Any:
        steps.append(step)
        return take(self, step, *parts)

    monkeypatch.setattr(Trainer, "step", counted)
    with stopped_at(6 + 4, monkeypatch), pytest.raises(signals.Stopped), signals.handled():
        sweep("stopped")
    assert [path.name for path in (tmp_path / "stopped").glob("*.partial")] == ["trial-1.partial"]
    found = sweep("stopped")
    assert steps == [*range(1, 7), *range(1, 5), *range(5, 7)]
    assert found["trials"] == wanted["trials"]
    assert list((tmp_path / "stopped").glob("trial-*")) == []


def launch_two(stop_at: int, words: list[str]) -> str:
    script = Path(__file__).with_name("two_stopped.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(script), str(stop_at), *words], capture_output=True, text=True, timeout=600, check=False
    )
    return done.stderr


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_go_on_as_if_they_had_not(
    job: ExperimentConfig, tmp_path: Path
) -> None:
    whole, stopped = (replace(job, output_dir=tmp_path / name, cache_dir=tmp_path / ".cache") for name in ("a", "b"))
    assert "ended with 0" in launch_two(0, words_of(whole))
    told = launch_two(4, words_of(stopped))
    assert told.count("ended with 143") == 2
    assert "kept up to step 4; --resume goes on" in told
    assert "ended with 0" in launch_two(0, ["--output-dir", str(stopped.output_dir), "--resume"])
    assert results_of(stopped.output_dir) == results_of(whole.output_dir)


@pytest.mark.parametrize("file", [output.RUN_FILE, output.CONFIG_FILE])
def test_a_run_that_was_killed_while_it_began_can_begin_again(
    job: ExperimentConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    config = replace(job, output_dir=tmp_path / "run", max_steps=3)
    put = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == file:
            litter.append(self.with_name(self.name))
            raise MemoryError
        return put(self, target)

    litter: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(MemoryError):
            run_experiment(config)
    partial_folder(config.output_dir).mkdir(exist_ok=True)
    litter[0].write_text("half")  # a killed process does not remove it
    run_experiment(config)
    assert not partial_folder(config.output_dir).exists()
