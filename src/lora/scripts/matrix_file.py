"""Read a matrix file: hypotheses, manifests to build, and runs, all checked before anything runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lora.config import ExperimentConfig
from lora.errors import ConfigError, InputError
from lora.hypotheses import Hypothesis, Rule, parse_rule
from lora.runners.matrix import Matrix, RunPlan, TableName
from lora.runners.prepare import ManifestPlan, check_outputs
from lora.scripts import build_manifest, experiment, shift
from lora.scripts.cli import read_yaml
from lora.scripts.run import plan_stage

REQUIRED, OPTIONAL = ("hypotheses", "manifests", "shared", "runs"), ("section", "document", "table")
TEXTS = ("title", "problem", "change", "expectation", "success")
OWN_RUN_KEYS = ("id", "hypothesis", "expect", "note", "average_of")
ENDS = ("done", "check_failed")
# Each run writes into OUTPUT/ID and takes its seed from its own options.
RESERVED_OPTIONS = ("output_dir", "seeds")
RESERVED_IDS = ("data", "manifests.json", "manifests.lock")
ID = re.compile(r"[A-Za-z0-9][\w.-]*")


def read_matrix(path: Path, *, output: Path, fsdd: Path) -> Matrix:
    """Read the file; `{fsdd}` and `{output}` in manifests and options are filled in.

    Raises:
        ConfigError: every fault of the file at once.
    """
    document = read_sections(path, REQUIRED, OPTIONAL)
    values = {"fsdd": str(fsdd), "output": str(output)}
    problems: list[str] = []
    manifests = read_manifest_plans(document["manifests"], values, problems)
    runs = _read_runs(document, values, output, problems)
    hypotheses = _read_hypotheses(document["hypotheses"], runs, problems)
    section = document.get("section")
    if section is not None and not (isinstance(section, str) and ID.fullmatch(section)):
        problems.append(f"section: got {section!r}, expected a name of letters, digits and hyphens")
    tables = get_args(TableName)
    document_path, table = document.get("document", str(Matrix.document)), document.get("table", Matrix.table)
    if not isinstance(document_path, str) or not document_path:
        problems.append(f"document: got {document_path!r}, expected the path of a Markdown document")
    if table not in tables:
        problems.append(f"table: got {table!r}, expected one of {', '.join(tables)}")
    if problems:
        raise ConfigError(f"{path}: {len(problems)} fault(s)", problems)
    check_outputs(manifests)
    return Matrix(path, section, output, tuple(hypotheses), tuple(manifests), tuple(runs), Path(document_path), table)


def read_sections(path: Path, required: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file that has exactly these sections.

    Raises:
        ConfigError: the file is not YAML, or a section is missing or unknown.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: got {type(document).__name__}, expected the sections {', '.join(required)}.")
    problems = [f"{name}: missing" for name in required if name not in document]
    problems += [f"{name}: unknown section" for name in document if name not in (*required, *optional)]
    if problems:
        known = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
        raise ConfigError(f"{path}: wrong sections; expected {known}", problems)
    return document


def read_manifest_plans(section: Any, values: Mapping[str, str], problems: list[str]) -> list[ManifestPlan]:
    """Return the plans of a `manifests` section (may be empty); faults go to `problems`.

    A part with the key `input` has the options of `shift`; any other those of `build-manifest`.
    """
    plans = []
    for name, part in as_mapping("manifests", {} if section is None else section, problems).items():
        try:
            part = as_mapping(f"manifests.{name}", part, problems)
            command = shift.COMMAND if "input" in part else build_manifest.COMMAND
            stage = plan_stage(command, part, values)
        except InputError as error:
            problems += _lines(f"manifests.{name}", error)
            continue
        plans.append(ManifestPlan(name, stage.line, stage.options))
    return plans


def plan_experiment(
    name: str, options: Mapping[str, Any], values: Mapping[str, str], output: Path, problems: list[str]
) -> ExperimentConfig | None:
    """Return the configuration of one run that writes into `output`; faults go to `problems`."""
    reserved = [key for key in RESERVED_OPTIONS if key in options]
    if reserved:
        problems.append(f"{name}: {', '.join(reserved)} cannot be given here; each run has its own")
        return None
    try:
        stage = plan_stage(experiment.COMMAND, {**options, "output_dir": str(output)}, values)
    except InputError as error:
        problems += _lines(name, error)
        return None
    config: ExperimentConfig = stage.options
    return config


def as_mapping(name: str, part: Any, problems: list[str]) -> dict[str, Any]:
    """Return `part`, or note a fault and return an empty mapping."""
    if isinstance(part, dict):
        return part
    problems.append(f"{name}: got {part!r:.60}, expected a mapping")
    return {}


def _read_runs(
    document: Mapping[str, Any], values: Mapping[str, str], output: Path, problems: list[str]
) -> list[RunPlan]:
    shared = as_mapping("shared", document["shared"], problems)
    rows = document["runs"]
    if not isinstance(rows, list) or not rows:
        problems.append(f"runs: got {rows!r:.60}, expected a list of runs")
        return []
    plans: list[RunPlan] = []
    for index, row in enumerate(rows):
        row = as_mapping(f"runs[{index}]", row, problems)
        run_id = row.get("id")
        if not isinstance(run_id, str) or not ID.fullmatch(run_id) or run_id in RESERVED_IDS:
            problems.append(f"runs[{index}].id: got {run_id!r}, expected a name that can be a folder")
            continue
        if run_id in [plan.id for plan in plans]:
            problems.append(f"runs[{index}].id: {run_id} is there twice")
        expect = row.get("expect", "done")
        if expect not in ENDS:
            problems.append(f"{run_id}.expect: got {expect!r}, expected one of {', '.join(ENDS)}")
        named = row.get("hypothesis")
        hypotheses = tuple(named) if isinstance(named, list) else (named,)
        unknown = [name for name in hypotheses if name not in (document["hypotheses"] or {})]
        if unknown or not hypotheses:
            problems.append(f"{run_id}.hypothesis: got {named!r}, expected names from the section hypotheses")
        average_of = _read_average(run_id, row.get("average_of", []), plans, problems)
        options = _merge(shared, {key: value for key, value in row.items() if key not in OWN_RUN_KEYS})
        config = plan_experiment(run_id, options, values, output / run_id, problems)
        if config is not None:
            plans.append(RunPlan(run_id, hypotheses, config, expect, str(row.get("note", "")), average_of))
    return plans


def _read_average(run_id: str, names: Any, earlier: Sequence[RunPlan], problems: list[str]) -> tuple[str, ...]:
    """Return the runs whose adapters a run averages; they stand before it."""
    known = [plan.id for plan in earlier if plan.expect == "done" and not plan.average_of]
    wrong = not isinstance(names, list) or len(names) == 1 or [name for name in names if name not in known]
    if wrong:
        problems.append(f"{run_id}.average_of: got {names!r:.80}, expected two or more runs that stand before it")
        return ()
    return tuple(names)


def _merge(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options; a null takes a shared one away."""
    merged = {**shared, **own}
    return {key: value for key, value in merged.items() if value is not None or key not in shared}


