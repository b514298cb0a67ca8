"""A matrix of experiments: do what is missing, then write what the runs' own records say into a document."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lora.config import ExperimentConfig
from lora.errors import CheckFailed, ConfigError
from lora.files import read_object, sha256_file
from lora.hypotheses import Hypothesis, check_rule
from lora.outputs import write_output_json
from lora.report.ablation_table import ablation_rows, render_ablation
from lora.report.document import read_document, replace_section, write_document
from lora.report.matrix_table import matrix_row, render_hypotheses, render_matrix
from lora.runners.averaged import parts_of, run_average
from lora.runners.experiment import run_experiment
from lora.runners.output import RUN_MARK, changed_manifests, differences, partial_folder
from lora.runners.prepare import ManifestOptions, ManifestPlan, build_missing, build_or_shift, used_by
from lora.runners.progress import console
from lora.runners.provenance import command_of, config_values
from lora.units import JsonObject

FAILURE_MARK = "check_failed.json"
TableName = Literal["test-matrix", "ablation"]


@dataclass(frozen=True)
class RunPlan:
    """One run of the matrix; `expect` says how it should end.

    `average_of` names earlier runs: this one is the average of their adapters, and trains nothing.
    """

    id: str
    hypotheses: tuple[str, ...]
    config: ExperimentConfig
    expect: Literal["done", "check_failed"] = "done"
    note: str = ""
    average_of: tuple[str, ...] = ()

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Every manifest that the run reads."""
        config = self.config
        optional = (config.replay_manifest, config.validation_manifest, config.guardrail_validation_manifest)
        given = (config.dataset_path, config.manifest_path, *config.guardrail_manifest, *optional)
        return tuple(path for path in given if path is not None)


@dataclass(frozen=True)
class Matrix:
    """A matrix file, checked.

    Attributes:
        section: name of its part of the document, if it is not the main one.
        document: where its tables go unless the caller says otherwise.
        table: which columns the runs' table has.
    """

    path: Path
    section: str | None
    output: Path
    hypotheses: tuple[Hypothesis, ...]
    manifests: tuple[ManifestPlan, ...]
    runs: tuple[RunPlan, ...]
    document: Path = Path("docs/experiment_plan.md")
    table: TableName = "test-matrix"

    def parts_of(self, plan: RunPlan) -> dict[str, Path]:
        """Return the output folder of each run that `plan` averages, by id."""
        folders = {run.id: run.config.output_dir for run in self.runs}
        return {name: folders[name] for name in plan.average_of}


def select_runs(matrix: Matrix, only: Sequence[str] | None) -> list[RunPlan]:
    """Return the runs of the named hypotheses and the named runs, in the file's order; all unless named.

    Raises:
        ConfigError: a name is neither.
    """
    if only is None:
        return list(matrix.runs)
    known = [item.id for item in matrix.hypotheses] + [run.id for run in matrix.runs]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"{matrix.path}: no hypothesis or run {', '.join(unknown)}; it has {', '.join(known)}.")
    return [run for run in matrix.runs if {run.id, *run.hypotheses} & set(only)]


def run_matrix(
    matrix: Matrix,
    runs: Sequence[RunPlan],
    document: Path,
    *,
    run: Callable[[ExperimentConfig], JsonObject] = run_experiment,
    average: Callable[[ExperimentConfig, Mapping[str, Path]], JsonObject] = run_average,
    build: Callable[[ManifestOptions], object] = build_or_shift,
) -> None:
    """Do those of `runs` that were not done, and bring the document up to date after each.

    A run is done when its folder has a record of the wanted configuration. A run that a check stops though
    nothing said it would does not stop the others; it is named at the end, and tried again next time.

    Raises:
        ConfigError: a folder holds a run of another configuration or of other manifests, or an average lacks runs.
        CheckFailed: a check stopped a run that should have finished.
        InputError, SetupError: as `build_missing` and `run_experiment`.
    """
    find_sections(matrix, document)
    planned = {plan.id for plan in runs} | _done(read_records(matrix, matrix.runs))
    lacking = [f"{plan.id}: {fault}" for plan in runs if (fault := _lacks(plan, planned))]
    if lacking:
        raise ConfigError(f"{matrix.path}: runs to average are missing. Run them first, or name them too", lacking)
    paths = {path for plan in runs for path in plan.manifests}
    build_missing(used_by(matrix.manifests, paths), matrix.output / "manifests.json", build)
    records = read_records(matrix, matrix.runs)
    failures = []
    for number, plan in enumerate(runs, start=1):
        done = plan.id in records and records[plan.id]["status"] in ("done", plan.expect)
        console.print(f"run {number} of {len(runs)}: {plan.id}{' (done before)' if done else ''}")
        if done:
            continue
        fault = _lacks(plan, _done(read_records(matrix, matrix.runs)))
        if fault:  # one of them was stopped by a check
            failures.append(f"{plan.id}: {fault}")
            continue
        try:
            if plan.average_of:
                average(plan.config, matrix.parts_of(plan))
            else:
                # What a check marked is run anew; what was stopped goes on.
                run(dataclasses.replace(plan.config, resume=plan.id not in records))
        except CheckFailed as error:
            if plan.expect == "check_failed":
                _record_failure(plan, error)
            else:
                failures.append(f"{plan.id}: {error.message}")
        write_tables(matrix, document)
    write_tables(matrix, document)
    if failures:
        raise CheckFailed(f"{matrix.path}: {len(failures)} run(s) stopped by a check", failures)


