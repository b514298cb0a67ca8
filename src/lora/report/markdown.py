"""`report.md` of one run: the verdict first, then what it rests on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora.decision import interval_points, percent, points
from lora.escape import printable_lines
from lora.outputs import write_output
from lora.report.gains import GAIN_NOTE, LOOP_NOTE, breakdown_of, kind_rows
from lora.report.plots import plot_changes, plot_training
from lora.report.record import DOMAIN_SET, RunRecord, Sample, load_record
from lora.report.tables import (
    code_block,
    details,
    duration_groups,
    escape,
    inline_code,
    json_block,
    mark_errors,
    number,
    speaker_groups,
    table,
)
from lora.units import JsonObject

REPORT_FILE = "report.md"
CURVES_FILE, CHANGES_FILE = "plots/training.png", "plots/utterances.png"
MAX_EXAMPLES = 10


def write_report(run_dir: Path) -> Path:
    """Write `report.md` and its plots into the directory of a finished run.

    The same record gives the same bytes.

    Returns:
        The path of the report.

    Raises:
        InputError: the record is incomplete or contradicts itself (see `load_record`).
        ConfigError, SetupError: as `lora.outputs.check_file`, of a report that was changed since.
    """
    record = load_record(run_dir)
    curves = plot_training(record)
    if curves is not None:
        write_output(run_dir / CURVES_FILE, curves, root=run_dir)
    write_output(run_dir / CHANGES_FILE, plot_changes(record), root=run_dir)
    sections = [
        f"# Run {escape(record.metrics['run_id'])}",
        _verdict(record.metrics),
        _results(record),
        _checks(record.metrics),
        _training(record, curves is not None),
        _gains(record),
        _breakdown(record),
        _examples(record),
        _provenance(record.metrics),
    ]
    path = run_dir / REPORT_FILE
    write_output(path, printable_lines("\n\n".join(sections) + "\n"), root=run_dir)
    return path


def _verdict(metrics: JsonObject) -> str:
    verdict, domain = metrics["verdict"], metrics["domain"]
    sentence = f"**{verdict['decision'].capitalize()}**: WER on the domain {_movement(domain)}"
    guardrails = [row for row in metrics["guardrails"] if row["delta"] is not None]
    if guardrails:
        worst = max(guardrails, key=lambda row: row["delta"])
        which = "the guardrail" if len(guardrails) == 1 else f"the worst of {len(guardrails)} guardrails"
        sentence += f"; on {which} ({escape(worst['name'])}) it {_movement(worst)}"
    reasons = "\n".join(f"- {escape(reason)}" for reason in verdict["reasons"])
    return f"> {sentence}.\n\n{reasons}"


def _movement(compared: JsonObject) -> str:
    before, after, delta = percent(compared["baseline"]), percent(compared["tuned"]), compared["delta"]
    interval = "no interval" if compared["ci95"] is None else f"95% interval {interval_points(compared['ci95'])}"
    if delta is None:
        return "is undefined"
    if before == after:
        return f"stayed at {before} ({points(delta)} points, {interval})"
    verb = "fell" if delta < 0 else "rose"
    return f"{verb} from {before} to {after} ({points(delta)} points, {interval})"


def _results(record: RunRecord) -> str:
    metrics = record.metrics
    rows = [_set_row(record, name, compared) for name, compared in record.sets]
    header = ["Set", "Role", "Utterances", "Words", "Baseline", "Tuned", "Change", "95% interval", "Relative"]
    header.append("P(better)")
    note = (
        "WER, text in the light style (case and punctuation ignored). Change and interval in points, tuned minus "
        f"baseline, by paired bootstrap; negative is better.{_units_note(record)}"
    )
    parts = ["## Result", table(header, rows, left=2), note, *_detectable_notes(record), *_unseen_change_notes(record)]
    parts.append(_other_measures(metrics))
    return "\n\n".join(parts)


def _set_row(record: RunRecord, name: str, compared: JsonObject) -> list[str]:
    samples = record.samples_of(name)
    probability = compared.get("probability_of_improvement")
    return [
        escape(compared["name"]),
        "domain" if name == DOMAIN_SET else "guardrail",
        number(len(samples)),
        number(sum(sample.words for sample in samples)),
        percent(compared["baseline"]),
        f"**{percent(compared['tuned'])}**",
        points(compared["delta"]),
        "n/a" if compared["ci95"] is None else interval_points(compared["ci95"]),
        _relative_change(compared["relative_reduction"]),
        "n/a" if probability is None else percent(probability),
    ]


def _relative_change(reduction: float | None) -> str:
    """Return the change as a share of the baseline, signed like the change in points."""
    return "undefined" if reduction is None else f"{points(-reduction)}%"


def _units_note(record: RunRecord) -> str:
    """Say what was resampled where the metrics tell: few speakers leave other speakers an open question."""
    by_unit: dict[str, list[str]] = {}
    for _, compared in record.sets:
        if "unit" in compared:
            by_unit.setdefault(compared["unit"], []).append(escape(compared["name"]))
    return "".join(f" Resampled by {unit}: {', '.join(names)}." for unit, names in by_unit.items())


def _detectable_notes(record: RunRecord) -> list[str]:
    """Say what each set could have shown, where the run stated it before training."""
    stated = [(row["name"], row.get("minimum_detectable_difference")) for _, row in record.sets]
    return [
        f"{escape(name)} shows a true change of {100 * difference:.1f} points four times in five, and smaller "
        "ones less often (stated before training, from the baseline)."
        for name, difference in stated
        if difference is not None
    ]


def _unseen_change_notes(record: RunRecord) -> list[str]:
    """Say what a set without any change leaves open, since its interval looks certain."""
    notes = []
    for name, compared in record.sets:
        samples = record.samples_of(name)
        if len(samples) > 3 and not any(sample.change for sample in samples):
            share = percent(3 / len(samples))
            notes.append(
                f"No utterance of {escape(compared['name'])} changed its errors, so its interval has no width. By the "
                f"rule of three, up to {share} of such utterances may still change."
            )
    return notes


def _other_measures(metrics: JsonObject) -> str:
    rows = []
    for style, rates in metrics["domain"]["text_styles"].items():
        rows.append([f"WER, {style} text", percent(rates["baseline"]), percent(rates["tuned"])])
    rows.append(["CER", percent(metrics["baseline_cer"]), percent(metrics["tuned_cer"])])
    rows.append(["Loss, teacher-forced", number(metrics["baseline_eval_loss"]), number(metrics["tuned_eval_loss"])])
    return "On the domain, by other measures:\n\n" + table(["Measure", "Baseline", "Tuned"], rows)


def _checks(metrics: JsonObject) -> str:
    headroom, alignment, efficacy = metrics["headroom"], metrics["alignment_check"], metrics["efficacy"]
    aligned = f"aligned loss {number(alignment['aligned_loss'])}, misaligned {number(alignment['misaligned_loss'])}"
    changed = efficacy["outputs_changed"]
    acts = bool(changed) and bool(efficacy["delta_norm"])
    shown = f"weight change {number(efficacy['delta_norm'])} (norm), outputs changed: {_plain(changed)}"
    rows = [
        ["Headroom", "enough" if headroom["enough"] else "**little**", escape(headroom["message"])],
        ["Label alignment", "passed" if alignment["passed"] else "**failed**", aligned],
        ["Adapter efficacy", "acts" if acts else "**no effect**", shown],
    ]
    return "## Checks\n\n" + table(["Check", "Result", "Measured"], rows, left=3)


def _plain(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)


def _training(record: RunRecord, has_curves: bool) -> str:
    train = record.metrics["train"]
    rows = [
        ["Steps", number(train["steps"])],
        ["Time", f"{number(round(train['seconds'], 1))} s"],
        ["Audio seen", f"{number(round(train['audio_seconds'], 1))} s"],
        ["Loss, first to final", f"{number(train['first_loss'])} to {number(train['final_loss'])}"],
        ["Stopped by", escape(train["stopped_by"])],
    ]
    picture = "![Loss and WER over the steps of training](plots/training.png)"
    curves = picture if has_curves else "The history holds no losses and no evaluations, so there are no curves."
    return "\n\n".join(["## Training", table(["Training", "Value"], rows, left=2), curves])


def _gains(record: RunRecord) -> str:
    titles = {name: compared["name"] for name, compared in record.sets}
    parts = ["## Where the gain comes from", GAIN_NOTE]
    for name, breakdown in breakdown_of(record).items():
        rows = []
        for row in kind_rows(breakdown):
            removed, added = f"-{row.removed:,}" if row.removed else "0", f"+{row.added:,}" if row.added else "0"
            among = f"{row.of:,} {row.unit}"
            rows.append([escape(row.label), among, number(row.baseline), number(row.tuned), removed, added])
        parts.append(f"On {escape(titles[name])}:")
        parts.append(table(["Errors", "Among", "Baseline", "Tuned", "Removed", "Added"], rows))
    return "\n\n".join([*parts, LOOP_NOTE])


def _breakdown(record: RunRecord) -> str:
    columns = ["Utterances", "Words", "Baseline", "Tuned", "Change"]
    by_speaker = [group.row() for group in speaker_groups(record)]
    by_duration = [group.row() for group in duration_groups(record)]
    return "\n\n".join(
        [
            "## Where it changed",
            "![Change in word errors of every utterance](plots/utterances.png)",
            "By speaker:",
            table(["Set", "Speaker", *columns], by_speaker, left=2),
            "By duration:",
            table(["Set", "Duration", *columns], by_duration, left=2),
        ]
    )


def _examples(record: RunRecord) -> str:
    titles = {name: compared["name"] for name, compared in record.sets}
    ordered = sorted(record.samples, key=lambda sample: (sample.change, sample.set, sample.id))
    improved = [sample for sample in ordered if sample.change < 0]
    worsened = [sample for sample in reversed(ordered) if sample.change > 0]
    legend = "**Bold**: wrong or added. ~~Struck~~: missing. Every utterance is in `samples.jsonl`."
    parts = ["## Utterances", legend]
    for title, samples in (("Most improved", improved), ("Most worsened", worsened)):
        shown = samples[:MAX_EXAMPLES]
        count = f"{len(shown)} of {len(samples)}" if len(samples) > len(shown) else str(len(samples))
        parts.append(f"### {title} ({count})")
        parts.append(_example_table(shown, titles) if shown else "None.")
    return "\n\n".join(parts)


def _example_table(samples: Sequence[Sample], titles: dict[str, str]) -> str:
    rows = []
    for sample in samples:
        texts = [
            f"ref: {escape(sample.reference)}",
            f"baseline: {mark_errors(sample.reference, sample.baseline)}",
            f"tuned: {mark_errors(sample.reference, sample.tuned)}",
        ]
        errors = f"{sample.baseline_errors} to {sample.tuned_errors}"
        rows.append([inline_code(sample.id), escape(titles[sample.set]), errors, "<br>".join(texts)])
    return table(["Utterance", "Set", "Errors", "Texts"], rows, left=4)


def _provenance(metrics: JsonObject) -> str:
    base, adapter = metrics["base_model"], metrics["adapter"]
    targets = adapter["target_modules"]
    shown_targets = targets if isinstance(targets, str) else ", ".join(targets)
    rows = [
        ["Base model", f"{inline_code(base['id'])} ({escape(base['family'])})"],
        ["Base model SHA-256", inline_code(base["sha256"])],
        ["Adapter", f"{escape(adapter['method'])}, rank {number(adapter['rank'])}, alpha {number(adapter['alpha'])}"],
        ["Adapter targets", inline_code(shown_targets)],
        ["Trainable parameters", number(adapter["trainable_parameters"])],
        ["Seed", number(metrics["seed"])],
        ["Device", f"{escape(metrics['device'])}, {escape(metrics['dtype'])}"],
        ["Shared with training", _shared(metrics)],
        ["Commit", inline_code(metrics["git_commit"]) if metrics["git_commit"] else "not in a repository"],
    ]
    command = metrics["command"]
    return "\n\n".join(
        [
            "## How to repeat it",
            code_block(command if isinstance(command, str) else " ".join(command), "sh"),
            table(["Run", "Value"], rows, left=2),
            _manifest_table(metrics["manifests"]),
            details("Configuration", json_block(metrics["config"])),
            details("Versions", json_block(metrics["versions"])),
        ]
    )


def _shared(metrics: JsonObject) -> str:
    """Say how many utterances of each set share something with training."""
    counts = metrics["manifests"].get("shared_with_training")
    if not counts:
        return "not recorded"
    return "; ".join(
        f"{escape(name)}: " + ", ".join(f"{kind} {number(count)}" for kind, count in kinds.items())
        for name, kinds in counts.items()
    )


def _manifest_table(manifests: JsonObject) -> str:
    listed = [("train", manifests["train"]), ("domain", manifests["domain"])]
    listed += [("guardrail", row) for row in manifests["guardrails"]]
    rows = [
        [role, inline_code(row["path"]), inline_code(row["sha256"][:16]), number(row["utterances"]), _minutes(row)]
        for role, row in listed
    ]
    return table(["Manifest", "Path", "SHA-256 (start)", "Utterances", "Minutes"], rows, left=3)


def _minutes(row: JsonObject) -> str:
    return "n/a" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}"
