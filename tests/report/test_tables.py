"""Markdown pieces, by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora.report.record import RunRecord, load_record
from lora.report.tables import (
    MAX_GROUPS,
    code_block,
    duration_groups,
    escape,
    inline_code,
    mark_errors,
    number,
    speaker_groups,
    table,
)


def test_a_table_has_its_rule_and_alignment() -> None:
    assert table(["Set", "WER"], [["us", "1%"]]) == "| Set | WER |\n| :-- | --: |\n| us | 1% |"


def test_text_cannot_break_out_of_a_cell() -> None:
    assert escape("a|b\n*c* <i>&amp;") == r"a\|b \*c\* \<i\>&amp;amp;"
    assert inline_code("a|b") == r"`a\|b`"
    assert inline_code("a`b") == r"a\`b"
    assert code_block("```\nx", "sh") == "````sh\n```\nx\n````"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (1234.56, "1,234.6"),
        (2000.0, "2,000"),
        (True, "True"),
    ],
)
def test_numbers_are_short(value: object, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("ref", "hyp", "marked"),
    [
        ("One, two three.", "one two three", "one two three"),
        ("one two three", "one ten", "one **ten** ~~three~~"),
        ("one", "one oh", "one **oh**"),
        ("one two", "", "~~one~~ ~~two~~"),
        ("...", "", "*(nothing)*"),
    ],
)
def test_errors_are_marked_word_by_word(ref: str, hyp: str, marked: str) -> None:
    assert mark_errors(ref, hyp) == marked


def test_speakers_are_pooled_within_their_set(run_dir: Path) -> None:
    assert [group.row() for group in speaker_groups(load_record(run_dir))] == [
        ("accents", "ana", "2", "6", "33.3%", "0.0%", "-33.3"),
        ("accents", "ben", "1", "4", "75.0%", "25.0%", "-50.0"),
        ("accents", "unknown", "1", "2", "0.0%", "50.0%", "+50.0"),
        ("us", "7", "1", "3", "0.0%", "0.0%", "0.0"),
    ]


def test_a_duration_on_an_edge_belongs_to_the_longer_range(run_dir: Path) -> None:
    assert [group.row()[:3] for group in duration_groups(load_record(run_dir))] == [
        ("accents", "0 to 2 s", "1"),
        ("accents", "2 to 4 s", "2"),
        ("accents", "16 s and over", "1"),
        ("us", "0 to 2 s", "1"),
    ]


def test_many_speakers_are_shown_in_full_or_pooled_but_never_lost(run_dir: Path) -> None:
    record = load_record(run_dir)
    many = [replace(record.samples[0], speaker_id=f"s{number:03}") for number in range(MAX_GROUPS + 5)]
    groups = speaker_groups(RunRecord(run_dir, record.metrics, (), tuple(many)))
    assert groups[-1].label == "5 others"
    assert sum(len(group.samples) for group in groups) == MAX_GROUPS + 5
