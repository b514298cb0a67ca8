"""The result of a check: lines for a terminal, Markdown, JSON, and a page on which suspects can be heard."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora.data.audio import encode_flac
from lora.data.check.doctor import Check
from lora.data.findings import Finding, count_severities
from lora.escape import printable, printable_lines
from lora.evaluation.wer import align_words, normalize_text
from lora.report.tables import escape, table
from lora.units import SAMPLE_RATE_HZ, JsonObject, Seconds, Wave

SCHEMA_VERSION = 1
MAX_MARKDOWN_SUSPECTS = 50
MAX_PLAYED_SECONDS = 20.0


@dataclass(frozen=True)
class PlayableRow:
    """One row of the page.

    Attributes:
        wave: prepared audio, cut to `MAX_PLAYED_SECONDS`; `None` where it cannot be decoded.
        reasons: codes with what was got.
        hypothesis, loss, wer: what the base model made of it, where there is one.
    """

    manifest: str
    id: str
    reference: str
    reasons: Sequence[tuple[str, str]]
    wave: Wave | None
    seconds: Seconds | None = None
    hypothesis: str | None = None
    loss: float | None = None
    wer: float | None = None


def summary_line(check: Check) -> str:
    """Return the verdict in one line."""
    counts = count_severities(check.findings)
    rows = len(check.all_rows())
    bad = sum(row.has_error for row in check.all_rows())
    verdict = "passed" if check.passed else "FAILED"
    return (
        f"{verdict}: {rows} utterances in {len(check.inputs)} manifest(s), {counts['error']} kind(s) of error in "
        f"{bad} utterances, {counts['warning']} kind(s) of warning"
    )


def terminal_lines(check: Check) -> list[str]:
    """Return what a terminal shows: two lines a finding, and the verdict."""
    lines: list[str] = []
    for finding in check.findings:
        lines.append(f"{finding.severity:<7} {finding.code}  {finding.manifest}: {finding.message}")
        lines.append(f"        {finding.advice}")
    return [*map(printable, lines), summary_line(check)]


def check_markdown(check: Check, suspects: Iterable[JsonObject] = (), notes: Sequence[str] = ()) -> str:
    """Return the report."""
    findings = check.findings
    parts = ["# Manifest check", escape(summary_line(check))]
    parts.append(
        table(
            ["Manifest", "Role", "Rows", "With an error"],
            [
                [escape(one.path), one.role, str(len(rows)), str(sum(row.has_error for row in rows))]
                for one in check.inputs
                for rows in [check.rows[str(one.path)]]
            ],
            left=2,
        )
    )
    parts.append("## Findings")
    header = ["Severity", "Code", "Manifest", "Utterances", "What", "What to do"]
    parts.append(table(header, map(_cells, findings), left=6) if findings else "None.")
    parts += [f"- {escape(note)}" for note in notes]
    if rows := list(suspects)[:MAX_MARKDOWN_SUSPECTS]:
        parts.append("## Likely mislabelled first")
        parts.append(table(["Utterance", "Text", "Model", "WER", "Loss a token"], map(_suspect_cells, rows), left=3))
    return printable_lines("\n\n".join(parts) + "\n")


def check_json(
    check: Check, suspects: Iterable[JsonObject] = (), baseline_wer: Mapping[str, Any] | None = None
) -> JsonObject:
    """Return the whole result as one document."""
    counts = count_severities(check.findings)
    document: JsonObject = {
        "schema_version": SCHEMA_VERSION,
        "passed": check.passed,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "manifests": [
            {"path": str(one.path), "role": one.role, "rows": len(check.rows[str(one.path)])} for one in check.inputs
        ],
        "findings": [finding.to_json() for finding in check.findings],
    }
    if baseline_wer is not None:
        document |= {"baseline_wer": dict(baseline_wer), "suspects": list(suspects)}
    return document


def check_html(title: str, rows: Sequence[PlayableRow], note: str) -> str:
    """Return a page that plays every row: one file, no network, no script.

    All texts are escaped; the policy in the head allows nothing but the page's own audio and style.
    """
    body = "\n".join(_html_row(number, row) for number, row in enumerate(rows, start=1))
    return printable_lines(_PAGE.format(title=html.escape(title), note=html.escape(note), body=body))


def _cells(finding: Finding) -> list[str]:
    ids = str(len(finding.ids)) if finding.ids else "all"
    return [
        finding.severity,
        f"`{finding.code}`",
        escape(finding.manifest),
        ids,
        escape(finding.message),
        escape(finding.advice),
    ]


def _suspect_cells(row: JsonObject) -> list[str]:
    rate = "n/a" if row["wer"] is None else f"{row['wer']:.0%}"
    texts = [escape(row["reference"]), escape(row["hypothesis"])]
    return [escape(row["id"]) + (" (flagged)" if row["flagged"] else ""), *texts, rate, f"{row['loss_per_token']:.2f}"]


def _html_row(number: int, row: PlayableRow) -> str:
    reasons = "<br>".join(f"<b>{html.escape(code)}</b> {html.escape(detail)}" for code, detail in row.reasons)
    heard = "" if row.hypothesis is None else _mark(row.reference, row.hypothesis)
    figures = "" if row.loss is None else f"loss {row.loss:.2f}<br>WER {'n/a' if row.wer is None else f'{row.wer:.0%}'}"
    length = "" if row.seconds is None else f"<br>{row.seconds:.1f} s"
    cells = [
        str(number),
        f"{html.escape(row.id)}<br><small>{html.escape(row.manifest)}</small>{length}",
        _player(row.wave),
        html.escape(row.reference),
        heard,
        figures,
        reasons,
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _player(wave: Wave | None) -> str:
    if wave is None:
        return "cannot be played"
    data = base64.b64encode(encode_flac(wave[: round(MAX_PLAYED_SECONDS * SAMPLE_RATE_HZ)])).decode("ascii")
    return f'<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'


def _mark(ref: str, hyp: str) -> str:
    marked = []
    for operation, ref_word, hyp_word in align_words(normalize_text(ref, "light"), normalize_text(hyp, "light")):
        if operation == "equal":
            marked.append(html.escape(str(hyp_word)))
        elif operation == "delete":
            marked.append(f"<del>{html.escape(str(ref_word))}</del>")
        else:
            marked.append(f"<mark>{html.escape(str(hyp_word))}</mark>")
    return " ".join(marked) or "<i>(nothing)</i>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .4rem .6rem; text-align: left; vertical-align: top; }}
th {{ position: sticky; top: 0; background: #f3f3f3; }}
td {{ overflow-wrap: anywhere; }}
mark {{ background: #ffd9a8; }}
del {{ color: #a40000; }}
small {{ color: #555; }}
audio {{ width: 16rem; height: 2rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{note}</p>
<table>
<thead><tr><th>#</th><th>Utterance</th><th>Listen</th><th>Text</th><th>Model</th><th>Score</th><th>Why</th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""
