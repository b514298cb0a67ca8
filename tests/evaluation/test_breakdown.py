"""Every error is counted where it happened, and the parts add up to the whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.evaluation.breakdown import PairedUtterance, break_down, is_loop, is_number, most_repeats
from lora.evaluation.wer import count_word_errors


def tally(of: int, baseline: int, tuned: int, removed: int, added: int) -> dict[str, int]:
    return {"of": of, "baseline": baseline, "tuned": tuned, "removed": removed, "added": added}


def broken_down(reference: str, baseline: str, tuned: str, **changes: Any) -> dict[str, Any]:
    return break_down([PairedUtterance(reference, baseline, tuned, 1.0, **changes)])


def test_each_kind_of_error_is_removed_or_added_at_its_own_place() -> None:
    # Baseline: "two" became "ten", "four" is missing. Tuned: both are right, "one" is wrong, "oh" was added.
    counted = broken_down("one two three four", "one ten three", "won two three four oh")
    assert counted["operations"] == {
        "substitution": tally(4, 1, 1, 1, 1),
        "deletion": tally(4, 1, 0, 1, 0),
        "insertion": tally(4, 0, 1, 0, 1),
    }
    assert counted["total"] == tally(4, 2, 2, 2, 2)


def test_a_substitution_that_becomes_a_deletion_is_no_gain_in_total() -> None:
    counted = broken_down("one two three", "one ten three", "one three")
    assert counted["operations"]["substitution"] == tally(3, 1, 0, 1, 0)
    assert counted["operations"]["deletion"] == tally(3, 0, 1, 0, 1)
    assert counted["total"] == tally(3, 1, 1, 0, 0)


def test_numbers_and_rare_words_are_told_apart() -> None:
    rows = [PairedUtterance("take two apples", "take to apples", "take two apples", 1.0)]
    rows += [PairedUtterance("take three", "take three", "take tree", 1.0)] * 2
    classes = break_down(rows)["word_classes"]
    assert classes["number"] == tally(3, 1, 2, 1, 2)
    assert classes["other"] == tally(4, 0, 0, 0, 0)
    assert classes["common"] == tally(3, 0, 0, 0, 0), "only 'take' stands three times in the references"
    assert classes["rare"] == tally(4, 1, 2, 1, 2)


@pytest.mark.parametrize(("word", "expected"), [("seven", True), ("1990s", True), ("oh", False), ("second", False)])
def test_numbers_are_cardinals_and_words_with_digits(word: str, expected: bool) -> None:
    assert is_number(word) is expected


def test_words_that_differ_as_written_only_are_counted_apart() -> None:
    counted = broken_down("Hello, Dr. Twenty-One - yes", "hello Dr. twenty-one yes", "Hello, dr Twenty-One nope")
    assert counted["case_or_punctuation"] == tally(4, 2, 1, 2, 1)
    assert counted["total"] == tally(5, 0, 1, 0, 1), "light text reads 'twenty-one' as two words"


def test_loops_are_repetitions_that_nobody_said_or_texts_cut_off() -> None:
    assert not is_loop("nine nine nine nine", "nine nine nine nine nine")
    assert is_loop("nine nine", "nine nine nine nine")
    assert is_loop("", "go to the go to the go to the go to the go")
    assert not is_loop("", "go to the go to the go to the")
    assert broken_down("one", "one", "one", baseline_ended=False)["utterances"]["loop"] == tally(1, 1, 0, 1, 0)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("a b a b a", 2), ("a a b b b", 3), ("a b c", 1)])
def test_repeats_are_counted_in_a_row(text: str, count: int) -> None:
    assert most_repeats(text.split()) == count


def test_empty_outputs_are_counted_by_utterance() -> None:
    assert broken_down("one two", " ", "one")["utterances"]["empty"] == tally(1, 1, 0, 1, 0)


def test_durations_and_speakers_share_out_the_total() -> None:
    rows = [
        PairedUtterance("one two", "one", "one two", 1.9, "ana"),
        PairedUtterance("one two", "one two", "two", 2.0, 7),
        PairedUtterance("one", "", "one", 99.0, None),
    ]
    counted = break_down(rows)
    assert [(row["from_s"], row["to_s"], row["utterances"]) for row in counted["by_duration"]] == [
        *[(0.0, 2.0, 1), (2.0, 4.0, 1), (4.0, 8.0, 0), (8.0, 16.0, 0), (16.0, None, 1)]
    ]
    assert counted["by_speaker"] == [
        {"speaker_id": 7, "utterances": 1} | tally(2, 0, 1, 0, 1),
        {"speaker_id": "ana", "utterances": 1} | tally(2, 1, 0, 1, 0),
        {"speaker_id": None, "utterances": 1} | tally(1, 1, 0, 1, 0),
    ]


texts = st.lists(st.sampled_from(["one", "two", "nine", "oh", "the"]), max_size=7).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts, texts, st.sampled_from(["a", "b", None])), max_size=5))
def test_every_part_adds_up_and_equals_the_word_errors(rows: list[tuple[str, str, str, str | None]]) -> None:
    counted = break_down([PairedUtterance(ref, old, new, 3.0, speaker) for ref, old, new, speaker in rows])
    total = counted["total"]
    assert total["of"] == sum(len(ref.split()) for ref, *_ in rows)
    assert total["baseline"] == sum(count_word_errors(ref, old).errors for ref, old, _, _ in rows)
    assert total["tuned"] == sum(count_word_errors(ref, new).errors for ref, _, new, _ in rows)
    operations = list(counted["operations"].values())
    assert all(one["tuned"] - one["baseline"] == one["added"] - one["removed"] for one in (total, *operations))
    for parts in (operations, counted["by_speaker"], counted["by_duration"]):
        assert [sum(part[key] for part in parts) for key in ("baseline", "tuned")] == [
            total["baseline"],
            total["tuned"],
        ]
    classes = counted["word_classes"]
    for one, other in (("number", "other"), ("rare", "common")):
        assert classes[one]["of"] + classes[other]["of"] == total["of"]
