from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import Utterance
from lora.data.transforms import KINDS, Augmenter, Pipeline, VoicePool, parse_transform, parse_transforms, rng_for
from lora.data.transforms.spec import transform_usages
from lora.errors import AudioError, ConfigError
from lora.units import Wave

RNG = np.random.default_rng(0)
VOICES = {name: (0.1 * RNG.standard_normal(8000)).astype(np.float32) for name in ("ann", "bob", "eve")}
UTTERANCES = [Utterance(f"u-{name}", "words", wave, name, 16_000) for name, wave in VOICES.items()]
POOL = VoicePool(UTTERANCES)
WAVE = VOICES["ann"]
EXAMPLES = [
    "noise:white:snr=5",
    "noise:pink:0-10",
    "noise:babble:snr=5:voices=2",
    "telephone",
    "radio",
    "band:low=200:high=900",
    "mulaw",
    "reverb:rt60=0.2",
    "speed:0.9-1.1",
    "pitch:-2-2",
    "clip:6",
    "level:-6",
    "drop-freq:count=2",
    "drop-chunk:count=2",
]


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "hum.wav", 0.5 * np.sin(0.3 * np.arange(4000)), 8000)
    soundfile.write(tmp_path / "deep" / "b.flac", 0.2 * RNG.standard_normal(3000), 16_000)
    (tmp_path / "readme.txt").write_text("not audio")
    return tmp_path


def test_every_kind_of_transform_has_an_example_here() -> None:
    assert {parse_transform(text).kind for text in EXAMPLES} | {"noise:folder", "reverb:folder"} == set(KINDS)


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_transform_changes_the_wave_leaves_its_input_and_repeats_itself(text: str) -> None:
    before = WAVE.copy()
    first = Pipeline([text], seed=1, voices=POOL).apply(WAVE, epoch=0, utterance_id="u-ann")
    again = Pipeline([text], seed=1, voices=POOL).apply(WAVE, epoch=0, utterance_id="u-ann")
    assert (first.dtype, first.ndim) == (np.float32, 1)
    assert np.array_equal(first, again)
    assert np.array_equal(WAVE, before)
    assert not np.array_equal(first, WAVE)
    assert np.isfinite(first).all()


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_text_of_a_transform_parses_to_the_same(text: str) -> None:
    transform = parse_transform(text)
    assert parse_transform(str(transform)) == transform


@pytest.mark.parametrize("change", [{"epoch": 1}, {"utterance_id": "u-bob"}])
def test_another_epoch_or_utterance_draws_anew(change: dict[str, object]) -> None:
    pipeline = Pipeline(["noise:white:snr=5"], seed=1)
    here = {"epoch": 0, "utterance_id": "u-ann"}
    assert not np.array_equal(pipeline.apply(WAVE, **here), pipeline.apply(WAVE, **{**here, **change}))  # type: ignore[arg-type]


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    pipeline = Pipeline(EXAMPLES, seed=1, voices=POOL)
    np.random.seed(0)
    first = pipeline.apply(WAVE, epoch=0, utterance_id="u-ann")
    untouched = np.random.random()
    np.random.seed(0)
    assert untouched == np.random.random()
    np.random.seed(7)
    assert np.array_equal(first, pipeline.apply(WAVE, epoch=0, utterance_id="u-ann"))


def test_a_generator_is_the_same_everywhere_and_ids_do_not_run_together() -> None:
    assert rng_for(42, 0, "u1").integers(10**9) == rng_for(42, 0, "u1").integers(10**9)
    draws = {rng_for(*key).integers(10**9) for key in [(42, 0, "u1"), (4, 20, "u1"), (42, 0, "u1", 1), (42, 1, "u1")]}
    assert len(draws) == 4


def test_babble_does_not_depend_on_the_order_of_the_rows() -> None:
    turned = VoicePool(UTTERANCES[::-1])
    one, other = (
        Pipeline(["noise:babble"], seed=3, voices=pool).apply(WAVE, epoch=0, utterance_id="u-ann")
        for pool in (POOL, turned)
    )
    assert np.array_equal(one, other)


def test_babble_is_made_of_other_speakers() -> None:
    own = [
        Utterance("u-1", "x", np.ones(100, np.float32), "ann"),
        Utterance("u-2", "x", np.ones(100, np.float32), "ann"),
    ]
    pool = VoicePool([*own, Utterance("u-3", "x", np.full(100, 0.5, np.float32), "bob")])
    assert {voice[0] for voice in pool.draw(20, "u-1", np.random.default_rng(0))} == {0.5}


def test_babble_without_another_voice_is_refused() -> None:
    pool = VoicePool([Utterance("u-1", "x", np.ones(100, np.float32))])
    with pytest.raises(ConfigError, match="no other voice"):
        pool.draw(1, "u-1", np.random.default_rng(0))