def _done(records: Mapping[str, JsonObject]) -> set[str]:
    return {name for name, record in records.items() if record["status"] == "done"}


def _lacks(plan: RunPlan, there: set[str]) -> str:
    """Return in words which runs an average lacks; empty where it lacks none."""
    names = [name for name in plan.average_of if name not in there]
    return f"averages {', '.join(names)}, not done" if names else ""


def _record_failure(plan: RunPlan, error: CheckFailed) -> None:
    write_output_json(
        plan.config.output_dir / FAILURE_MARK,
        {
            "schema_version": 1,
            "run_id": plan.id,
            "status": "check_failed",
            "message": error.message,
            "problems": list(error.problems),
            "command": command_of("experiment", plan.config),
            "config": config_values(plan.config),
            "manifests": {str(path): sha256_file(path) for path in plan.manifests},
            "times": {"finished_at": datetime.now(UTC).isoformat(timespec="seconds")},
        },
    )


def read_records(matrix: Matrix, runs: Sequence[RunPlan]) -> dict[str, JsonObject]:
    """Return the record of each run that was done, with its `status`.

    Raises:
        ConfigError: every folder whose run had another configuration or other manifests.
    """
    records: dict[str, JsonObject] = {}
    problems: list[str] = []
    for plan in runs:
        record = _read_record(plan.config.output_dir)
        if record is None:
            continue
        different = _differences(plan, record, matrix.parts_of(plan))
        if different:
            problems.append(f"{plan.config.output_dir}: {'; '.join(different)}. Remove the folder to run it again")
        records[plan.id] = record
    if problems:
        raise ConfigError(
            f"{matrix.path}: {len(problems)} finished run(s) are not the ones that it describes", problems
        )
    return records


def _read_record(folder: Path) -> JsonObject | None:
    if partial_folder(folder).exists():  # it is unfinished, and goes on
        return None
    if (folder / RUN_MARK).exists():
        return {"status": "done", **read_object(folder / RUN_MARK, "config", "train", "adapter")}
    if (folder / FAILURE_MARK).exists():
        return read_object(folder / FAILURE_MARK, "config", "status")
    return None


def _differences(plan: RunPlan, record: JsonObject, parts: Mapping[str, Path]) -> list[str]:
    different = differences(plan.config, record["config"]) + changed_manifests(record)
    if plan.average_of and record["status"] == "done" and record["adapter"].get("average_of") != parts_of(parts):
        different.append(f"it is not the average of what is in {', '.join(map(str, parts.values()))}")
    return different


def find_sections(matrix: Matrix, document: Path) -> tuple[str, str]:
    """Return the names of the two markers of this matrix, which the document must have.

    Raises:
        InputError: the document or a marker is missing.
    """
    suffix = "" if matrix.section is None else f" {matrix.section}"
    names = f"matrix{suffix}", f"hypotheses{suffix}"
    text = read_document(document)
    for name in names:
        replace_section(text, name, "", where=document)
    return names


def write_tables(matrix: Matrix, document: Path) -> None:
    """Write the table and the outcomes from the records that are there.

    Raises:
        InputError: the document or a marker is missing.
        ConfigError: a record is of another configuration, or a rule does not fit the records.
    """
    names = find_sections(matrix, document)
    records = read_records(matrix, matrix.runs)
    results = {
        item.id: [
            result
            for rule in item.rules
            for result in check_rule(rule, records, [plan.id for plan in matrix.runs if item.id in plan.hypotheses])
        ]
        for item in matrix.hypotheses
    }
    before = read_document(document)
    text = replace_section(before, names[0], _render_table(matrix, records), where=document)
    text = replace_section(text, names[1], render_hypotheses(matrix.hypotheses, results), where=document)
    write_document(document, text, before=before)


def _render_table(matrix: Matrix, records: Mapping[str, JsonObject]) -> str:
    done = [plan for plan in matrix.runs if plan.id in records]
    missing = [plan.id for plan in matrix.runs if plan.id not in records]
    if matrix.table == "ablation":
        folders, notes = [plan.config.output_dir for plan in done], [plan.note for plan in done]
        return render_ablation(ablation_rows([records[plan.id] for plan in done], folders, notes), missing)
    command = f"moonshine-lora matrix run {matrix.path} --only"
    return render_matrix([matrix_row(records[plan.id], f"{command} {plan.id}", plan.note) for plan in done], missing)
