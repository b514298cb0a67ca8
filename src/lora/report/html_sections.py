"""The sections of `report.html` that need no script: result, training, gains, configuration."""

from collections.abc import Sequence
from html import escape
from typing import Any

from lora.decision import interval_points, percent, points
from lora.files import to_json
from lora.report.charts import (
    Series,
    build_axis,
    change_track,
    interval_track,
    line_chart,
    removed_added_bar,
    running_mean,
)
from lora.report.gains import GAIN_NOTE, LOOP_NOTE, GainRow, breakdown_of, groupings, kind_rows
from lora.report.record import DOMAIN_SET, Kind, RunRecord, samples_interval
from lora.report.tables import number
from lora.units import JsonObject

_FEW_POINTS = 20
_SYMBOLS = {"accept": "✓", "reject": "✗", "inconclusive": "?"}


def verdict_section(record: RunRecord) -> str:
    """Return the banner with the decision, and one card for each set."""
    verdict = record.metrics["verdict"]
    decision = str(verdict["decision"])
    reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in verdict["reasons"])
    cards = "".join(_card(name, compared) for name, compared in record.sets)
    return (
        f'<section id="verdict" class="verdict {escape(decision)}"><h2><span class="symbol" aria-hidden="true">'
        f"{_SYMBOLS.get(decision, '?')}</span> {escape(decision.capitalize())}</h2><ul>{reasons}</ul></section>"
        f'<div class="cards">{cards}</div>'
    )


def _card(name: str, compared: JsonObject) -> str:
    role = "Domain" if name == DOMAIN_SET else "Guardrail"
    title = role if compared["name"] == role.lower() else f"{role}: {compared['name']}"
    interval = "no interval" if compared["ci95"] is None else f"95% interval {interval_points(compared['ci95'])}"
    return (
        f'<div class="card"><h3>{escape(title)}</h3><p class="big"><span class="was">{percent(compared["baseline"])}'
        f'</span> <span aria-label="to">→</span> <strong>{percent(compared["tuned"])}</strong></p>'
        f"<p>WER {_change(compared['delta'])} points<br><small>{interval}</small></p></div>"
    )


def _change(delta: float | None) -> str:
    """Return a change in points with a mark that does not need colour."""
    kind, mark = ("same", "=") if not delta else ("better", "▼") if delta < 0 else ("worse", "▲")
    return f'<span class="{kind}">{mark} {points(delta)}</span>'


def result_section(record: RunRecord) -> str:
    """Return both rates of every set with their intervals, the differences, and the other measures."""
    return (
        '<section><h2>Baseline and tuned</h2><div class="two"><div><h3>WER with 95% intervals</h3>'
        f"{_rate_rows(record)}</div><div><h3>Change, tuned minus baseline</h3>{_difference_rows(record)}</div>"
        f"</div><p class='note'>{escape(_result_note(record))}</p>{_measures(record.metrics)}</section>"
    )


def _rate_rows(record: RunRecord) -> str:
    rows = []
    labels: tuple[tuple[Kind, str], ...] = (("base", "baseline"), ("tuned", "tuned"))
    for name, compared in record.sets:
        samples = record.samples_of(name)
        for kind, label in labels:
            stated = compared["baseline" if kind == "base" else "tuned"]
            rows.append((f"{compared['name']}, {label}", kind, stated, samples_interval(samples, kind)))
    axis = build_axis(0.0, max([0.01, *(max(rate or 0.0, ci[1] if ci else 0.0) for _, _, rate, ci in rows)]))
    return "".join(
        _track_row(label, interval_track(axis, rate, ci, kind=kind), percent(rate), _plain_interval(ci))
        for label, kind, rate, ci in rows
    )


def _plain_interval(interval: Sequence[float] | None) -> str:
    return "no interval" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _signed_interval(interval: Sequence[float] | None) -> str:
    return "no interval" if interval is None else interval_points((interval[0], interval[1]))


def _track_row(label: str, track: str, value: str, interval: str) -> str:
    return (
        f'<div class="trow"><span class="name">{escape(label)}</span>{track}<span class="val"><b>{value}</b> '
        f"<small>{interval}</small></span></div>"
    )


def _difference_rows(record: RunRecord) -> str:
    """Return the differences; the domain has a scale of its own, or a guardrail's budget could not be seen."""
    sets = [(name, compared) for name, compared in record.sets if compared["delta"] is not None]
    rows = []
    for is_domain in (True, False):
        shown = [compared for name, compared in sets if (name == DOMAIN_SET) == is_domain]
        edges = [value for row in shown for value in (row["delta"], row.get("budget", 0.0), *(row["ci95"] or ()))]
        axis = build_axis(min([0.0, *edges]), max([0.0, *edges]))
        for row in shown:
            lines = [(0.0, "zero"), *([(row["budget"], "budget")] if "budget" in row else [])]
            track = interval_track(axis, row["delta"], row["ci95"], kind="tuned", lines=lines)
            rows.append(_track_row(str(row["name"]), track, points(row["delta"]), _signed_interval(row["ci95"])))
    budgets = dict.fromkeys(points(row["budget"]) for _, row in sets if "budget" in row)
    limit = f"; the dashed one is the guardrail's budget, {', '.join(budgets)}" if budgets else ""
    note = (
        f"In points, left is better; domain and guardrails have scales of their own. The thin line is no change{limit}."
    )
    return "".join(rows) + f'<p class="note">{note}</p>'