def test_babble_without_a_manifest_is_refused_when_the_pipeline_is_made() -> None:
    with pytest.raises(ConfigError, match="no voices"):
        Pipeline(["noise:babble"], seed=0)


@pytest.mark.parametrize("kind", ["noise:folder:snr=3", "reverb:folder"])
def test_sounds_come_from_a_folder(kind: str, sounds: Path) -> None:
    pipeline = Pipeline([f"{kind}:path={sounds}"], seed=0)
    outputs = {pipeline.apply(WAVE, epoch=epoch, utterance_id="u").tobytes() for epoch in range(8)}
    assert len(outputs) > 1
    assert WAVE.tobytes() not in outputs


def test_a_folder_that_is_missing_or_has_no_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Pipeline([f"noise:folder:path={tmp_path / 'none'}"], seed=0)
    with pytest.raises(ConfigError, match="no audio files"):
        Pipeline([f"noise:folder:path={tmp_path}"], seed=0)


def test_a_probability_applies_a_transform_to_that_share_of_utterances() -> None:
    pipeline = Pipeline(["level:-6:p=0.25"], seed=0)
    applied = [pipeline.apply(WAVE, epoch=0, utterance_id=f"u{number}") is not WAVE for number in range(1000)]
    assert sum(applied) == pytest.approx(250, abs=50)


def test_a_range_is_drawn_from_for_each_utterance() -> None:
    pipeline = Pipeline(["speed:0.9-1.1"], seed=0)
    lengths = [len(pipeline.apply(WAVE, epoch=0, utterance_id=f"u{number}")) for number in range(50)]
    assert 8000 / 1.1 - 1 <= min(lengths) < 7600
    assert 8400 < max(lengths) <= 8000 / 0.9 + 1


def test_augmented_audio_is_at_the_level_of_its_input() -> None:
    augmenter = Augmenter(["noise:white:snr=0", "telephone"], 0)
    assert rms(augmenter.augment(WAVE, epoch=0, utterance_id="u")) == pytest.approx(rms(WAVE), rel=1e-3)


def test_a_level_at_the_end_comes_after_that() -> None:
    augmenter = Augmenter(["noise:white:snr=0", "level:-20"], 0)
    assert rms(augmenter.augment(WAVE, epoch=0, utterance_id="u")) == pytest.approx(rms(WAVE) / 10, rel=1e-3)


def test_an_augmenter_whose_chance_leaves_a_clip_alone_gives_it_back_as_it_is() -> None:
    assert Augmenter(["telephone:p=0"], 0).augment(WAVE, epoch=0, utterance_id="u") is WAVE


def test_silence_cannot_be_augmented_with_noise() -> None:
    with pytest.raises(AudioError, match="silent"):
        Augmenter(["noise:white"], 0).augment(np.zeros(100, np.float32), epoch=0, utterance_id="u")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nois:white", "did you mean noise:white"),
        ("noise", "did you mean noise:white"),
        ("telefone", "did you mean telephone"),
        ("noise:white:snt=5", "did you mean snr"),
        ("noise:white:snr=loud", "expected a number"),
        ("noise:white:snr=99", "expected -20 to 60"),
        ("noise:white:snr=9-5", "low first"),
        ("noise:white:5:snr=5", "given twice"),
        ("telephone:5", "'5' is not understood"),
        ("noise:white:loud", "'loud' is not understood"),
        ("speed", "factor is missing"),
        ("mulaw:bits=7.5", "whole number"),
        ("level:-6:p=0.1-0.5", "expected one number"),
        ("noise:folder:snr=5", "path=FOLDER is missing"),
        ("telephone:path=/x", "takes no path"),
        ("", "unknown transform"),
    ],
)
def test_a_wrong_transform_is_refused_with_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_transform(text)
    assert message in str(error.value)


def test_all_wrong_transforms_are_listed_at_once_and_none_is_wrong_too() -> None:
    with pytest.raises(ConfigError) as error:
        parse_transforms(["nois", "telephone", "spee"])
    assert len(error.value.problems) == 2
    with pytest.raises(ConfigError, match="got none"):
        parse_transforms([])


def test_a_path_with_colons_and_negative_ranges_are_read() -> None:
    transform = parse_transform("noise:folder:-5-10:path=C:/noises:old")
    assert transform.path == Path("C:/noises:old")
    assert transform.range_of("snr") == (-5, 10)
    assert parse_transform("level:-12--3").range_of("decibels") == (-12, -3)


def test_every_usage_in_the_help_parses() -> None:
    for line in transform_usages():
        parse_transform(line.split()[0].replace("NUMBER", "1").replace("high=1", "high=1000"))