def _read_hypotheses(section: Any, runs: Sequence[RunPlan], problems: list[str]) -> list[Hypothesis]:
    found = []
    for name, part in as_mapping("hypotheses", section, problems).items():
        part = as_mapping(f"hypotheses.{name}", part, problems)
        keys = (*TEXTS, "rules")
        faults = [f"{name}.{key}: missing" for key in keys if key not in part]
        faults += [f"{name}.{key}: unknown key" for key in part if key not in keys]
        faults += [f"{name}.{key}: expected text" for key in TEXTS if not isinstance(part.get(key, ""), str)]
        if not isinstance(part.get("rules", []), list):
            faults.append(f"{name}.rules: expected a list of comparisons")
        if not any(name in run.hypotheses for run in runs):
            faults.append(f"{name}: no run tests it")
        problems += faults
        if not faults:
            rules = _read_rules(name, part["rules"], [run.id for run in runs], problems)
            found.append(Hypothesis(id=str(name), rules=rules, **{key: " ".join(part[key].split()) for key in TEXTS}))
    return found


def _read_rules(name: str, texts: Sequence[Any], run_ids: Sequence[str], problems: list[str]) -> tuple[Rule, ...]:
    rules = []
    for text in texts:
        try:
            rule = parse_rule(str(text))
        except ConfigError as error:
            problems.append(f"{name}: {error.message}")
            continue
        unknown = [run for run, _ in rule.names if run is not None and run not in run_ids]
        if unknown:
            problems.append(f"{name}: rule {rule.text!r} names no run of this file: {', '.join(unknown)}")
        rules.append(rule)
    return tuple(rules)


def _lines(name: str, error: InputError) -> list[str]:
    return [f"{name}: {line}" for line in error.problems or [error.message]]
