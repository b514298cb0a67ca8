"""Scores: counts of every utterance, the same from the cache."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from lora.caches import write_entry
from lora.config import DecodeSettings, PreprocessConfig
from lora.data.manifest import read_manifest
from lora.decoding import Recognizer
from lora.errors import SetupError
from lora.evaluation.score import (
    EvaluationSet,
    SetScore,
    UtteranceScore,
    load_evaluation_set,
    score_baseline,
    score_set,
)
from lora.model.load import Bundle
from lora.units import Wave


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


@pytest.mark.parametrize("what", ["weights", "decode", "preprocess", "content", "batch_size", "batch_seconds"])
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
    elif what == "content":
        evaluation_set = replace(evaluation_set, content_sha256="0" * 64)
    size, seconds = 5 if what == "batch_size" else 4, 80.0 if what == "batch_seconds" else 160.0
    other = Recognizer(bundle, preprocess, decode, batch_size=size, batch_seconds=seconds)
    assert not score_baseline(other, evaluation_set, tmp_path / "cache", lambda count: None)[1]


@pytest.mark.parametrize(
    "name", ["torch.__version__", "transformers.__version__", "lora.evaluation.score.SCORE_VERSION"]
)
def test_what_other_versions_measured_is_not_served_from_the_cache(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    with monkeypatch.context() as other:
        other.setattr(name, "0.0.1")
        assert not score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)[1]
    assert score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)[1]


def test_what_another_device_measured_is_not_served_from_the_cache(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    monkeypatch.setattr(Bundle, "device", torch.device("cpu:0"))  # the same one by another name
    assert not score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)[1]


@pytest.mark.parametrize("what", ["audio", "text", "id"])
def test_a_set_with_another_audio_text_or_id_is_measured_anew(
    recognizer: Recognizer,
    evaluation_set: EvaluationSet,
    make_wave: Callable[[int, int], Wave],
    tmp_path: Path,
    what: str,
) -> None:
    score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    path = evaluation_set.manifest.path
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if what == "audio":
        soundfile.write(path.parent / rows[3]["audio"], make_wave(9_000, 1), 16_000, format="FLAC")
    else:
        rows[3][what] = rows[3][what].replace("t", "T", 1) + ("" if what == "id" else " one")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = load_evaluation_set("test", read_manifest(path), recognizer)
    assert not score_baseline(recognizer, changed, tmp_path / "cache", lambda count: None)[1]


def flip_a_digit(text: str) -> str:
    """Change one digit of a loss: valid JSON, another number."""
    at = text.index("loss") + 7
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


DAMAGES: dict[str, Callable[[str], str]] = {
    "another number": flip_a_digit,
    "another text": lambda text: text.replace('"hypothesis": "', '"hypothesis": "one '),
    "a null loss": lambda text: re.sub(r'"loss": [0-9.]+', '"loss": null', text, count=1),
    "another key": lambda text: text.replace('"key": "', '"key": "0'),
    "half a file": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
    "a list": lambda text: "[]",
    "brackets": lambda text: "[" * 100_000,
    "no text": lambda text: "\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_baseline_is_named_and_made_again(
    recognizer: Recognizer,
    evaluation_set: EvaluationSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[str], str],
) -> None:
    folder = tmp_path / "cache"
    fresh, _ = score_baseline(recognizer, evaluation_set, folder, lambda count: None)
    [path] = folder.iterdir()
    whole = path.read_text()
    path.write_text(damage(whole))
    assert score_baseline(recognizer, evaluation_set, folder, lambda count: None) == (fresh, False)
    assert f"warning: {path}: " in capsys.readouterr().err
    assert path.read_text() == whole
    assert score_baseline(recognizer, evaluation_set, folder, lambda count: None) == (fresh, True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", [{"loss": None}, {"loss": "1"}, {"num_tokens": 2.5}, {"ended": 1}, {"id": "other"}])
def test_a_baseline_with_values_of_another_kind_is_named_and_made_again(
    recognizer: Recognizer,
    evaluation_set: EvaluationSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
) -> None:
    """The checksum is right: another program wrote it so."""
    fresh, _ = score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
    [path] = (tmp_path / "cache").iterdir()
    entry = json.loads(path.read_text())
    write_entry(path, entry["key"], [entry["value"][0] | change, *entry["value"][1:]])
    assert score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None) == (fresh, False)
    assert f"warning: {path}: a score of other utterances, or with values of another kind" in capsys.readouterr().err


def test_a_cache_folder_that_cannot_be_written_is_named(
    recognizer: Recognizer, evaluation_set: EvaluationSet, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match=r"cache.*cannot be written"):
        score_baseline(recognizer, evaluation_set, tmp_path / "cache", lambda count: None)
