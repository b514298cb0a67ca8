"""The diagnostics tables as Markdown."""

import re
from collections.abc import Sequence

from lora.data.diagnostics import DurationProfile, SplitSummary, Sufficiency
from lora.decision import Headroom
from lora.escape import printable_lines


def duration_table(profiles: Sequence[DurationProfile]) -> str:
    """Return one row a manifest: samples, mean, and how many are within each threshold."""
    header = ["Manifest", "Samples", "Mean (s)", *(f"<={limit:g}s" for limit in profiles[0].within)]
    rows = [
        [
            _cell(one.manifest),
            str(one.samples),
            f"{one.mean_seconds:.2f}",
            *(f"{count} ({count / one.samples:.1%})" for count in one.within.values()),
        ]
        for one in profiles
    ]
    return _plain_table(header, rows)


def split_table(splits: Sequence[SplitSummary]) -> str:
    """Return one row a manifest: utterances after the duration filter, their split, and what it goes by."""
    rows = [
        [_cell(one.manifest), str(one.filtered), str(one.train), str(one.validation), one.kind, _cell(one.source)]
        for one in splits
    ]
    return _plain_table(["Manifest", "Filtered", "Train", "Val", "Split", "Source"], rows)


def diagnostics_page(
    profiles: Sequence[DurationProfile],
    splits: Sequence[SplitSummary],
    sufficiency: Sequence[Sufficiency],
    headroom: dict[str, Headroom],
) -> str:
    """Return the whole report."""
    parts = ["# Manifest diagnostics", "## Durations", duration_table(profiles), "## Split", split_table(splits)]
    parts.append("\n".join(f"- {_cell(one.manifest)}: {_cell(one.reason)}" for one in splits))
    if sufficiency:
        lines = [f"- {_cell(one.manifest)}: {_cell(one.message)}" for one in sufficiency]
        parts += ["## Enough data?", "\n".join(lines)]
    if headroom:
        lines = [f"- {_cell(path)}: {_cell(one.message)}" for path, one in headroom.items()]
        parts += ["## Headroom", "\n".join(lines)]
    return printable_lines("\n\n".join(parts) + "\n")


def _cell(text: str) -> str:
    return re.sub(r"([|`<\[])", r"\\\1", " ".join(text.split()))


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without alignment marks: `docs/experiment_plan.md` shows these columns as they are."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
