from pathlib import Path

import numpy as np
import pytest

from lora.data.check.sets import LEAK_CODES
from lora.data.findings import RULES
from lora.data.leakage import FORBIDDEN_KINDS, LEAK_KINDS, LeakRow, find_leaks, leak_row, transcript_key
from lora.data.manifest import Utterance

WAVE = np.zeros(4, dtype=np.float32)


def row(name: str, audio: str | None = None, speaker: int | str | None = None, text: str = "") -> LeakRow:
    return LeakRow(name, audio, speaker, text or f"words of {name}")


def kinds(train: list[LeakRow], evaluation: list[LeakRow]) -> list[tuple[str, str, str]]:
    return [(leak.kind, leak.train_id, leak.evaluation_id) for leak in find_leaks(train, evaluation)]


def test_sets_that_share_nothing_do_not_leak() -> None:
    assert find_leaks([row("a", "x", "ann")], [row("b", "y", "bob")]) == []


def test_each_kind_is_found_with_both_ids() -> None:
    train = [row("a", "x1", "ann", "Seven three"), row("b", "x2", "bob", "four")]
    assert kinds(train, [row("b", "y", "eve")]) == [("id", "b", "b")]
    assert kinds(train, [row("z", "x2", "eve")]) == [("audio", "b", "z")]
    assert kinds(train, [row("z", "y", "ann")]) == [("speaker", "a", "z")]
    assert kinds(train, [row("z", "y", "eve", "seven, three!")]) == [("transcript", "a", "z")]


def test_likely_the_same_recording_is_told_with_its_place_and_not_where_the_audio_is_the_same() -> None:
    train = [LeakRow("a", "x1", None, "one", recording=0, place="train.jsonl:7"), LeakRow("b", "x2", None, "two")]
    copy = LeakRow("c", "y", None, "three", recording=0, place="test.jsonl:3")
    (leak,) = find_leaks(train, [copy, LeakRow("d", "z", None, "four")])
    assert str(leak) == "test.jsonl:3: c: likely the same recording is in training: 'a' (train.jsonl:7)"
    assert kinds(train, [LeakRow("c", "x1", None, "three", recording=0)]) == [("audio", "a", "c")]


def test_a_check_fails_for_what_a_run_refuses_and_warns_of_what_it_tells() -> None:
    assert {RULES[LEAK_CODES[kind]].severity for kind in FORBIDDEN_KINDS} == {"error"}
    assert {RULES[LEAK_CODES[kind]].severity for kind in LEAK_KINDS if kind not in FORBIDDEN_KINDS} == {"warning"}
    told = find_leaks([row("a", "x", "ann", "one")], [row("b", "y", "ann", "one")])
    assert [(leak.kind, leak.is_forbidden) for leak in told] == [("speaker", False), ("transcript", False)]


def test_one_utterance_can_leak_in_every_way() -> None:
    assert [kind for kind, _, _ in kinds([row("a", "x", "ann")], [row("a", "x", "ann")])] == [
        "id",
        "audio",
        "speaker",
        "transcript",
    ]


def test_speaker_one_and_speaker_text_one_are_one_speaker() -> None:
    assert kinds([row("a", speaker=1)], [row("b", speaker="1")]) == [("speaker", "a", "b")]


def test_what_is_not_known_is_not_compared() -> None:
    assert find_leaks([row("a", None, None)], [row("b", None, None)]) == []


def test_a_leak_names_the_first_of_many_and_their_number() -> None:
    (leak,) = find_leaks([row("a", speaker="ann"), row("b", speaker="ann")], [row("c", speaker="ann")])
    assert (leak.train_id, leak.detail) == ("a", "speaker 'ann' is in training: 'a' (2 utterances)")


def test_an_id_made_of_file_name_and_line_is_shown_but_not_compared() -> None:
    made = leak_row(Utterance("train:1", "one", WAVE, place=str(Path("x") / "train.jsonl:1")), "h")
    given = leak_row(Utterance("u1", "one", WAVE, place=str(Path("x") / "train.jsonl:1")), "h")
    assert (made.id, made.shown_id) == (None, "train:1")
    assert (given.id, given.shown_id) == ("u1", "u1")
    assert [leak.kind for leak in find_leaks([made], [made])] == ["audio", "transcript"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Seven, THREE!", "seven three"),
        ("don\u2019t  'stop'", "don't stop"),
        ("Stra\u00dfe", "strasse"),
        ("\uff11 two", "1 two"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("...", ""),
    ],
)
def test_transcripts_are_compared_by_their_words(text: str, key: str) -> None:
    assert transcript_key(text) == key


def test_a_speaker_in_common_gives_one_leak_an_utterance_and_not_one_a_pair() -> None:
    train = [row(f"t{number}", f"x{number}", "ann") for number in range(20_000)]
    evaluation = [row(f"e{number}", f"y{number}", "ann") for number in range(20_000)]
    assert len(find_leaks(train, evaluation)) == 20_000
