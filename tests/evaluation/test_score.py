"""Scores: counts of every utterance, the same from the cache."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.manifest import read_manifest
from lora.decoding import Recognizer
from lora.errors import InputError
from lora.evaluation.score import (
    EvaluationSet,
    SetScore,
    UtteranceScore,
    load_evaluation_set,
    score_baseline,
    score_set,
)
from lora.model.load import Bundle


@pytest.fixture
def recognizer(toy_bundle: Bundle) -> Recognizer:
    return Recognizer(toy_bundle, PreprocessConfig(), DecodeSettings(), batch_size=4)


@pytest.fixture
def evaluation_set(recognizer: Recognizer, write_toy_manifest: Callable[..., Path], tmp_path: Path) -> EvaluationSet:
    manifest = read_manifest(write_toy_manifest(tmp_path / "test.jsonl", count=10, seed=5))
    return load_evaluation_set("test", manifest, recognizer)


def row(reference: str, hypothesis: str, *, loss: float = 2.0, tokens: int = 4, ended: bool = True) -> UtteranceScore:
    return UtteranceScore(reference, reference, hypothesis, loss, tokens, ended, -0.1)


def test_every_utterance_is_scored_in_the_manifests_order(
    recognizer: Recognizer, evaluation_set: EvaluationSet
) -> None:
    advanced: list[int] = []
    score = score_set(recognizer, evaluation_set, advanced.append)
    assert [item.id for item in score.utterances] == [example.id for example in evaluation_set.examples]
    assert [item.reference for item in score.utterances] == [example.text for example in evaluation_set.examples]
    assert sum(advanced) == 10
    assert len(advanced) == 3  # batches of at most four
    assert evaluation_set.speakers[:4] == ["speaker0", "speaker1", "speaker2", "speaker0"]


def test_text_and_loss_do_not_depend_on_the_batch(recognizer: Recognizer, evaluation_set: EvaluationSet) -> None:
    single = Recognizer(recognizer.bundle, PreprocessConfig(), DecodeSettings(), batch_size=1)
    batched = score_set(recognizer, evaluation_set, lambda count: None)
    alone = score_set(single, evaluation_set, lambda count: None)
    for one, other in zip(batched.utterances, alone.utterances, strict=True):
        assert one.hypothesis == other.hypothesis
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.num_tokens == other.num_tokens == len(one.reference.split()) + 1


def test_rates_are_pooled_over_hand_counted_errors() -> None:
    score = SetScore("x", (row("one two three", "one four three"), row("five", ""), row("six seven", "six seven nine")))
    assert [counts.errors for counts in score.counts()] == [1, 1, 1]
    assert score.wer() == pytest.approx(3 / 6)
    assert score.counts()[1].deletions == 1
    assert score.counts()[2].insertions == 1
    assert score.empty == 1
    assert score.loss == pytest.approx(6.0 / 12)


def test_case_and_punctuation_count_in_the_raw_style_only() -> None:
    score = SetScore("x", (row("One, two.", "one two"),))
    assert score.wer() == 0.0
    assert score.cer() == 0.0
    assert score.wer("raw") == 1.0


def test_unfinished_texts_are_counted() -> None:
    assert SetScore("x", (row("one", "one"), row("two", "two two", ended=False))).unfinished == 1


def test_a_cached_baseline_equals_a_fresh_one(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path
) -> None:
    fresh, hit_first = score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    advanced: list[int] = []
    cached, hit_second = score_baseline(recognizer, evaluation_set, tmp_path / "cache", advanced.append)
    assert (hit_first, hit_second) == (False, True)
    assert cached == fresh
    assert advanced == [10]


@pytest.mark.parametrize("what", ["weights", "decode", "preprocess", "content"])
def test_other_content_is_not_served_from_the_cache(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path, what: str
) -> None:
    score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    bundle, preprocess, decode = recognizer.bundle, recognizer.preprocess, recognizer.decode
    if what == "weights":
        bundle = replace(bundle, sha256="0" * 64)
    elif what == "decode":
        decode = replace(decode, tokens_per_second=7.0)
    elif what == "preprocess":
        preprocess = replace(preprocess, target_rms=0.05)
    else:
        evaluation_set = replace(evaluation_set, content_sha256="0" * 64)
    other = Recognizer(bundle, preprocess, decode, batch_size=4)
    assert not score_baseline(other, evaluation_set, tmp_path / "cache", lambda count: None)[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [({"key": "x"}, "of other content"), ({"utterances": [{"id": 1}]}, "damaged"), ({"utterances": []}, "utterances")],
)
def test_a_damaged_cache_file_is_refused(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path, damage: dict[str, object], message: str
) -> None:
    score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    [path] = (tmp_path / "cache").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(InputError, match=message):
        score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
