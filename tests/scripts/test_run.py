"""The whole job from one file: shipped files are right, wrong ones are refused with every fault."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lora.config import ExperimentConfig
from lora.errors import ConfigError
from lora.runners.build import BuildOptions
from lora.scripts import run
from lora.scripts.cli import parse_options
from lora.scripts.run import SECTIONS, RunOptions, plan_stages

ROOT = Path(__file__).resolve().parents[2]
# Other files in configs/ belong to other commands.
JOBS = [
    path for path in sorted((ROOT / "configs").glob("*.yaml")) if set(yaml.safe_load(path.read_text())) == set(SECTIONS)
]

GOOD = """
manifests:
  train: {source: synthetic, split: train, samples: 3, seed: "{seed}", output: data/train.jsonl}
experiment:
  output_dir: outputs/run-{seed}
  dataset_path: data/train.jsonl
  manifest_path: data/test.jsonl
  guardrail_manifest: [data/clean.jsonl, "{fsdd}/more.jsonl"]
  replay_ratio: 0
  distillation_weight: 0
  learning_rate: 1e-4
  alignment_check: false
"""


def write_job(tmp_path: Path, text: str) -> RunOptions:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return RunOptions(config=path, seed=7, fsdd=Path("corpora/fsdd"))


def faults_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_stages(write_job(tmp_path, text))
    return str(caught.value)


def test_there_are_shipped_jobs() -> None:
    assert {"demo.yaml", "fsdd_accents.yaml", "librispeech_tiny.yaml"} <= {path.name for path in JOBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_shipped_job_is_right_and_a_dry_run_prints_its_commands(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["--config", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["build-manifest"] * (len(lines) - 1) + ["experiment"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_shipped_job_evaluates_on_what_it_builds(path: Path) -> None:
    *builds, last = [stage.options for stage in plan_stages(RunOptions(config=path))]
    built = {options.output for options in builds}
    used = [last.dataset_path, last.manifest_path, *last.guardrail_manifest, last.replay_manifest]
    assert set(used) <= built | {None}


def test_values_are_filled_in_and_every_printed_line_repeats_its_stage(tmp_path: Path) -> None:
    build, job = plan_stages(write_job(tmp_path, GOOD))
    assert isinstance(build.options, BuildOptions)
    assert isinstance(job.options, ExperimentConfig)
    assert build.options.seed == 7
    assert job.options.output_dir == Path("outputs/run-7")
    assert job.options.guardrail_manifest == [Path("data/clean.jsonl"), Path("corpora/fsdd/more.jsonl")]
    assert job.options.learning_rate == 1e-4
    assert job.options.alignment_check is False
    for stage in (build, job):
        words = shlex.split(stage.line)
        assert words[:2] == ["moonshine-lora", stage.command.name]
        assert parse_options(stage.command, words[2:]) == stage.options


@pytest.mark.parametrize("flag", ["resume", "restart", "overwrite"])
def test_what_to_do_about_an_unfinished_run_is_passed_on_to_the_experiment(tmp_path: Path, flag: str) -> None:
    options = replace(write_job(tmp_path, GOOD), **{flag: True})
    *builds, last = plan_stages(options)
    assert [name for name in ("resume", "restart", "overwrite") if getattr(last.options, name)] == [flag]
    assert last.line.endswith(f"--{flag}")
    assert all(f"--{flag}" not in stage.line for stage in builds)


def test_the_manifests_section_may_be_empty(tmp_path: Path) -> None:
    experiment_alone = "manifests:\nexperiment:" + GOOD.split("experiment:")[1]
    assert len(plan_stages(write_job(tmp_path, experiment_alone))) == 1


def test_faults_of_all_sections_are_listed_together(tmp_path: Path) -> None:
    text = GOOD.replace("samples: 3", "samples: 0").replace("1e-4", "9")
    text = text.replace("manifests:\n", "manifests:\n  other: {source: synthetic, splitt: train, output: x}\n")
    faults = faults_of(tmp_path, text)
    assert "3 fault(s)" in faults
    assert "manifests.other: " in faults
    assert "did you mean --split?" in faults
    assert "manifests.train: --samples: got 0, expected at least 1" in faults
    assert "experiment: learning_rate: got 9.0" in faults


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate: 1e-4", "learning_rate:", "learning_rate: got None, expected a value"),
        ("learning_rate: 1e-4", "learning_rate: {a: 1}", "learning_rate: got {'a': 1}, expected a value"),
        ("data/train.jsonl}", '"data/{sede}.jsonl"}', "output: {sede} is not filled in; the file can use {seed}"),
        ("learning_rate: 1e-4", "learning_rate: quick", "--learning-rate: got 'quick', expected a number"),
        ("  learning_rate: 1e-4", "  max_steps: 3\n  max_steps: 4", "key 'max_steps' appears twice"),
        ("experiment:", "experimet:", "expected exactly manifests and experiment"),
        ("manifests:", "more: {}\nmanifests:", "expected exactly manifests and experiment"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) >= 1
    assert message in faults_of(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "[1, 2]", "manifests: [1]\nexperiment: {}", "manifests: {a: 1}\nexperiment: {}"])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected" in faults_of(tmp_path, text)


def test_a_missing_file_gives_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--config", str(tmp_path / "gone.yaml")]) == 2
    assert "gone.yaml: no such config file" in capsys.readouterr().err


def test_the_first_stage_that_fails_stops_the_job_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace("synthetic, split: train, samples: 3", "fsdd, path: gone, split: train, samples: 3")
    options = write_job(tmp_path, text)
    assert run.main(["--config", str(options.config)]) == 2
    error = capsys.readouterr().err
    assert error.count("$ moonshine-lora") == 1
    assert "error: " in error
