"""Examples: every fault at once, long clips left out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.config import PreprocessConfig
from lora.data.manifest import Utterance
from lora.data.wave_store import WaveStore
from lora.errors import AudioError, ManifestError
from lora.model.load import Bundle
from lora.training.examples import build_examples
from lora.units import Wave

pytestmark = pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)


def utterance(number: int, wave: Wave | Path, text: str = "one two") -> Utterance:
    return Utterance(f"u{number}", text, wave, place=f"train.jsonl:{number}")


def test_an_example_has_the_prepared_wave_and_the_tokens(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    [example] = build_examples(bundle, [utterance(1, 3 * make_wave(8_000, 1))], WaveStore(PreprocessConfig()))
    assert np.sqrt(np.mean(example.wave**2)) == pytest.approx(0.075, rel=1e-3)
    assert bundle.tokenizer.decode(example.token_ids) == "one two"
    assert (example.id, example.text) == ("u1", "one two")


def test_audio_and_text_faults_of_all_rows_come_together(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("this is not audio")
    rows = [
        utterance(1, np.full(8_000, np.nan, dtype=np.float32)),
        utterance(2, make_wave(8_000, 1)),
        utterance(3, make_wave(8_000, 2), text="one </s>"),
        utterance(4, tmp_path / "text.wav"),
        utterance(5, make_wave(100, 3)),
    ]
    with pytest.raises(ManifestError) as caught:
        build_examples(bundle, rows, WaveStore(PreprocessConfig()))
    faults = caught.value.problems
    assert [fault.split(":")[1] for fault in faults] == ["1", "3", "4", "5"]
    assert all(
        word in fault for word, fault in zip(("NaN", "end token", "cannot be decoded", "0.006 s"), faults, strict=True)
    )


def test_a_long_clip_is_left_out_whatever_its_text(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    rows = [utterance(1, make_wave(16_000, 1)), utterance(2, make_wave(16_001, 2), text="one " * 500)]
    assert [row.id for row in build_examples(bundle, rows, WaveStore(PreprocessConfig()), max_seconds=1.0)] == ["u1"]


def test_a_set_beyond_the_memory_is_checked_by_headers_and_its_samples_when_they_are_used(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    for name, wave in (("good", make_wave(8_000, 1)), ("silent", np.zeros(8_000, dtype=np.float32))):
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000)
    (tmp_path / "text.wav").write_text("this is not audio")
    rows = [utterance(number, tmp_path / f"{name}.wav") for number, name in enumerate(("good", "silent"), start=1)]
    store = WaveStore(PreprocessConfig(), memory_bytes=8_000 * 4)
    good, silent = build_examples(bundle, rows, store, decode_all=False)
    assert (good.num_samples, silent.num_samples) == (8_000, 8_000)
    assert len(good.wave) == 8_000
    with pytest.raises(AudioError, match=r"train\.jsonl:2: silence"):
        _ = silent.wave
    with pytest.raises(ManifestError) as caught:
        build_examples(
            bundle,
            [*rows, utterance(3, tmp_path / "text.wav")],
            WaveStore(PreprocessConfig(), memory_bytes=8_000 * 4),
            decode_all=False,
        )
    assert ["text.wav: cannot be decoded" in problem for problem in caught.value.problems] == [True]
    with pytest.raises(ManifestError, match="1 fault") as caught:
        build_examples(bundle, rows, WaveStore(PreprocessConfig()), decode_all=False)
    assert "silence" in caught.value.problems[0]
