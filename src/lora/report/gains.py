"""The breakdown of errors removed and added, as rows that Markdown and HTML both print."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora.evaluation.breakdown import LOOP_EXCESS, LOOP_MAX_WORDS, LOOP_REPEATS, PairedUtterance, break_down
from lora.report.record import RunRecord
from lora.units import JsonObject

MAX_SPEAKERS = 30

GAIN_NOTE = (
    "Errors in words, text in the light style. An error is removed where the baseline made it and the tuned model did "
    "not at the same word or gap, added the other way round; tuned minus baseline is added minus removed. A "
    "substituted word that is now missing removes a substitution and adds a deletion."
)
LOOP_NOTE = (
    f"A text loops when up to {LOOP_MAX_WORDS} words stand in it {LOOP_REPEATS} times or more in a row and at least "
    f"{LOOP_EXCESS} times more than in the reference, or when the token limit cut it off."
)


@dataclass(frozen=True)
class GainRow:
    """One tally with its name; `of` counts `unit`s. `utterances` is given for groups of utterances."""

    label: str
    of: int
    unit: str
    baseline: int
    tuned: int
    removed: int
    added: int
    utterances: int | None = None

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Errors before and after as shares of `of`."""
        return (self.baseline / self.of, self.tuned / self.of) if self.of else (None, None)


def breakdown_of(record: RunRecord) -> JsonObject:
    """Return each set's breakdown as recorded, or counted from the samples where a run recorded none.

    The samples do not tell which texts the token limit cut off; such loops are then found by repetition alone.
    """
    recorded: JsonObject = record.metrics.get("breakdown") or {}
    return {
        name: recorded[name]
        if name in recorded
        else break_down(
            [
                PairedUtterance(sample.reference, sample.baseline, sample.tuned, sample.seconds, sample.speaker_id)
                for sample in record.samples_of(name)
            ]
        )
        for name, _ in record.sets
    }


def kind_rows(breakdown: JsonObject) -> list[GainRow]:
    """Return the tallies by kind of error, word and utterance, the total first."""
    operations, classes, utterances = (breakdown[key] for key in ("operations", "word_classes", "utterances"))
    rare = breakdown["rare_at_most"]
    return [
        _row("All word errors", "words", breakdown["total"]),
        _row("Substitutions", "words", operations["substitution"]),
        _row("Deletions", "words", operations["deletion"]),
        _row("Insertions", "words", operations["insertion"]),
        _row("Numbers wrong or missing", "words", classes["number"]),
        _row("Other words wrong or missing", "words", classes["other"]),
        _row(f"Rare words wrong or missing (at most {rare} in the set)", "words", classes["rare"]),
        _row("Common words wrong or missing", "words", classes["common"]),
        _row("Right, but case or punctuation differs", "words", breakdown["case_or_punctuation"]),
        _row("Utterances that loop", "utterances", utterances["loop"]),
        _row("Empty outputs", "utterances", utterances["empty"]),
    ]


def duration_rows(breakdown: JsonObject) -> list[GainRow]:
    """Return one row for each range of durations that holds an utterance."""
    rows = []
    for group in breakdown["by_duration"]:
        low, high = group["from_s"], group["to_s"]
        label = f"{low:g} s and over" if high is None else f"{low:g} to {high:g} s"
        if group["utterances"]:
            rows.append(_row(label, "words", group))
    return rows


def speaker_rows(breakdown: JsonObject) -> list[GainRow]:
    """Return one row for each speaker; past `MAX_SPEAKERS` those with the fewest words are added up."""
    groups: Sequence[JsonObject] = breakdown["by_speaker"]
    kept = sorted(groups, key=lambda group: -group["of"])[:MAX_SPEAKERS]
    rows = [
        _row("unknown" if group["speaker_id"] is None else str(group["speaker_id"]), "words", group)
        for group in groups
        if group in kept
    ]
    rest = [group for group in groups if group not in kept]
    if rest:
        keys = ("of", "baseline", "tuned", "removed", "added", "utterances")
        total = {key: sum(group[key] for group in rest) for key in keys}
        rows.append(_row(f"{len(rest)} others", "words", total))
    return rows


def groupings(breakdown: JsonObject) -> Iterator[tuple[str, list[GainRow]]]:
    """Yield the breakdowns by group of utterances with the head of their first column."""
    yield "Duration", duration_rows(breakdown)
    yield "Speaker", speaker_rows(breakdown)


def _row(label: str, unit: str, tally: JsonObject) -> GainRow:
    baseline, tuned, removed, added = (tally[key] for key in ("baseline", "tuned", "removed", "added"))
    return GainRow(label, tally["of"], unit, baseline, tuned, removed, added, tally.get("utterances"))
