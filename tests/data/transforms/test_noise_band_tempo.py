import numpy as np
import pytest

from lora.data.transforms.band import telephone_band
from lora.data.transforms.noise import add_noise
from lora.data.transforms.signal import gain
from lora.data.transforms.tempo import speed
from lora.errors import AudioError, ConfigError
from lora.units import Wave


def tone(hertz: float, seconds: float = 1.0) -> Wave:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@pytest.mark.parametrize("hertz", [500.0, 1000.0, 3000.0])
def test_the_telephone_band_keeps_tones_inside_it(hertz: float) -> None:
    middle = slice(1000, 15_000)
    np.testing.assert_allclose(telephone_band(tone(hertz))[middle], tone(hertz)[middle], atol=0.01)


@pytest.mark.parametrize("hertz", [100.0, 4000.0, 6000.0])
def test_the_telephone_band_removes_tones_outside_it(hertz: float) -> None:
    assert rms(telephone_band(tone(hertz))[1000:15_000]) < 0.01 * rms(tone(hertz))


@pytest.mark.parametrize("length", [1, 100, 401, 16_000])
def test_the_telephone_band_keeps_length_and_type(length: int) -> None:
    out = telephone_band(np.ones(length, dtype=np.float32))
    assert (len(out), str(out.dtype)) == (length, "float32")


@pytest.mark.parametrize("color", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_has_the_requested_ratio(color: str, snr_db: float) -> None:
    wave = tone(440)
    noise = add_noise(wave, snr_db, np.random.default_rng(0), color) - wave  # type: ignore[arg-type]
    assert 20 * np.log10(rms(wave) / rms(noise)) == pytest.approx(snr_db, abs=0.01)


def test_pink_noise_has_equal_power_in_every_octave_and_white_noise_twice_as_much_in_the_next() -> None:
    wave = tone(440, 20.0)
    ratios = {}
    for color in ("white", "pink"):
        noise = add_noise(wave, 0.0, np.random.default_rng(0), color) - wave
        power = np.abs(np.fft.rfft(noise)) ** 2
        hertz = np.fft.rfftfreq(len(noise), 1 / 16_000)
        low, high = (power[(hertz >= edge) & (hertz < 2 * edge)].sum() for edge in (1000, 2000))
        ratios[color] = high / low
    assert ratios["pink"] == pytest.approx(1.0, abs=0.05)
    assert ratios["white"] == pytest.approx(2.0, abs=0.1)


def test_the_same_generator_state_gives_the_same_noise_and_another_seed_other_noise() -> None:
    first, again, other = (add_noise(tone(440), 10, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noise_under_silence_is_refused() -> None:
    with pytest.raises(AudioError, match="silent"):
        add_noise(np.zeros(100, dtype=np.float32), 10, np.random.default_rng(0))


def test_an_unknown_noise_color_is_refused() -> None:
    with pytest.raises(ConfigError, match="brown"):
        add_noise(tone(440), 10, np.random.default_rng(0), "brown")  # type: ignore[arg-type]


def test_double_speed_halves_the_length_and_doubles_the_frequency() -> None:
    fast = speed(tone(500), 2.0)
    assert len(fast) == 8000
    assert np.argmax(np.abs(np.fft.rfft(fast))) * 16_000 / len(fast) == pytest.approx(1000, abs=2)


def test_speed_one_changes_nothing() -> None:
    assert np.array_equal(speed(tone(500), 1.0), tone(500))


@pytest.mark.parametrize("factor", [0.0, 0.4, 2.1, float("nan")])
def test_a_speed_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.5 to 2"):
        speed(tone(500), factor)


def test_gain_of_minus_twenty_decibels_is_a_tenth() -> None:
    out = gain(np.array([1.0, -0.5], dtype=np.float32), -20.0)
    np.testing.assert_allclose(out, [0.1, -0.05], rtol=1e-6)
    assert out.dtype == np.float32


@pytest.mark.parametrize("change", [telephone_band, lambda wave: speed(wave, 1.1), lambda wave: gain(wave, 6)])
def test_the_input_is_left_as_it_is(change) -> None:  # type: ignore[no-untyped-def]
    wave = tone(440)
    change(wave)
    assert np.array_equal(wave, tone(440))