def _result_note(record: RunRecord) -> str:
    parts = ["WER of text in the light style (case and punctuation ignored); intervals by bootstrap."]
    for _, row in record.sets:
        probability, seen = row.get("probability_of_improvement"), row.get("minimum_detectable_difference")
        facts = [f"{number(row['num_units'])} {row['unit']}s resampled"] if "num_units" in row else []
        facts += [] if probability is None else [f"P(better) {percent(probability)}"]
        facts += [] if seen is None else [f"a true change of {100 * seen:.1f} points would be seen four times in five"]
        if facts:
            parts.append(f"{row['name']}: {', '.join(facts)}.")
    return " ".join(parts)


def _measures(metrics: JsonObject) -> str:
    rows = [
        [f"WER, {style} text", percent(rates["baseline"]), percent(rates["tuned"])]
        for style, rates in metrics["domain"]["text_styles"].items()
    ]
    rows.append(["CER", percent(metrics["baseline_cer"]), percent(metrics["tuned_cer"])])
    rows.append(["Loss, teacher-forced", number(metrics["baseline_eval_loss"]), number(metrics["tuned_eval_loss"])])
    return "<h3>The domain by other measures</h3>" + html_table(["Measure", "Baseline", "Tuned"], rows)


def training_section(record: RunRecord) -> str:
    """Return loss and interval WER over steps, with what training took."""
    train, checks = record.metrics["train"], record.metrics
    alignment, efficacy = checks["alignment_check"], checks["efficacy"]
    facts = [
        ["Steps", f"{number(train['steps'])}, stopped by {train['stopped_by']}"],
        ["Kept state", "not recorded" if train.get("best_step") is None else f"step {number(train['best_step'])}"],
        ["Time", f"{train['seconds'] / 60:.1f} min for {train['audio_seconds'] / 60:.0f} min of audio"],
        ["Loss", f"{number(train['first_loss'])} first, {number(train['final_loss'])} final"],
        [
            "Label alignment",
            f"{'passed' if alignment['passed'] else 'FAILED'}: aligned {number(alignment['aligned_loss'])}, misaligned "
            f"{number(alignment['misaligned_loss'])} nats a token",
        ],
        ["Weight change", f"norm {number(efficacy['delta_norm'])}; outputs changed: {efficacy['outputs_changed']}"],
        ["Headroom", str(checks["headroom"]["message"])],
    ]
    charts = [chart for chart in (_loss_chart(record), _rate_chart(record), _strength_chart(record)) if chart]
    shown = f'<div class="two">{"".join(charts)}</div>' if charts else "<p>The history holds nothing to draw.</p>"
    return f"<section><h2>Training</h2>{shown}{html_table(None, facts, left=2, kind='facts')}</section>"


def _loss_chart(record: RunRecord) -> str:
    names = {"loss": "training loss", "domain_loss": "domain part", "replay_loss": "replay part"}
    series = []
    for color, (key, name) in enumerate(names.items()):
        points_ = [(float(row["step"]), float(row[key])) for row in record.history if row.get(key) is not None]
        if len(points_) > _FEW_POINTS:
            if key == "loss":
                series.append(Series(name, points_, color, faint=True))
            series.append(Series(f"{name} (running mean)", running_mean(points_), color))
        elif points_:
            series.append(Series(name, points_, color, marks=True))
    return line_chart("Loss, nats a token", series, y_text=lambda loss: f"{loss:g}") if series else ""


def _rate_chart(record: RunRecord) -> str:
    evaluated = [row for row in record.history if "eval" in row]
    keys = dict.fromkeys(key for row in evaluated for key in row["eval"] if key.endswith("wer"))
    series = []
    for color, key in enumerate(keys):
        found = [(float(row["step"]), float(row["eval"][key])) for row in evaluated if row["eval"].get(key) is not None]
        name = key.removesuffix("_wer").replace("_", " ") if key != "wer" else "evaluation"
        series.append(Series(name, found, color, marks=True))
    kept = record.metrics["train"].get("best_step")
    if not any(line.points for line in series):
        return ""
    title = "WER on the development sets" + ("" if kept is None else " (upright line: the kept state)")
    return line_chart(title, series, y_text=percent_tick, marked_x=kept)


