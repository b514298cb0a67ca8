"""Matrix and sweep files: the shipped ones are right, and a wrong one lists every fault."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lora.errors import ConfigError
from lora.runners.build import BuildOptions
from lora.runners.matrix import Matrix
from lora.runners.shift import ShiftOptions
from lora.scripts.matrix import main as matrix_main
from lora.scripts.matrix_file import read_matrix
from lora.scripts.sweep import main as sweep_main
from lora.scripts.sweep_file import read_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OUTPUT = Path("outputs/matrix")


def read(path: Path) -> Matrix:
    return read_matrix(path, output=OUTPUT, fsdd=Path("corpus"))


@pytest.mark.parametrize("name", ["matrix_fsdd", "matrix_librispeech"])
def test_a_shipped_matrix_tests_the_five_hypotheses(name: str) -> None:
    matrix = read(CONFIGS / f"{name}.yaml")
    assert [item.id for item in matrix.hypotheses] == ["H1", "H2", "H3", "H4", "H5"]
    assert all(item.rules for item in matrix.hypotheses)
    built = {plan.options.output for plan in matrix.manifests}
    assert all(path in built for run in matrix.runs for path in run.manifests)
    assert {run.expect for run in matrix.runs} == {"done", "check_failed"}


def test_the_shipped_ablation_switches_one_thing_in_every_run() -> None:
    matrix = read(CONFIGS / "ablation_fsdd.yaml")
    assert (matrix.document, matrix.table) == (Path("docs/ablation.md"), "ablation")
    default, *others = matrix.runs
    built = {plan.options.output for plan in matrix.manifests}
    for run in others:
        assert set(run.manifests) <= built
        before, after = vars(default.config), vars(run.config)
        changed = {name for name in after if before[name] != after[name]} - {"output_dir"}
        assert changed or run.average_of, run.id
        assert len(changed) <= 2 or run.id == "plain", f"{run.id} changes {changed}"  # plain: no guard at all
    assert {run.id for run in others} >= {"no-replay", "no-distillation", "domain-only", "strength-1", "no-average"}
    assert {run.config.method for run in matrix.runs} == {"lora", "rslora", "dora", "pissa", "full"}


def test_an_average_names_runs_that_stand_before_it(tmp_path: Path, document: dict) -> None:
    document["runs"][1]["average_of"] = ["base", "steps-100"]
    document["runs"][2]["average_of"] = ["base"]
    document["runs"][3]["average_of"] = "base"
    text = faults(tmp_path, document)
    for name in ("steps-50", "steps-100", "data-100"):
        assert f"{name}.average_of: got" in text


def test_a_wrong_table_or_document_is_a_fault(tmp_path: Path, document: dict) -> None:
    text = faults(tmp_path, {**document, "table": "matrix", "document": 3})
    assert "table: got 'matrix', expected one of test-matrix, ablation" in text
    assert "document: got 3, expected the path of a Markdown document" in text


def test_runs_inherit_shared_options_and_say_what_differs() -> None:
    matrix = read(CONFIGS / "matrix_fsdd.yaml")
    runs = {run.id: run for run in matrix.runs}
    assert runs["steps-50"].config.max_steps == 50
    assert runs["steps-50"].config.batch_seconds == runs["base"].config.batch_seconds == 60
    assert runs["lr-6e-4"].config.learning_rate == pytest.approx(6e-4)
    assert runs["base"].config.output_dir == OUTPUT / "base"
    assert runs["base"].hypotheses == ("H1", "H2", "H3", "H5")


def test_training_development_and_test_recordings_of_the_shipped_matrix_are_apart() -> None:
    matrix = read(CONFIGS / "matrix_fsdd.yaml")
    plans = {plan.options.output: plan.options for plan in matrix.manifests}

    def origin(path: Path) -> BuildOptions:
        options = plans[path]
        return origin(options.input) if isinstance(options, ShiftOptions) else options

    for run in matrix.runs:
        config = run.config
        assert origin(config.dataset_path).indices == "10-49"
        assert config.validation_manifest is not None
        assert origin(config.validation_manifest).indices == "5-9"
        for path in (config.manifest_path, *config.guardrail_manifest):
            assert origin(path).split == "test"


def test_a_null_takes_a_shared_option_away() -> None:
    matrix = read(CONFIGS / "matrix_librispeech.yaml")
    runs = {run.id: run for run in matrix.runs}
    assert runs["tiny-base"].config.replay_manifest is not None
    assert runs["tiny-clean-to-other"].config.replay_manifest is None


@pytest.fixture
def document() -> dict:
    return yaml.safe_load((CONFIGS / "matrix_fsdd.yaml").read_text(encoding="utf-8"))


def faults(tmp_path: Path, document: dict) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value)


def test_every_fault_of_a_matrix_is_listed_at_once(tmp_path: Path, document: dict) -> None:
    document["hypotheses"]["H1"]["rules"] = ["base:tuned_wer", "bse:tuned_wer < 1"]
    del document["hypotheses"]["H2"]["problem"]
    document["runs"][1]["max_stepz"] = 3
    document["runs"][2]["hypothesis"] = "H9"
    document["runs"][3]["expect"] = "crash"
    document["runs"][4]["output_dir"] = "elsewhere"
    document["runs"][5]["id"] = "../up"
    document["manifests"]["accents"]["splitt"] = "test"
    text = faults(tmp_path, document)
    for part in (
        "got 0 comparisons",
        "names no run of this file: bse",
        "H2.problem: missing",
        "unknown argument --max-stepz (did you mean --max-steps?)",
        "steps-100.hypothesis: got 'H9'",
        "data-100.expect: got 'crash'",
        "data-400: output_dir cannot be given here",
        "runs[5].id: got '../up'",
        "manifests.accents: ",
    ):
        assert part in text


def test_a_run_id_twice_and_a_hypothesis_without_runs_are_faults(tmp_path: Path, document: dict) -> None:
    document["runs"][1]["id"] = "base"
    document["hypotheses"]["H6"] = document["hypotheses"]["H4"] | {"rules": []}
    text = faults(tmp_path, document)
    assert "base is there twice" in text
    assert "H6: no run tests it" in text


def test_an_unknown_section_is_named(tmp_path: Path, document: dict) -> None:
    assert "experiments: unknown section" in faults(tmp_path, {**document, "experiments": {}})


def test_two_manifests_cannot_share_a_file(tmp_path: Path, document: dict) -> None:
    document["manifests"]["copy"] = document["manifests"]["accents"]
    assert "written by accents, copy" in faults(tmp_path, document)


def test_a_shifted_manifest_stands_after_its_source(tmp_path: Path, document: dict) -> None:
    document["manifests"] = {"phone_train": document["manifests"].pop("phone_train"), **document["manifests"]}
    assert "phone_train: is made of" in faults(tmp_path, document)


def test_the_shipped_matrix_shifts_the_domain_to_a_noisy_telephone() -> None:
    plans = {plan.name: plan for plan in read(CONFIGS / "matrix_fsdd.yaml").manifests}
    assert plans["phone"].command == (
        "moonshine-lora shift outputs/matrix/data/all.jsonl --transform noise:pink:snr=5 telephone "
        "--seed 7 --output outputs/matrix/data/phone.jsonl"
    )


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", str(CONFIGS / "matrix_fsdd.yaml"), "--output", str(tmp_path / "out"), "--dry-run", "--only", "H3"]
    assert matrix_main(words) == 0
    assert capsys.readouterr().out.split("\n") == ["base: missing", "lr-6e-4: missing", "lr-6e-3: missing", ""]
    assert list(tmp_path.iterdir()) == []


def test_the_table_command_writes_into_the_document(tmp_path: Path) -> None:
    document = tmp_path / "plan.md"
    document.write_text("<!-- matrix --><!-- /matrix --><!-- hypotheses --><!-- /hypotheses -->", encoding="utf-8")
    words = ["table", str(CONFIGS / "matrix_fsdd.yaml"), "--output", str(tmp_path), "--document", str(document)]
    assert matrix_main(words) == 0
    assert "No run of this matrix was done yet." in document.read_text(encoding="utf-8")


def test_the_shipped_sweep_searches_training_options(capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_sweep(CONFIGS / "sweep_fsdd.yaml", output=Path("outputs/sweep"), fsdd=Path("corpus"))
    assert {"learning_rate", "rank", "targets", "replay_ratio", "distillation_weight"} <= set(plan.space)
    assert sweep_main([str(CONFIGS / "sweep_fsdd.yaml"), "--dry-run"]) == 0
    assert "learning_rate: Range(low=0.0002" in capsys.readouterr().out


def test_every_fault_of_a_sweep_is_listed_at_once(tmp_path: Path) -> None:
    document = yaml.safe_load((CONFIGS / "sweep_fsdd.yaml").read_text(encoding="utf-8"))
    document["space"] = {
        "learning_rate": {"low": 0.01, "high": 0.001},
        "targets": {"low": 1, "high": 2},
        "manifest_path": {"choices": ["a"]},
        "guardrail_budget": {"choices": [0.1]},
        "rank": {"low": 1.5, "high": 8},
        "dropout": {"low": 0.0, "high": 0.5, "log": True},
    }
    document["search"] = {"seeds": 1, "startup_trials": -1}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_sweep(path, output=tmp_path, fsdd=tmp_path)
    names = [problem.split(":")[0] for problem in caught.value.problems]
    assert names == [*(f"space.{name}" for name in document["space"]), "search.seeds", "search.startup_trials"]


def test_a_searched_value_that_the_experiment_refuses_is_a_fault(tmp_path: Path) -> None:
    document = yaml.safe_load((CONFIGS / "sweep_fsdd.yaml").read_text(encoding="utf-8"))
    document["space"] = {"targets": {"choices": ["decoder", "decodre"]}, "replay_ratio": {"low": 0.1, "high": 0.95}}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_sweep(path, output=tmp_path, fsdd=tmp_path)
    assert len(caught.value.problems) == 2
    assert "decodre" in str(caught.value)
    assert "0.95" in str(caught.value)


@pytest.mark.parametrize("words", [["--trials", "0"], ["--storage", "sweep.db"]])
def test_wrong_sweep_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_main([str(CONFIGS / "sweep_fsdd.yaml"), *words]) == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("module", ["lora.scripts.matrix_file", "lora.runners.matrix", "lora.runners.seeds"])
def test_planning_a_matrix_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
