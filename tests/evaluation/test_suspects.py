"""Ranking by loss and error, and style against the model's, on hand-made scores."""

from lora.data.check.audio import AudioFacts
from lora.data.check.rows import CheckedRow
from lora.evaluation.score import UtteranceScore
from lora.evaluation.suspects import compare_style, pooled_rate, rank_suspects


def scored(line: int, reference: str, hypothesis: str, loss_per_token: float) -> tuple[CheckedRow, UtteranceScore]:
    row = CheckedRow("m.jsonl", line, f"u{line}", reference, facts=AudioFacts(1.0, 1.0, 16_000, str(line)))
    score = UtteranceScore(row.id, reference, hypothesis, 4 * loss_per_token, 4, ended=True, mean_log_prob=-0.1)
    return row, score


def test_what_is_worst_by_loss_and_error_comes_first_and_alone_is_flagged() -> None:
    ranked = rank_suspects(
        [
            scored(1, "one two", "one two", 0.2),
            scored(2, "one two", "one", 0.3),
            scored(3, "one two", "seven nine", 5.0),
            scored(4, "one two", "one two", 0.1),
        ]
    )
    # Places by loss: u3 0, u2 1, u1 2, u4 3. By WER: u3 0, u2 1, u1 and u4 share 2.5.
    assert [one.id for one in ranked] == ["u3", "u2", "u1", "u4"]
    assert [one.id for one in ranked if one.flagged] == ["u3"]
    # 3 of 8 reference words are wrong: one deleted, two substituted.
    assert pooled_rate(ranked) == 3 / 8


def test_a_high_loss_on_a_text_that_was_read_right_is_no_suspect() -> None:
    rows = [scored(line, "one two", "one two", 0.2) for line in range(1, 5)]
    assert not any(one.flagged for one in rank_suspects([*rows, scored(5, "one two", "One two.", 5.0)]))


def test_nothing_scored_gives_an_empty_ranking() -> None:
    assert rank_suspects([]) == []


def test_another_casing_and_punctuation_than_the_models_are_named() -> None:
    pairs = [("ONE TWO", "One two."), ("THREE FOUR", "Three four."), ("FIVE SIX", "Five six.")]
    assert [code for code, _ in compare_style(pairs)] == ["style-casing", "style-punctuation"]


def test_the_models_own_style_is_no_fault() -> None:
    assert list(compare_style([("One two.", "One too."), ("Three four.", "Three for.")])) == []
    assert list(compare_style([("one", "")])) == []
