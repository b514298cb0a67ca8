import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from lora.data import espeak_worker, synthesis
from lora.data.synthesis import ACCENTS, VARIANTS, VOICES, SpeechRequest, synthesize
from lora.errors import InputError, SetupError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="speech needs fork")

SOURCE = Path(synthesis.__file__).resolve().parents[2]
# f2, f3, f5 and victor are the breathy voices, whose noise comes from a random number generator.
MIXED = [SpeechRequest("three seven one", f"{accent}+{variant}", 160, 60) for accent, variant in
         (("en-us", "f2"), ("en", "m1"), ("en-gb-scotland", "f3"), ("en-029", "victor"), ("en-us", "f5"))]  # fmt: skip


def test_speech_is_sixteen_kilohertz_float32_of_a_likely_length_and_level() -> None:
    (wave,) = synthesize([SpeechRequest("three seven one")])
    assert (str(wave.dtype), wave.ndim) == ("float32", 1)
    assert 0.6 < len(wave) / 16_000 < 1.5
    assert 0.02 < float(np.sqrt(np.mean(np.square(wave)))) < 0.5


def test_the_same_request_gives_the_same_bytes_in_any_order() -> None:
    forward = synthesize([*MIXED, *MIXED])
    backward = synthesize(MIXED[::-1])[::-1]
    for first, again, other in zip(forward[:5], forward[5:], backward, strict=True):
        assert first.tobytes() == again.tobytes() == other.tobytes()


def test_another_process_speaks_the_same_bytes() -> None:
    code = (
        "from hashlib import sha256; from lora.data.synthesis import SpeechRequest, synthesize\n"
        "print(sha256(synthesize([SpeechRequest('four nine', 'en-us+f2')])[0].tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    (wave,) = synthesize([SpeechRequest("four nine", "en-us+f2")])
    assert other.stdout.strip() == sha256(wave.tobytes()).hexdigest()


def test_every_accent_and_every_timbre_speaks_and_every_timbre_sounds_different() -> None:
    timbres = [SpeechRequest("four five", f"en-us+{variant}") for variant in VARIANTS]
    accents = [SpeechRequest("four five", accent) for accent in ACCENTS]
    waves = synthesize(timbres + accents)
    assert all(len(wave) > 4000 and float(np.abs(wave).max()) > 0.1 for wave in waves)
    assert len({sha256(wave.tobytes()).digest() for wave in waves[: len(timbres)]}) == len(VARIANTS)


def test_every_timbre_exists_in_the_data_of_espeak() -> None:
    _, data = synthesis._find_espeak()
    assert set(VARIANTS) <= {path.name for path in (Path(data) / "voices" / "!v").iterdir()}
    assert len(VOICES) == len(ACCENTS) * len(VARIANTS) == len(set(VOICES))


def test_a_faster_rate_gives_shorter_speech_and_another_pitch_other_sound() -> None:
    slow, fast, high = synthesize(
        [SpeechRequest("one two three", rate_wpm=120), SpeechRequest("one two three", rate_wpm=240),
         SpeechRequest("one two three", rate_wpm=120, pitch=90)]
    )  # fmt: skip
    assert len(fast) < 0.7 * len(slow)
    assert high.tobytes() != slow.tobytes()


@pytest.mark.parametrize("voice", ["en-gb", "klingon", "en-us+nobody", "en-us+", "+f3", ""])
def test_an_unknown_voice_is_refused_with_the_right_ones(voice: str) -> None:
    with pytest.raises(InputError, match=r"unknown voice .* en-gb-scotland.* f3"):
        SpeechRequest("one", voice)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"text": " "}, "text"), ({"text": "a\0b"}, "NUL"), ({"rate_wpm": 79}, "80 to 450"), ({"pitch": 100}, "0 to 99")],
)
def test_values_out_of_range_are_refused(values: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        SpeechRequest(**{"text": "one", **values})


def test_a_voice_that_espeak_rejects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "ACCENTS", ("en-us", "en-gb"))
    with pytest.raises(SetupError, match=r"clip 2 of 2.*rejected the voice 'en-gb'"):
        synthesize([SpeechRequest("one"), SpeechRequest("one", "en-gb")])


def test_a_clip_without_sound_is_named() -> None:
    with pytest.raises(SetupError, match=r"clip 1 of 1.*no sound"):
        synthesize([SpeechRequest(",")])


def test_a_crash_of_the_speaking_process_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import sys\nsys.stdin.read()\nsys.exit('out of breath')\n")
    monkeypatch.setattr(espeak_worker, "__file__", str(worker))
    with pytest.raises(SetupError, match=r"status 1 after 0 of 1 clips \(out of breath\)"):
        synthesize([SpeechRequest("one")])


def test_missing_voice_data_is_an_error_and_not_an_exit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library, _ = synthesis._find_espeak()
    monkeypatch.setattr(synthesis, "_find_espeak", lambda: (library, str(tmp_path)))
    with pytest.raises(SetupError, match="0 of 1 clips"):
        synthesize([SpeechRequest("one")])


def test_voice_data_in_a_very_long_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library, data = synthesis._find_espeak()
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(data, target_is_directory=True)
    expected = synthesize([SpeechRequest("one")])[0]
    monkeypatch.setattr(synthesis, "_find_espeak", lambda: (library, str(deep / "espeak-ng-data")))
    assert np.array_equal(synthesize([SpeechRequest("one")])[0], expected)


def test_no_requests_give_no_speech() -> None:
    assert synthesize([]) == []
