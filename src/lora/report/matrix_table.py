"""The test matrix and the outcomes of its hypotheses as Markdown, and the place between markers where they go."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora.decision import interval_points, percent, points
from lora.escape import printable_lines
from lora.hypotheses import Hypothesis, RuleResult, judge_hypothesis
from lora.report.tables import escape, inline_code, number, table
from lora.units import JsonObject

HEADER = (
    "Run ID",
    "Date",
    "Command",
    "Dataset",
    "Steps",
    "LR",
    "LoRA Targets",
    "Manifest",
    "Baseline WER",
    "Tuned WER",
    "Notes",
)


def matrix_row(record: JsonObject, command: str, note: str) -> tuple[str, ...]:
    """Return one run's cells, all from its own record but for the command that repeats it and the note.

    A run that a check stopped has the manifests' names and the check's message, and nothing measured.
    """
    config = record["config"]
    targets = f"{config['targets']}, rank {config['rank']}"
    shared = (escape(record["run_id"]), record["times"]["finished_at"][:10], inline_code(command))
    settings = (
        f"{config['learning_rate']:g}",
        escape(targets if config["method"] == "lora" else f"{config['method']}, {targets}"),
    )
    if record["status"] != "done":
        stopped = f"stopped by a check: {escape(record['message'])}"
        names = [escape(Path(config[key]).stem) for key in ("dataset_path", "manifest_path")]
        return (*shared, names[0], "0", *settings, names[1], "n/a", "n/a", _notes([stopped, escape(note)]))
    train, domain = record["manifests"]["train"], record["manifests"]["domain"]
    return (
        *shared,
        _describe_manifest(train),
        f"{record['train']['steps']} (kept {record['train']['best_step']})",
        *settings,
        f"{_describe_manifest(domain)}, {inline_code(domain['sha256'][:8])}",
        percent(record["baseline_wer"]),
        percent(record["tuned_wer"]),
        _notes([_outcome(record), escape(note)]),
    )


def _describe_manifest(manifest: JsonObject) -> str:
    stem, minutes = escape(Path(manifest["path"]).stem), manifest["seconds"] / 60
    return f"{stem}: {number(manifest['utterances'])} utterances, {minutes:.1f} min"


def _outcome(record: JsonObject) -> str:
    parts = [_change("domain", record["domain"])]
    parts += [_change(escape(item["name"]), item) for item in record["guardrails"]]
    return f"**{record['verdict']['decision']}**: {'; '.join(parts)}"


def _change(name: str, compared: JsonObject) -> str:
    interval = "no interval" if compared["ci95"] is None else interval_points(compared["ci95"])
    return f"{name} {points(compared['delta'])} points ({interval})"


def _notes(parts: Sequence[str]) -> str:
    return ". ".join(part.rstrip(".") for part in parts if part)


def render_matrix(rows: Sequence[tuple[str, ...]], missing: Sequence[str]) -> str:
    """Return the table of the runs that were done, and the names of those that were not."""
    lines = [table(HEADER, rows, left=len(HEADER))] if rows else ["No run of this matrix was done yet."]
    if missing and rows:
        lines.append(f"Not run yet: {', '.join(map(escape, missing))}.")
    return printable_lines("\n\n".join(lines))


def render_hypotheses(hypotheses: Sequence[Hypothesis], results: Mapping[str, Sequence[RuleResult]]) -> str:
    """Return each hypothesis with its outcome; `results` has the results of each one's rules, by id."""
    return printable_lines("\n\n".join(_render_hypothesis(item, results[item.id]) for item in hypotheses))


def _render_hypothesis(item: Hypothesis, results: Sequence[RuleResult]) -> str:
    lines = [
        f"### {escape(item.id)}: {escape(item.title)}",
        "",
        f"- Problem: {escape(item.problem)}",
        f"- Change: {escape(item.change)}",
        f"- Expectation: {escape(item.expectation)}",
        f"- Success: {escape(item.success)}",
        f"- Outcome: **{judge_hypothesis(results)}**",
    ]
    for result in results:
        state = {True: "holds", False: "does not hold", None: "open"}[result.holds]
        where = "" if result.run_id is None else f" in {escape(result.run_id)}"
        lines.append(f"  - {inline_code(result.text)}{where}: {state} ({inline_code(result.shown)})")
    return "\n".join(lines)
