"""A matrix does what is missing, resumes, and writes its table from the runs' own records."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError, InputError
from lora.files import read_json, sha256_file, write_json, write_jsonl
from lora.hypotheses import Hypothesis, parse_rule
from lora.outputs import write_output
from lora.runners.averaged import parts_of
from lora.runners.build import BuildOptions
from lora.runners.matrix import Matrix, RunPlan, read_records, run_matrix, select_runs, write_tables
from lora.runners.prepare import ManifestOptions, ManifestPlan, build_missing, used_by
from lora.runners.provenance import config_values
from lora.runners.shift import ShiftOptions
from lora.units import JsonObject

DOCUMENT = (
    "# Plan\n\n<!-- matrix -->\nold\n<!-- /matrix -->\n\nbetween\n\n<!-- hypotheses -->\n<!-- /hypotheses -->\nend\n"
)
MANIFESTS = ("train", "domain", "us")


class StubBuild:
    """Writes one line where `build_manifest` would draw clips."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def __call__(self, options: ManifestOptions) -> None:
        self.built.append(options.output.stem)
        write_output(options.output, f"{options.output.stem} {options.seed}\n")


class StubRun:
    """Writes the record that `run_experiment` would; more steps give a lower WER, 13 steps fail a check."""

    def __init__(self, *, interrupt_at: int | None = None) -> None:
        self.done: list[str] = []
        self.interrupt_at = interrupt_at

    def __call__(self, config: ExperimentConfig) -> JsonObject:
        if self.interrupt_at == len(self.done):
            raise KeyboardInterrupt
        if config.max_steps == 13:
            raise CheckFailed("these labels teach the wrong token", ["clip-1"])
        self.done.append(config.output_dir.name)
        record = metrics(config)
        write_run(config, record)
        return record


