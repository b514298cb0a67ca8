import numpy as np
import pytest

from lora.data.transforms.band import band, clip, mu_law
from lora.data.transforms.drop import drop_chunks, drop_frequencies
from lora.data.transforms.noise import babble, fill, mix
from lora.data.transforms.signal import convolve, fast_length, match_level
from lora.data.transforms.tempo import pitch, stretch
from lora.errors import AudioError, ConfigError
from lora.units import Wave


def tone(hertz: float, seconds: float = 1.0) -> Wave:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def pitch_of(wave: Wave) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * 16_000 / len(wave))


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@pytest.mark.parametrize(("length", "fast"), [(1, 1), (7, 8), (11, 12), (17, 18), (121, 125), (16_001, 16_200)])
def test_the_next_fast_length_is_a_product_of_two_three_and_five(length: int, fast: int) -> None:
    assert fast_length(length) == fast


def test_convolution_by_fft_equals_the_direct_one() -> None:
    rng = np.random.default_rng(0)
    wave, kernel = rng.standard_normal(1000).astype(np.float32), rng.standard_normal(41)
    np.testing.assert_allclose(convolve(wave, kernel), np.convolve(wave, kernel)[:1000], atol=1e-4)
    np.testing.assert_allclose(convolve(wave, kernel, delay=20), np.convolve(wave, kernel)[20:1020], atol=1e-4)


@pytest.mark.parametrize("semitones", [-12.0, -2.0, 3.0, 12.0])
def test_pitch_moves_the_tone_and_keeps_the_length(semitones: float) -> None:
    moved = pitch(tone(440), semitones)
    assert len(moved) == 16_000
    assert pitch_of(moved) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0])
def test_stretching_keeps_the_tone_and_its_level_and_changes_the_length(factor: float) -> None:
    longer = stretch(tone(440), factor)
    assert len(longer) == round(16_000 * factor)
    assert pitch_of(longer) == pytest.approx(440, rel=0.02)
    assert rms(longer) == pytest.approx(rms(tone(440)), rel=0.05)


def test_stretching_moves_a_click_to_its_new_time() -> None:
    wave = np.full(16_000, 1e-3, dtype=np.float32)
    wave[8000:8160] = 0.5
    assert np.argmax(np.abs(stretch(wave, 1.5))) == pytest.approx(12_000, abs=600)


@pytest.mark.parametrize("length", [1, 100, 1023, 5000])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_any_length_can_be_stretched(length: int, factor: float) -> None:
    assert len(stretch(np.ones(length, dtype=np.float32), factor)) == round(length * factor)


def test_a_pitch_beyond_an_octave_is_refused_and_none_changes_nothing() -> None:
    with pytest.raises(ConfigError, match="semitones"):
        pitch(tone(440), 13)
    assert pitch(tone(440), 0.0) is not None
    assert np.array_equal(pitch(tone(440), 0.0), tone(440))


def test_a_band_keeps_what_is_inside_it() -> None:
    both = tone(1000) + tone(5000)
    np.testing.assert_allclose(band(both, 500, 2000)[1000:15_000], tone(1000)[1000:15_000], atol=0.01)


def test_a_band_with_its_edges_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="2000 to 500"):
        band(tone(440), 2000, 500)


def test_mu_law_has_at_most_256_levels_and_finer_ones_near_zero() -> None:
    coded = mu_law(np.linspace(-1, 1, 100_001).astype(np.float32))
    levels = np.unique(coded)
    assert len(levels) == 256
    steps = np.diff(levels)
    assert steps[0] > 20 * steps[len(steps) // 2]
    assert (levels[0], levels[-1]) == pytest.approx((-1, 1))


def test_mu_law_follows_the_formula() -> None:
    # ln(1 + 255 * 0.1) / ln 256 = 0.590910; code round((1.590910 / 2) * 255) = 203; back: 203 / 255 * 2 - 1 = 0.592157,
    # (256 ** 0.592157 - 1) / 255 = 0.100675.
    assert mu_law(np.array([0.1], dtype=np.float32))[0] == pytest.approx(0.100675, abs=1e-6)


def test_clipping_cuts_the_peaks_and_keeps_the_highest() -> None:
    wave = np.array([0.1, 0.4, -0.8], dtype=np.float32)
    np.testing.assert_allclose(clip(wave, 20 * np.log10(4)), [0.4, 0.8, -0.8], rtol=1e-6)


def test_matching_a_level_gives_the_rms_of_the_reference_unless_a_peak_would_clip() -> None:
    assert rms(match_level(0.1 * tone(300), tone(440), peak_limit=0.99)) == pytest.approx(rms(tone(440)))
    spiky = np.zeros(1000, dtype=np.float32)
    spiky[0] = 0.01
    assert np.abs(match_level(spiky, tone(440), peak_limit=0.99)).max() == pytest.approx(0.99)


def test_mixed_noise_lies_under_the_voice_by_the_ratio() -> None:
    noise = mix(tone(440), tone(3000), 6.0) - tone(440)
    assert 20 * np.log10(rms(tone(440)) / rms(noise)) == pytest.approx(6.0, abs=0.01)


def test_silent_noise_is_refused() -> None:
    with pytest.raises(AudioError, match="silent"):
        mix(tone(440), np.zeros(16_000), 6.0)


def test_noise_that_is_too_short_goes_round() -> None:
    out = fill(np.array([1, 2, 3], dtype=np.float32), 7, np.random.default_rng(0))
    steps = (np.diff(out) % 3).tolist()
    assert (len(out), steps) == (7, [1.0] * 6)


def test_voices_of_different_level_are_equally_loud_in_babble() -> None:
    mixed = babble([tone(500), 0.01 * tone(3000)], 16_000, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(mixed))
    assert spectrum[500] == pytest.approx(spectrum[3000], rel=0.01)


def test_a_dropped_band_leaves_less_power_and_the_length_as_it_is() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(16_000).astype(np.float32)
    out = drop_frequencies(noise, 1, 0.1, rng)
    power = np.abs(np.fft.rfft(out)) ** 2 / np.abs(np.fft.rfft(noise)) ** 2
    assert len(out) == 16_000
    # Half of a band of 2 * 0.1 is empty: a tenth of the spectrum, or part of that at an edge.
    assert 0.04 < np.mean(power < 1e-3) < 0.11
    assert np.median(power) == pytest.approx(1, abs=1e-3)


def test_no_band_and_no_chunk_change_nothing() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(drop_frequencies(tone(440), 0, 0.05, rng), tone(440), atol=1e-5)
    assert np.array_equal(drop_chunks(tone(440), 0, (10, 20), rng), tone(440))


def test_dropped_chunks_are_silent_and_have_the_length_asked_for() -> None:
    wave = np.ones(16_000, dtype=np.float32)
    out = drop_chunks(wave, 1, (100, 100), np.random.default_rng(0))
    silent = np.flatnonzero(out == 0)
    assert len(silent) == 1600
    assert silent[-1] - silent[0] == 1599


def test_chunks_take_at_most_half_of_a_clip() -> None:
    out = drop_chunks(np.ones(1000, dtype=np.float32), 50, (60, 60), np.random.default_rng(0))
    assert np.count_nonzero(out == 0) <= 500
