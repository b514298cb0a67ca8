"""`docs/training_report.md`: one section a run, from the runs' own JSON, by the template of `docs/training.md`.

Only what stands between the markers `<!-- runs -->` and `<!-- /runs -->` is written. In each section one
place belongs to people: the lines between `<!-- notes RUN_ID -->` and `<!-- /notes -->` are kept.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import Path

from lora.decision import interval_points, percent, points
from lora.errors import InputError
from lora.escape import printable_lines
from lora.report.document import read_document, replace_section, write_document
from lora.report.record import RunRecord, load_record
from lora.report.tables import code_block, escape, inline_code, number, table
from lora.units import JsonObject

SECTION = "runs"
_NOTES = re.compile(r"<!-- notes (\S+) -->\n(.*?)<!-- /notes -->", re.DOTALL)
_NEW_DOCUMENT = """# Training report

Real runs, each by the template of [the training guide](training.md#7-report-template). Written by
`moonshine-lora training-report`; what was tried and did not help is added by hand and kept.

<!-- runs -->
<!-- /runs -->
"""


def write_training_report(run_dirs: Sequence[Path], output: Path) -> Path:
    """Write the sections of `run_dirs`, in their order, in place of those that are there.

    Paths in the text are relative, so that the document says nothing about the machine it was made on.

    Raises:
        InputError: a run is incomplete, two have one id, the document lacks its markers, or it holds notes
            on a run that is not given, which would be lost; or the document was changed meanwhile.
    """
    records = [load_record(run_dir) for run_dir in run_dirs]
    ids = [str(record.metrics["run_id"]) for record in records]
    if len(set(ids)) != len(ids):
        raise InputError(f"training report: runs {', '.join(ids)}; expected each run id once. Name a run only once.")
    before = read_document(output) if os.path.lexists(output) else None
    text = _NEW_DOCUMENT if before is None else before
    notes = {key: body for key, body in _NOTES.findall(text.replace("\r\n", "\n")) if body.strip()}
    lost = [f"{key}: has notes and is not among the runs given" for key in notes if key not in map(_note_key, ids)]
    if lost:
        raise InputError(f"{output}: notes would be lost. Give these runs too, or move their notes", lost)
    sections = [_section(record, notes.get(_note_key(key), "")) for record, key in zip(records, ids, strict=True)]
    write_document(output, replace_section(text, SECTION, "\n\n".join(sections), where=output), before=before)
    return output


def relative_path(path: str, root: Path) -> str:
    """Return `path` relative to `root`; only its last name where it lies further away than beside `root`."""
    if not Path(path).is_absolute():
        return path
    relative = relpath(path, root)
    return relative if relative.count("..") <= 1 else Path(path).name


def relative_command(command: str, root: Path) -> str:
    """Return a command line with every absolute path in it made relative."""
    return shlex.join(relative_path(word, root) for word in shlex.split(command))


def _note_key(run_id: str) -> str:
    return re.sub(r"\s+", "-", run_id)


def _section(record: RunRecord, notes: str) -> str:
    metrics = record.metrics
    command = metrics["command"] if isinstance(metrics["command"], str) else shlex.join(metrics["command"])
    reasons = "\n".join(f"- {escape(reason)}" for reason in metrics["verdict"]["reasons"])
    said = "\n\n".join(
        [
            f"### {escape(metrics['run_id'])}: {_headline(metrics)}",
            code_block(relative_command(command, Path.cwd()), "sh"),
            _circumstances(metrics),
            "Data:",
            _data_table(record),
            "Result:",
            _result_table(record),
            _training(metrics),
            f"Verdict: **{escape(metrics['verdict']['decision'])}**.\n\n{reasons}",
            "What was tried and did not help:",
            f"<!-- notes {_note_key(str(metrics['run_id']))} -->\n",
        ]
    )
    return f"{printable_lines(said)}{notes}<!-- /notes -->"


def _headline(metrics: JsonObject) -> str:
    domain, worst = metrics["domain"], [row for row in metrics["guardrails"] if row["delta"] is not None]
    text = f"{metrics['verdict']['decision']}, domain WER {percent(domain['baseline'])} to {percent(domain['tuned'])}"
    if not worst:
        return text
    return f"{text}, guardrail {points(max(row['delta'] for row in worst))} points at worst"


def _circumstances(metrics: JsonObject) -> str:
    versions = metrics["versions"]
    date = str(metrics["times"]["finished_at"])[:10] if "times" in metrics else "not recorded"
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions)
    machine = f"{versions.get('platform', 'platform not recorded')}, {metrics['device']}, {metrics['dtype']}"
    commit = inline_code(metrics["git_commit"][:12]) if metrics["git_commit"] else "none"
    return (
        f"Date: {date}. Machine: {escape(machine)}. Python {escape(versions.get('python', 'not recorded'))}"
        f"{', ' + escape(packages) if packages else ''}. Commit: {commit}. Seed: {metrics['seed']}."
    )


def _data_table(record: RunRecord) -> str:
    manifests = record.metrics["manifests"]
    rows = [["train", manifests["train"], None], ["domain", manifests["domain"], "domain"]]
    rows += [["guardrail", row, name] for row, (name, _) in zip(manifests["guardrails"], record.sets[1:], strict=False)]
    cells = [
        [
            role,
            inline_code(relative_path(str(row["path"]), Path.cwd())),
            number(row["utterances"]),
            "n/a" if row["seconds"] is None else f"{row['seconds']:,.0f}",
            _speakers(record, name),
            inline_code(row["sha256"][:12]),
        ]
        for role, row, name in rows
    ]
    return table(["Role", "Manifest", "Utterances", "Seconds", "Speakers", "SHA-256 (start)"], cells, left=2)


def _speakers(record: RunRecord, name: str | None) -> str:
    """Return how many speakers an evaluation set has; the record does not tell those of training."""
    if name is None:
        return "not recorded"
    speakers = {sample.speaker_id for sample in record.samples_of(name)}
    return "unknown" if None in speakers else number(len(speakers))


def _result_table(record: RunRecord) -> str:
    return table(
        ["Set", "Measure", "Baseline", "Tuned", "Change (points)", "95% interval", "Relative"],
        [row for name, compared in record.sets for row in _result_rows(record.metrics, name, compared)],
        left=2,
    )


def _result_rows(metrics: JsonObject, name: str, compared: JsonObject) -> Iterator[list[str]]:
    measured = metrics if name == "domain" else compared
    loss = "eval_loss" if name == "domain" else "loss"
    title = escape(compared["name"])
    reduction = compared["relative_reduction"]
    yield [
        title,
        "WER",
        percent(compared["baseline"]),
        f"**{percent(compared['tuned'])}**",
        points(compared["delta"]),
        "n/a" if compared["ci95"] is None else interval_points(compared["ci95"]),
        "undefined" if reduction is None else f"{points(-reduction)}%",
    ]
    if "baseline_cer" in measured:
        yield [title, "CER", percent(measured["baseline_cer"]), percent(measured["tuned_cer"]), "", "", ""]
    if f"baseline_{loss}" in measured:
        yield [title, "loss", number(measured[f"baseline_{loss}"]), number(measured[f"tuned_{loss}"]), "", "", ""]


def _training(metrics: JsonObject) -> str:
    train, adapter = metrics["train"], metrics["adapter"]
    kept = "not recorded" if train.get("best_step") is None else number(train["best_step"])
    strength = "" if "strength" not in adapter else f", strength {number(adapter['strength'])}"
    return (
        f"Training: {number(train['steps'])} steps (kept: {kept}) in {train['seconds']:,.0f} s on "
        f"{train['audio_seconds']:,.0f} s of audio, replay included; {escape(adapter['method'])} of rank "
        f"{number(adapter['rank'])}, {number(adapter['trainable_parameters'])} trainable parameters{strength}; "
        f"stopped by {escape(train['stopped_by'])}."
    )