def _strength_chart(record: RunRecord) -> str:
    """Return the development sets' WER over the adapter's scale, where the run swept it."""
    rows: list[JsonObject] = sorted(record.metrics.get("strength") or [], key=lambda row: row["scale"])
    names = {"domain_wer": "domain", "guardrail_wer": "guardrail"}
    series = [
        Series(
            name,
            [(float(row["scale"]), float(row[key])) for row in rows if row.get(key) is not None],
            color,
            marks=True,
        )
        for color, (key, name) in enumerate(names.items())
    ]
    if not any(line.points for line in series):
        return ""
    chosen = record.metrics["adapter"].get("strength")
    title = "WER on the development sets by strength" + ("" if chosen is None else " (upright line: chosen)")
    return line_chart(title, series, y_text=percent_tick, x_name="scale of the adapter", marked_x=chosen)


def percent_tick(rate: float) -> str:
    """Return a rate as a tick: `40%`, `2.5%`."""
    return f"{round(100 * rate, 2):g}%"


def gains_section(record: RunRecord) -> str:
    """Return the breakdown of every set: kinds of errors, durations, speakers."""
    parts = ["<section><h2>Where the gain comes from</h2>", f'<p class="note">{escape(GAIN_NOTE)}</p>']
    titles = {name: str(compared["name"]) for name, compared in record.sets}
    for name, breakdown in breakdown_of(record).items():
        parts.append(f"<h3>{escape(titles[name])}</h3>{_kind_table(kind_rows(breakdown))}")
        groups = "".join(_group_table(title, rows) for title, rows in groupings(breakdown))
        parts.append(f'<div class="two">{groups}</div>')
    parts.append(f'<p class="note">{escape(LOOP_NOTE)}</p></section>')
    return "".join(parts)


def _kind_table(rows: Sequence[GainRow]) -> str:
    largest = max(max(row.removed, row.added) for row in rows)
    body = [
        [
            escape(row.label),
            f"{row.of:,} {row.unit}",
            f"{row.baseline:,}",
            f"{row.tuned:,}",
            f'<span class="better">− {row.removed:,}</span>' if row.removed else "0",
            f'<span class="worse">+ {row.added:,}</span>' if row.added else "0",
            removed_added_bar(row.removed, row.added, largest),
        ]
        for row in rows
    ]
    head = ["Errors", "Among", "Baseline", "Tuned", "Removed", "Added", ""]
    return html_table(head, body, raw=True, kind="kinds")


def _group_table(title: str, rows: Sequence[GainRow]) -> str:
    rates = [rate for row in rows for rate in row.rates if rate is not None]
    axis = build_axis(0.0, max([0.01, *rates]))
    lines = []
    for row in rows:
        before, after = row.rates
        delta = None if before is None or after is None else after - before
        sizes = f"{row.utterances:,} utterances, {row.of:,} words"
        lines.append(
            f'<div class="trow"><span class="name">{escape(row.label)}<small>{sizes}</small></span>'
            f'{change_track(axis, before, after)}<span class="val">{percent(before)} → <b>{percent(after)}</b> '
            f"<small>{_change(delta)}</small></span></div>"
        )
    return f"<div><h4>{title}: WER ○ baseline ● tuned</h4>{''.join(lines)}</div>"


def provenance_section(metrics: JsonObject) -> str:
    """Return what is needed to repeat the run."""
    base, adapter, command = metrics["base_model"], metrics["adapter"], metrics["command"]
    targets = adapter["target_modules"]
    facts = [
        ["Base model", f"{base['id']} ({base['family']})"],
        ["Base SHA-256", base["sha256"]],
        ["Adapter", f"{adapter['method']}, rank {number(adapter['rank'])}, alpha {number(adapter['alpha'])}"],
        ["Trainable parameters", number(adapter["trainable_parameters"])],
        ["Seed", str(metrics["seed"])],
        ["Device", f"{metrics['device']}, {metrics['dtype']}"],
        ["Commit", str(metrics["git_commit"] or "not in a repository")],
    ]
    manifests = [("train", metrics["manifests"]["train"]), ("domain", metrics["manifests"]["domain"])]
    manifests += [("guardrail", row) for row in metrics["manifests"]["guardrails"]]
    rows = [
        [role, row["path"], number(row["utterances"]), _minutes(row["seconds"]), row["sha256"][:16]]
        for role, row in manifests
    ]
    line = command if isinstance(command, str) else " ".join(command)
    return (
        f"<section><h2>Configuration and provenance</h2><pre>{escape(line)}</pre>"
        f"{html_table(None, facts, left=2, kind='facts')}"
        f"{html_table(['Manifest', 'Path', 'Utterances', 'Minutes', 'SHA-256 (start)'], rows, left=2)}"
        f"{_details('Configuration', to_json(metrics['config']))}{_details('Versions', to_json(metrics['versions']))}"
        f"{_details('Adapted layers', targets if isinstance(targets, str) else chr(10).join(targets))}</section>"
    )


def _minutes(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds / 60:.1f}"


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def html_table(
    head: Sequence[str] | None, rows: Sequence[Sequence[Any]], *, left: int = 1, raw: bool = False, kind: str = ""
) -> str:
    """Return a table whose first `left` columns are text; cells are escaped unless `raw`."""
    top = "" if head is None else f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>"
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if raw else escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="left{left} {kind}">{top}<tbody>{body}</tbody></table></div>'
