"""An ablation as a table: what each run changes against the first one, what it wins, what it costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora.decision import interval_points, percent, points
from lora.escape import printable_lines
from lora.report.record import DOMAIN_SET, SAMPLES_FILE, Kind, load_samples, samples_interval
from lora.report.tables import escape, inline_code, number, table
from lora.units import JsonObject

HEADER = (
    "Run",
    "What differs",
    "Domain WER",
    "95% interval",
    "Relative reduction",
    "Guardrail change, points",
    "95% interval",
    "Strength",
    "Verdict",
    "Trainable parameters",
    "Training, CPU s",
)
# Where a run writes is no difference, and what watches it does not act on it.
NO_DIFFERENCE = ("output_dir", "cache_dir", "trackers")
NOTHING = "n/a"


def ablation_rows(
    records: Sequence[JsonObject], folders: Sequence[Path], notes: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return a row without any adapter, then one a run; the first run is what the others are compared with.

    Args:
        records: the runs' metrics, or what a check that stopped one left.
        folders: where each run's `samples.jsonl` is.

    Raises:
        InputError: a run's samples are missing or damaged.
    """
    rows = []
    for index, (record, folder, note) in enumerate(zip(records, folders, notes, strict=True)):
        differs = _differences(records[0], record) if index else []
        texts = ([escape(note)] if note else []) + differs
        rows.append(_row(record, folder, "; ".join(texts) or NOTHING))
    first = next((index for index, record in enumerate(records) if record["status"] == "done"), None)
    return [] if first is None else [_without_adapter(records[first], folders[first]), *rows]


def render_ablation(rows: Sequence[tuple[str, ...]], missing: Sequence[str]) -> str:
    """Return the table of the runs that were done, and the names of those that were not."""
    lines = [table(HEADER, rows, left=2)] if rows else ["No run of this ablation was done yet."]
    if missing and rows:
        lines.append(f"Not run yet: {', '.join(map(escape, missing))}.")
    return printable_lines("\n\n".join(lines))


def _differences(base: JsonObject, record: JsonObject) -> list[str]:
    parts = record.get("adapter", {}).get("average_of")
    if parts:
        return [f"average of {', '.join(escape(part['run']) for part in parts)}"]
    before, after = base["config"], record["config"]
    # An option that only one of the two knows was added in between, with a default that changes nothing.
    names = [
        name
        for name in after
        if name in before and name not in NO_DIFFERENCE and _shown(before[name]) != _shown(after[name])
    ]
    return [inline_code(f"{name} {_shown(after[name])}") + f" (not {_shown(before[name])})" for name in names]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    if isinstance(value, str):
        return Path(value).stem if "/" in value else value
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _without_adapter(record: JsonObject, folder: Path) -> tuple[str, ...]:
    low_high = _interval(folder, "base")
    return ("no adapter", "the base model", percent(record["baseline_wer"]), low_high, *[NOTHING] * 7)


def _row(record: JsonObject, folder: Path, differs: str) -> tuple[str, ...]:
    name = escape(record["run_id"])
    if record["status"] != "done":
        return (name, f"{differs}; stopped by a check: {escape(record['message'])}", *[NOTHING] * 9)
    reduction = record["domain"]["relative_reduction"]
    guardrails = record["guardrails"]
    several = len(guardrails) > 1
    return (
        name,
        differs,
        percent(record["tuned_wer"]),
        _interval(folder, "tuned"),
        percent(reduction),
        "; ".join((f"{escape(row['name'])} " if several else "") + points(row["delta"]) for row in guardrails),
        "; ".join("no interval" if row["ci95"] is None else interval_points(row["ci95"]) for row in guardrails),
        f"{record['adapter']['strength']:g}",
        record["verdict"]["decision"],
        number(record["adapter"]["trainable_parameters"]),
        f"{record['train']['cpu_seconds']:.0f}",
    )


def _interval(folder: Path, kind: Kind) -> str:
    samples = [sample for sample in load_samples(folder / SAMPLES_FILE) if sample.set == DOMAIN_SET]
    found = samples_interval(samples, kind)
    return "no interval" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f}%"
