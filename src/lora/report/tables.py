"""Markdown pieces: escaping, tables, word-level marks, and breakdowns of the scored utterances."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lora.decision import percent, points
from lora.evaluation.breakdown import DURATION_EDGES_S, duration_bin
from lora.evaluation.wer import align_words, normalize_text
from lora.report.record import RunRecord, Sample

MAX_GROUPS = 30
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def escape(text: object) -> str:
    """Return `text` on one line, so that Markdown shows it as it is, inside a table cell too."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are text and whose others are numbers."""
    rule = [":--" if index < left else "--:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def number(value: Any) -> str:
    """Return a number with four significant digits and grouped thousands; `n/a` for `None`."""
    if value is None:
        return "n/a"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def code_block(text: str, language: str) -> str:
    """Return a fenced block whose fence is longer than any inside `text`."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def inline_code(text: object) -> str:
    """Return `text` as inline code that survives a table cell."""
    shown = " ".join(str(text).split()).replace("|", "\\|")
    return f"`{shown}`" if "`" not in shown else escape(text)


def details(summary: str, body: str) -> str:
    """Return a folded block."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def json_block(value: Any) -> str:
    """Return `value` as an indented JSON block."""
    return code_block(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True), "json")


def mark_errors(ref: str, hyp: str) -> str:
    """Return the hypothesis with its errors marked: wrong or added words bold, missing words struck through.

    Both texts are compared in the light style, the one in which the errors were counted.
    """
    marked = []
    for operation, ref_word, hyp_word in align_words(normalize_text(ref, "light"), normalize_text(hyp, "light")):
        if operation == "equal":
            marked.append(escape(hyp_word))
        elif operation == "delete":
            marked.append(f"~~{escape(ref_word)}~~")
        else:
            marked.append(f"**{escape(hyp_word)}**")
    return " ".join(marked) or "*(nothing)*"


@dataclass(frozen=True)
class Group:
    """Utterances of one set that share a speaker or a range of durations."""

    set: str
    label: str
    samples: tuple[Sample, ...]

    def row(self) -> tuple[str, ...]:
        """Return set, label, utterances, words, baseline, tuned, change in points."""
        words = sum(sample.words for sample in self.samples)
        errors = [sum(s.baseline_errors for s in self.samples), sum(s.tuned_errors for s in self.samples)]
        before, after = (count / words if words else None for count in errors)
        change = None if before is None or after is None else after - before
        utterances = len(self.samples)
        return self.set, self.label, number(utterances), number(words), percent(before), percent(after), points(change)


def speaker_groups(record: RunRecord) -> list[Group]:
    """Group each set by speaker, sorted by name; past `MAX_GROUPS` those with the fewest words are pooled."""
    return _groups(record, lambda s: "unknown" if s.speaker_id is None else escape(s.speaker_id), sorted)


def duration_groups(record: RunRecord) -> list[Group]:
    """Group each set by duration."""
    labels = [f"{low:g} to {high:g} s" for low, high in pairwise(DURATION_EDGES_S)]
    labels.append(f"{DURATION_EDGES_S[-1]:g} s and over")

    def label_of(sample: Sample) -> str:
        return labels[duration_bin(sample.seconds)]

    return _groups(record, label_of, lambda found: sorted(found, key=labels.index))


def _groups(
    record: RunRecord, label_of: Callable[[Sample], str], order: Callable[[Iterable[str]], list[str]]
) -> list[Group]:
    groups = []
    for name, compared in record.sets:
        members: dict[str, list[Sample]] = {}
        for sample in record.samples_of(name):
            members.setdefault(label_of(sample), []).append(sample)
        by_words = sorted(members, key=lambda label: (-sum(s.words for s in members[label]), label))
        kept, pooled = by_words[:MAX_GROUPS], by_words[MAX_GROUPS:]
        title = escape(compared["name"])
        groups += [Group(title, label, tuple(members[label])) for label in order(kept)]
        if pooled:
            rest = tuple(sample for label in pooled for sample in members[label])
            groups.append(Group(title, f"{len(pooled)} others", rest))
    return groups