class StubAverage:
    """Writes the record that `run_average` would."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, config: ExperimentConfig, folders: Mapping[str, Path]) -> JsonObject:
        self.done.append(config.output_dir.name)
        record = metrics(config)
        record["adapter"]["average_of"] = parts_of(folders)
        write_run(config, record)
        return record


def write_run(config: ExperimentConfig, record: JsonObject) -> None:
    """Write what a finished run leaves of what a table needs."""
    folder = config.output_dir
    shared = {"set": "domain", "speaker_id": None, "seconds": 1.0, "reference": "", "baseline": "", "tuned": ""}
    errors = [{"baseline_errors": 4, "tuned_errors": round(10 * record["tuned_wer"]), "words": 10}] * 8
    write_jsonl(folder / "samples.jsonl", [{"id": str(n), **shared, **row} for n, row in enumerate(errors)])
    write_json(folder / "lora_adapter" / "moonshine_lora.json", {"adapter_sha256": f"adapter of {record['run_id']}"})
    write_json(folder / "experiment_metrics.json", record)


def metrics(config: ExperimentConfig) -> JsonObject:
    tuned = 0.4 - config.max_steps / 1000
    delta = tuned - 0.4

    def manifest(path: Path) -> JsonObject:
        return {"path": str(path), "sha256": sha256_file(path), "utterances": 1200, "seconds": 90.0}

    return {
        "run_id": config.output_dir.name,
        "config": config_values(config),
        "manifests": {
            "train": manifest(config.dataset_path),
            "domain": manifest(config.manifest_path),
            "guardrails": [manifest(path) for path in config.guardrail_manifest],
        },
        "baseline_wer": 0.4,
        "tuned_wer": tuned,
        "domain": {
            "name": "domain",
            "delta": delta,
            "ci95": [delta - 0.02, delta + 0.02],
            "relative_reduction": -delta / 0.4,
        },
        "guardrails": [{"name": "us", "delta": 0.001, "ci95": None}],
        "adapter": {"trainable_parameters": 1234567, "strength": 0.85},
        "train": {"steps": config.max_steps, "best_step": config.max_steps - 10, "cpu_seconds": 61.4},
        "verdict": {"decision": "accept"},
        "times": {"finished_at": "2030-05-06T07:08:09+00:00"},
    }


def plan_run(folder: Path, name: str, hypothesis: str, **options: int | float) -> RunPlan:
    data = folder / "data"
    config = ExperimentConfig(
        output_dir=folder / name,
        dataset_path=data / "train.jsonl",
        manifest_path=data / "domain.jsonl",
        guardrail_manifest=[data / "us.jsonl"],
        **{"replay_ratio": 0.0, "distillation_weight": 0.0, **options},
    )
    return RunPlan(name, (hypothesis,), config)


def hypothesis(name: str, *rules: str) -> Hypothesis:
    texts = ("A title", "a problem", "a change", "a guess", "it works")
    return Hypothesis(name, *texts, rules=tuple(map(parse_rule, rules)))


def make_matrix(folder: Path, *, seed: int = 1) -> Matrix:
    runs = [
        plan_run(folder, "steps-50", "H1", max_steps=50),
        plan_run(folder, "steps-200", "H1", max_steps=200),
        dataclasses.replace(plan_run(folder, "stopped", "H2", max_steps=13), expect="check_failed", note="on purpose"),
        plan_run(folder, "steps-100", "H1", max_steps=100),
    ]
    manifests = tuple(
        ManifestPlan(name, f"build {name} {seed}", BuildOptions(output=folder / "data" / f"{name}.jsonl", seed=seed))
        for name in MANIFESTS
    )
    hypotheses = (
        hypothesis("H1", "steps-200:tuned_wer < steps-50:tuned_wer", "tuned_wer < baseline_wer * 0.8"),
        hypothesis("H2", "stopped:status == 'check_failed'"),
    )
    return Matrix(Path("m.yaml"), None, folder, hypotheses, manifests, tuple(runs))


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "plan.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path


def run_all(matrix: Matrix, document: Path, run: StubRun, build: StubBuild | None = None) -> str:
    run_matrix(matrix, matrix.runs, document, run=run, build=build or StubBuild())
    return document.read_text(encoding="utf-8")


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_table_has_a_row_a_run_from_its_own_record(tmp_path: Path, document: Path) -> None:
    text = run_all(make_matrix(tmp_path), document, StubRun())
    rows = rows_of(text)
    assert [row[0] for row in rows] == ["steps-50", "steps-200", "stopped", "steps-100"]
    sha = sha256_file(tmp_path / "data" / "domain.jsonl")[:8]
    assert rows[1] == [
        "steps-200",
        "2030-05-06",
        "`moonshine-lora matrix run m.yaml --only steps-200`",
        "train: 1,200 utterances, 1.5 min",
        "200 (kept 190)",
        "0.001",
        "all-linear, rank 16",
        f"domain: 1,200 utterances, 1.5 min, `{sha}`",
        "40.0%",
        "20.0%",
        "**accept**: domain -20.0 points (-22.0 to -18.0); us +0.1 points (no interval)",
    ]


def test_the_header_is_the_one_that_was_agreed(tmp_path: Path, document: Path) -> None:
    header = (
        "Run ID | Date | Command | Dataset | Steps | LR | LoRA Targets | Manifest | Baseline WER | Tuned WER | Notes"
    )
    assert f"| {header} |" in run_all(make_matrix(tmp_path), document, StubRun()).splitlines()


def test_a_run_that_was_expected_to_fail_is_a_row_with_the_message(tmp_path: Path, document: Path) -> None:
    row = rows_of(run_all(make_matrix(tmp_path), document, StubRun()))[2]
    assert row[4] == "0"
    assert row[8:] == ["n/a", "n/a", "stopped by a check: these labels teach the wrong token. on purpose"]


def test_the_hypotheses_have_their_outcomes(tmp_path: Path, document: Path) -> None:
    text = run_all(make_matrix(tmp_path), document, StubRun())
    first, second = text.split("### H1: A title")[1].split("### H2: A title")
    # 50 steps leave 0.35, which is over 0.8 of 0.4.
    assert "- Outcome: **refuted**" in first
    assert "`steps-200:tuned_wer < steps-50:tuned_wer`: holds (`0.2 < 0.35`)" in first
    assert "in steps-50: does not hold (`0.35 < 0.32`)" in first
    assert "- Outcome: **confirmed**" in second


def test_text_outside_the_markers_stays(tmp_path: Path, document: Path) -> None:
    text = run_all(make_matrix(tmp_path), document, StubRun())
    assert text.startswith("# Plan\n\n<!-- matrix -->")
    assert "\n\nbetween\n\n" in text
    assert text.endswith("<!-- /hypotheses -->\nend\n")
    assert "\nold\n" not in text


def test_an_interrupted_and_resumed_matrix_writes_what_an_uninterrupted_one_writes(tmp_path: Path) -> None:
    texts = []
    for name, interrupts in (("whole", []), ("parts", [0, 1, 1])):
        folder = tmp_path / name / "runs"
        document = tmp_path / f"{name}.md"
        document.write_text(DOCUMENT, encoding="utf-8")
        for stop in interrupts:
            with pytest.raises(KeyboardInterrupt):
                run_all(make_matrix(folder), document, StubRun(interrupt_at=stop))
        texts.append(run_all(make_matrix(folder), document, StubRun()))
    assert len(rows_of(texts[0])) == 4
    assert texts[0] == texts[1]


def test_what_was_done_is_not_done_again(tmp_path: Path, document: Path) -> None:
    run_all(make_matrix(tmp_path), document, StubRun())
    run, build = StubRun(), StubBuild()
    run_all(make_matrix(tmp_path), document, run, build)
    assert (run.done, build.built) == ([], [])


def test_only_the_named_hypotheses_and_runs_are_done(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    assert [run.id for run in select_runs(matrix, ["H2", "steps-100"])] == ["stopped", "steps-100"]
    run = StubRun()
    run_matrix(matrix, select_runs(matrix, ["steps-100"]), document, run=run, build=StubBuild())
    assert run.done == ["steps-100"]
    assert "Not run yet: steps-50, steps-200, stopped." in document.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="no hypothesis or run H9"):
        select_runs(matrix, ["H9"])


def test_a_run_of_another_configuration_is_refused_and_says_what_to_remove(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    run_all(matrix, document, StubRun())
    changed = dataclasses.replace(matrix.runs[0], config=dataclasses.replace(matrix.runs[0].config, rank=8))
    run = StubRun()
    with pytest.raises(ConfigError, match=r"steps-50: rank was 16, wanted 8. Remove the folder") as caught:
        run_all(dataclasses.replace(matrix, runs=(changed, *matrix.runs[1:])), document, run)
    assert len(caught.value.problems) == 1
    assert run.done == []


def test_runs_on_manifests_that_changed_are_refused(tmp_path: Path, document: Path) -> None:
    run_all(make_matrix(tmp_path), document, StubRun())
    with pytest.raises(ConfigError, match=r"domain.jsonl has changed since"):
        run_all(make_matrix(tmp_path, seed=2), document, StubRun())


def test_an_edited_manifest_is_not_built_over_and_nothing_else_is(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    run_all(matrix, document, StubRun())
    edited, other = (tmp_path / "data" / f"{plan.name}.jsonl" for plan in matrix.manifests[:2])
    edited.write_text("edited", encoding="utf-8")
    other.unlink()
    build = StubBuild()
    with pytest.raises(ConfigError, match="was changed since"):
        build_missing(matrix.manifests, matrix.output / "manifests.json", build)
    assert build.built == []
    assert edited.read_text(encoding="utf-8") == "edited"


@pytest.mark.parametrize("content", ["[1]", '{"mine": true}'])
def test_a_file_of_the_users_at_the_records_place_stays(tmp_path: Path, content: str) -> None:
    record = tmp_path / "manifests.json"
    record.write_text(content, encoding="utf-8")
    lock = tmp_path / "manifests.lock"
    lock.write_text("mine", encoding="utf-8")
    build = StubBuild()
    with pytest.raises(InputError, match="no record of manifests"):
        build_missing(make_matrix(tmp_path).manifests, record, build)
    assert (build.built, record.read_text(encoding="utf-8")) == ([], content)
    assert lock.read_text(encoding="utf-8") == "mine"


def test_a_kill_before_the_record_is_written_builds_the_same_manifest_again(tmp_path: Path) -> None:
    matrix = make_matrix(tmp_path)
    first, *_ = matrix.manifests
    StubBuild()(first.options)
    build = StubBuild()
    build_missing([first], matrix.output / "manifests.json", build)
    assert build.built == [first.name]


def test_a_check_that_stops_a_run_unexpectedly_does_not_stop_the_others(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    surprised = tuple(dataclasses.replace(run, expect="done") for run in matrix.runs)
    run = StubRun()
    with pytest.raises(CheckFailed) as caught:
        run_all(dataclasses.replace(matrix, runs=surprised), document, run)
    assert caught.value.problems == ("stopped: these labels teach the wrong token",)
    assert run.done == ["steps-50", "steps-200", "steps-100"]
    assert not (tmp_path / "stopped").exists()
    assert [row[0] for row in rows_of(document.read_text(encoding="utf-8"))] == run.done


def test_a_run_that_a_check_marked_after_its_training_is_named_and_run_anew(tmp_path: Path, document: Path) -> None:
    matrix, stub, given = make_matrix(tmp_path), StubRun(), []

    def marked(config: ExperimentConfig) -> JsonObject:
        given.append((config.output_dir.name, config.resume))
        if config.output_dir.name != "steps-200":
            return stub(config)
        record = metrics(config) | {"status": "check_failed", "message": "the baseline is tainted"}
        write_run(config, record)
        raise CheckFailed(record["message"])

    for resume in (True, False):
        with pytest.raises(CheckFailed) as caught:
            run_all(matrix, document, marked)
        assert caught.value.problems == ("steps-200: the baseline is tainted",)
        assert given.count(("steps-200", resume)) == 1
    assert len([name for name, _ in given if name == "steps-50"]) == 1
    matrix.runs[0].manifests[0].write_text("{}")
    with pytest.raises(ConfigError, match="has changed since"):
        read_records(matrix, matrix.runs)


def test_a_document_without_the_markers_is_refused_before_anything_runs(tmp_path: Path, document: Path) -> None:
    document.write_text("<!-- /matrix --> <!-- matrix -->", encoding="utf-8")
    run = StubRun()
    with pytest.raises(InputError, match="expected one <!-- matrix -->"):
        run_all(make_matrix(tmp_path), document, run)
    assert run.done == []


def test_two_matrices_share_a_document_by_section(tmp_path: Path, document: Path) -> None:
    named = dataclasses.replace(make_matrix(tmp_path), section="hub")
    markers = "<!-- matrix hub -->\n<!-- /matrix hub -->\n<!-- hypotheses hub -->\n<!-- /hypotheses hub -->\n"
    document.write_text(DOCUMENT + markers, encoding="utf-8")
    write_tables(named, document)
    text = document.read_text(encoding="utf-8")
    assert "<!-- matrix -->\nold\n<!-- /matrix -->" in text
    assert "<!-- matrix hub -->\n\nNo run of this matrix was done yet.\n\n<!-- /matrix hub -->" in text


def test_a_manifest_is_built_only_for_the_runs_that_read_it(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    extra = ManifestPlan("extra", "build extra", BuildOptions(output=tmp_path / "data" / "extra.jsonl"))
    build = StubBuild()
    run_all(dataclasses.replace(matrix, manifests=(*matrix.manifests, extra)), document, StubRun(), build)
    assert build.built == list(MANIFESTS)


def make_ablation(folder: Path) -> Matrix:
    runs = [
        plan_run(folder, "default", "H1", max_steps=200),
        dataclasses.replace(plan_run(folder, "rank-4", "H1", max_steps=100, rank=4), note="a small one"),
        plan_run(folder, "seed-43", "H1", max_steps=200, seed=43),
    ]
    average = dataclasses.replace(
        plan_run(folder, "average", "H1", max_steps=200), average_of=("default", "seed-43"), note=""
    )
    base = make_matrix(folder)
    hypotheses = (hypothesis("H1", "rank-4:tuned_wer > default:tuned_wer"),)
    return dataclasses.replace(base, runs=(*runs, average), hypotheses=hypotheses, table="ablation")


def run_ablation(folder: Path, document: Path, *, interrupt_at: int | None = None) -> tuple[str, StubAverage]:
    matrix, average = make_ablation(folder), StubAverage()
    run = StubRun(interrupt_at=interrupt_at)
    run_matrix(matrix, matrix.runs, document, run=run, average=average, build=StubBuild())
    return document.read_text(encoding="utf-8"), average


def test_an_ablation_says_what_each_run_changes_wins_and_costs(tmp_path: Path, document: Path) -> None:
    text, average = run_ablation(tmp_path / "runs", document)
    base, default, rank_4, seed_43, averaged = rows_of(text)
    assert base[:4] == ["no adapter", "the base model", "40.0%", "40.0 to 40.0%"]
    assert default == [
        "default",
        "n/a",
        "20.0%",
        "20.0 to 20.0%",
        "50.0%",
        "+0.1",
        "no interval",
        "0.85",
        "accept",
        "1,234,567",
        "61",
    ]
    assert rank_4[1] == "a small one; `rank 4` (not 16); `max_steps 100` (not 200)"
    assert seed_43[1] == "`seed 43` (not 42)"
    assert averaged[1] == "average of default, seed-43"
    assert average.done == ["average"]


def test_a_stopped_and_resumed_ablation_writes_the_same_table(tmp_path: Path) -> None:
    texts = []
    for name, interrupts in (("whole", []), ("parts", [0, 1, 1])):
        document = tmp_path / f"{name}.md"
        document.write_text(DOCUMENT, encoding="utf-8")
        for stop in interrupts:
            with pytest.raises(KeyboardInterrupt):
                run_ablation(tmp_path / name / "runs", document, interrupt_at=stop)
        texts.append(run_ablation(tmp_path / name / "runs", document)[0])
    assert len(rows_of(texts[0])) == 5
    assert texts[0] == texts[1]


def test_an_average_of_runs_that_are_not_there_is_refused(tmp_path: Path, document: Path) -> None:
    matrix, run = make_ablation(tmp_path), StubRun()
    with pytest.raises(ConfigError, match="runs to average are missing") as caught:
        run_matrix(matrix, matrix.runs[3:], document, run=run, average=StubAverage(), build=StubBuild())
    assert caught.value.problems == ("average: averages default, seed-43, not done",)


def test_an_average_of_adapters_that_changed_since_is_refused(tmp_path: Path, document: Path) -> None:
    run_ablation(tmp_path, document)
    write_json(tmp_path / "seed-43" / "lora_adapter" / "moonshine_lora.json", {"adapter_sha256": "another"})
    with pytest.raises(ConfigError, match="not the ones that it describes") as caught:
        run_ablation(tmp_path, document)
    assert "average: it is not the average of what is in" in caught.value.problems[0]


def test_a_run_of_an_earlier_version_counts_where_its_options_mean_the_same(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    run_all(matrix, document, StubRun())
    path = tmp_path / "steps-50" / "experiment_metrics.json"
    record = read_json(path)
    del record["config"]["trackers"]
    record["config"]["guardrail_budget"] = 0.01
    write_json(path, record)
    run = StubRun()
    run_all(matrix, document, run)
    assert run.done == []
    record["config"]["guardrail_budget"] = 0.02
    write_json(path, record)
    with pytest.raises(ConfigError, match=r"guardrail_budget was \[0.02\], wanted \[0.01\]"):
        run_all(matrix, document, StubRun())


def test_an_augmented_run_of_a_version_that_changed_replay_too_is_another_run(tmp_path: Path, document: Path) -> None:
    matrix = make_matrix(tmp_path)
    run_all(matrix, document, StubRun())
    path = tmp_path / "steps-50" / "experiment_metrics.json"
    record = read_json(path)
    del record["config"]["augment_replay"]
    write_json(path, record)
    run_all(matrix, document, StubRun())
    record["config"]["augment"] = ["speed:0.9-1.1"]
    write_json(path, record)
    with pytest.raises(ConfigError, match="augment_replay was True, wanted False"):
        run_all(matrix, document, StubRun())


def test_a_shifted_manifest_needs_the_one_that_it_is_made_of() -> None:
    clean, phone, other = Path("clean.jsonl"), Path("phone.jsonl"), Path("other.jsonl")
    plans = [
        ManifestPlan("clean", "", BuildOptions(output=clean)),
        ManifestPlan("other", "", BuildOptions(output=other)),
        ManifestPlan("phone", "", ShiftOptions(input=clean, transform=["telephone"], output=phone)),
    ]
    assert [plan.name for plan in used_by(plans, {phone})] == ["clean", "phone"]
    assert [plan.name for plan in used_by(plans, {other})] == ["other"]
