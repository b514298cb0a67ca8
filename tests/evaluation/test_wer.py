"""Errors are counted by hand here and by jiwer once."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import InputError
from lora.evaluation.wer import (
    ErrorCounts,
    align_words,
    count_char_errors,
    count_word_errors,
    normalize_text,
    pool,
)

SENTENCES = st.lists(st.sampled_from(["one", "two", "three", "four", "oh"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("ref", "hyp", "substitutions", "deletions", "insertions", "length"),
    [
        ("one two three", "one two three", 0, 0, 0, 3),
        ("one two three", "one ten three", 1, 0, 0, 3),
        ("one two three", "one three", 0, 1, 0, 3),
        ("one two three", "one two oh three", 0, 0, 1, 3),
        ("one two three", "", 0, 3, 0, 3),
        ("four five six", "for five", 1, 1, 0, 3),
        ("", "", 0, 0, 0, 0),
    ],
)
def test_word_errors_equal_the_hand_count(
    ref: str, hyp: str, substitutions: int, deletions: int, insertions: int, length: int
) -> None:
    assert count_word_errors(ref, hyp) == ErrorCounts(substitutions, deletions, insertions, length)


def test_the_reference_comes_first() -> None:
    assert count_word_errors("one two", "one").deletions == 1
    assert count_word_errors("one", "one two").insertions == 1


def test_words_after_an_empty_reference_are_insertions_and_the_rate_is_undefined() -> None:
    counts = count_word_errors("", "hello there")
    assert counts == ErrorCounts(0, 0, 2, 0)
    assert counts.rate is None


def test_a_rate_can_exceed_one() -> None:
    assert count_word_errors("stop", "stop it now please").rate == 3.0


def test_character_errors_equal_the_hand_count() -> None:
    assert count_char_errors("kitten", "sitting") == ErrorCounts(2, 0, 1, 6)
    assert count_char_errors("on e", "one") == ErrorCounts(0, 1, 0, 4)


def test_runs_of_spaces_are_no_character_errors() -> None:
    assert count_char_errors("  one   two ", "one two") == ErrorCounts(0, 0, 0, 7)


def test_pooling_weighs_by_words_and_keeps_errors_without_reference() -> None:
    counts = [ErrorCounts(1, 0, 0, 1), ErrorCounts(0, 0, 0, 9), ErrorCounts(0, 0, 2, 0)]
    assert pool(counts) == ErrorCounts(1, 0, 2, 10)
    assert pool(counts).rate == pytest.approx(0.3)
    assert pool([]) == ErrorCounts.zero()


@pytest.mark.parametrize("counts", [(-1, 0, 0, 3), (0, 0, -2, 3), (2, 2, 0, 3)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="error counts"):
        ErrorCounts(*counts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Four, FIVE: six!", "four five six"),
        ("It's O\u2019Neil's 'quote' rock 'n' roll", "it's o'neil's quote rock n roll"),
        ("twenty-one\tand\n a\u2014half", "twenty one and a half"),
        ("Stra\u00dfe 25% \u20ac5 <unk>", "strasse 25 5 unk"),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth"),
        ("cafe\u0301 CAF\u00c9", "caf\u00e9 caf\u00e9"),
        ("... ?!", ""),
    ],
)
def test_light_style_drops_case_and_punctuation_only(text: str, expected: str) -> None:
    assert normalize_text(text, "light") == expected


def test_raw_style_changes_nothing() -> None:
    assert normalize_text(" It\u2019s  Raw. ", "raw") == " It\u2019s  Raw. "


def test_whisper_style_merges_spoken_digits_so_light_is_primary() -> None:
    ref, hyp = "four six five two", "four six nine"
    assert normalize_text(ref, "whisper") == "4652"
    light = count_word_errors(normalize_text(ref, "light"), normalize_text(hyp, "light"))
    whisper = count_word_errors(normalize_text(ref, "whisper"), normalize_text(hyp, "whisper"))
    assert (light.errors, light.reference_length) == (2, 4)
    assert (whisper.errors, whisper.reference_length) == (1, 1)


def test_whisper_style_hides_a_digit_form_error_that_light_counts() -> None:
    ref, hyp = "flight four five", "flight 45"
    assert normalize_text(ref, "whisper") == normalize_text(hyp, "whisper")
    assert count_word_errors(normalize_text(ref, "light"), normalize_text(hyp, "light")).errors == 2


def test_an_unknown_style_is_refused_with_the_right_ones() -> None:
    with pytest.raises(InputError, match="raw, light, whisper"):
        normalize_text("one", "loud")  # type: ignore[arg-type]


def test_alignment_shows_each_word_once_in_reading_order() -> None:
    assert align_words("one two three four seven", "one too four seven five") == [
        ("equal", "one", "one"),
        ("substitute", "two", "too"),
        ("delete", "three", None),
        ("equal", "four", "four"),
        ("equal", "seven", "seven"),
        ("insert", None, "five"),
    ]


@given(SENTENCES, SENTENCES)
def test_alignment_keeps_both_texts_and_agrees_with_the_counts(ref: str, hyp: str) -> None:
    aligned = align_words(ref, hyp)
    assert [word for _, word, _ in aligned if word is not None] == ref.split()
    assert [word for _, _, word in aligned if word is not None] == hyp.split()
    assert sum(operation != "equal" for operation, _, _ in aligned) == count_word_errors(ref, hyp).errors


@given(SENTENCES.filter(bool), SENTENCES)
def test_counts_agree_with_jiwer(ref: str, hyp: str) -> None:
    counts, expected = count_word_errors(ref, hyp), jiwer.process_words(ref, hyp)
    assert (counts.substitutions, counts.deletions, counts.insertions) == (
        expected.substitutions,
        expected.deletions,
        expected.insertions,
    )
    assert count_char_errors(ref, hyp).rate == pytest.approx(jiwer.cer(ref, hyp))
