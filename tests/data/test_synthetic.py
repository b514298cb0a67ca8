import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lora.data.manifest import read_manifest
from lora.data.sources.base import Clip, write_clips
from lora.data.sources.fsdd import DIGIT_WORDS
from lora.data.sources.synthetic import VARIANTS_BY_SPLIT, read_synthetic, voices_of
from lora.data.synthesis import VOICES
from lora.errors import SourceError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="speech needs fork")


def key(clip: Clip) -> tuple[str, str, object, bytes]:
    return clip.id, clip.text, clip.speaker_id, clip.wave.tobytes()


def test_the_splits_share_no_timbre_and_cover_every_voice() -> None:
    timbres = {split: {voice.split("+")[1] for voice in voices_of(split)} for split in VARIANTS_BY_SPLIT}  # type: ignore[arg-type]
    for one, other in pairwise(["train", "validation", "test", "train"]):
        assert timbres[one].isdisjoint(timbres[other])
    assert sorted(voice for split in VARIANTS_BY_SPLIT for voice in voices_of(split)) == sorted(VOICES)  # type: ignore[arg-type]


def test_an_accent_stands_for_its_voices_of_the_split() -> None:
    assert voices_of("validation", ["en-us"]) == ("en-us+david", "en-us+f4", "en-us+m5", "en-us+steph")
    assert voices_of("test", ["en+m3", "en-us+f2"]) == ("en+m3", "en-us+f2")


def test_clips_are_digit_words_of_the_asked_length_in_the_voice_that_they_name() -> None:
    clips = list(read_synthetic(samples=12, seed=1, split="test", min_digits=2, max_digits=4))
    assert len({clip.speaker_id for clip in clips}) == 12
    assert {len(clip.text.split()) for clip in clips} == {2, 3, 4}
    for number, clip in enumerate(clips):
        assert set(clip.text.split()) <= set(DIGIT_WORDS)
        assert clip.speaker_id in voices_of("test")
        assert clip.id == f"synth-test-{clip.speaker_id}-{number:04d}"
        assert clip.sampling_rate == 16_000


def test_the_same_seed_gives_the_same_clips_and_another_seed_others() -> None:
    first, again, other = (
        [key(clip) for clip in read_synthetic(samples=6, seed=seed, split="train", telephone=True, noise_snr_db=10)]
        for seed in (5, 5, 6)
    )
    assert first == again
    assert not {text for _, text, _, _ in first} & {text for _, text, _, _ in other}


def test_more_samples_only_add_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [key(clip) for clip in read_synthetic(samples=3, seed=5, split="train")]
    monkeypatch.setattr("lora.data.sources.synthetic.CLIPS_PER_PROCESS", 2)
    more = [key(clip) for clip in read_synthetic(samples=5, seed=5, split="train")]
    assert more[:3] == few


def test_the_telephone_band_removes_what_lies_above_it() -> None:
    def share_above_4_khz(telephone: bool) -> float:
        (clip,) = read_synthetic(samples=1, seed=2, split="test", telephone=telephone, noise_snr_db=20)
        power = np.abs(np.fft.rfft(clip.wave)) ** 2
        return float(power[np.fft.rfftfreq(len(clip.wave), 1 / 16_000) > 4000].sum() / power.sum())

    assert share_above_4_khz(True) < 1e-5 < 1e-4 < share_above_4_khz(False)


def test_noise_has_the_requested_ratio_and_the_words_stay() -> None:
    (clean,) = read_synthetic(samples=1, seed=2, split="test")
    (noisy,) = read_synthetic(samples=1, seed=2, split="test", noise_snr_db=5)
    assert noisy.text == clean.text
    noise = noisy.wave - clean.wave
    assert 10 * np.log10(np.mean(clean.wave**2) / np.mean(noise**2)) == pytest.approx(5, abs=0.01)


def test_the_clips_make_a_manifest(tmp_path: Path) -> None:
    clips = read_synthetic(samples=3, seed=0, split="validation", voices=["en-gb-scotland+f4"])
    manifest = read_manifest(write_clips(clips, tmp_path / "m.jsonl", total=3))
    assert [utterance.speaker_id for utterance in manifest.utterances] == ["en-gb-scotland+f4"] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "dev"}, "expected one of train, validation, test"),
        ({"voices": ["en-us+m1"]}, r"not in the test split: en-us\+m1"),
        ({"voices": ["klingon"]}, "klingon.*en-gb-scotland"),
        ({"voices": []}, "empty list"),
        ({"samples": 0}, "at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"min_digits": 4, "max_digits": 3}, "minimum <= maximum"),
        ({"min_digits": 0}, "minimum <= maximum"),
    ],
)
def test_a_wrong_request_is_refused_at_the_call(values: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SourceError, match=message):
        read_synthetic(**{"samples": 1, "seed": 0, "split": "test", **values})
