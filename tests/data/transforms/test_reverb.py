import numpy as np
import pytest

from lora.data.transforms.reverb import Room, align_impulse, draw_room, reverberate, room_impulse
from lora.errors import AudioError, ConfigError

ROOM = Room(size=(6.0, 5.0, 3.0), talker=(2.0, 2.0, 1.5), microphone=(4.0, 3.0, 1.2))


def seconds_to_fall(impulse: np.ndarray, decibels: float) -> float:
    """Return when the energy that is still to come has fallen by `decibels` (Schroeder's backward integral)."""
    left = np.cumsum(np.square(impulse)[::-1])[::-1]
    return float(np.argmax(left < left[0] * 10 ** (-decibels / 10))) / 16_000


def test_the_direct_sound_is_one_at_the_first_sample() -> None:
    impulse = room_impulse(ROOM, 0.3)
    assert impulse[0] == pytest.approx(1.0)


def test_the_first_reflection_has_the_delay_and_the_distance_of_the_mirrored_talker() -> None:
    # Talker and microphone 1 m apart, 1 m above the floor, everything else far away: the floor's echo goes
    # 2 * sqrt(0.5^2 + 1^2) = 2.236 m, so it comes (2.236 - 1) / 343 s = 57.7 samples after the direct sound.
    room = Room(size=(100.0, 100.0, 100.0), talker=(50.0, 50.0, 1.0), microphone=(51.0, 50.0, 1.0))
    impulse = room_impulse(room, 0.2)
    later = np.flatnonzero(impulse)[1]
    assert later == 58
    # In a room of 100 m a decay of 0.2 s needs walls that keep almost nothing: 1 / 2.236 is what distance leaves.
    log_kept = -12 * np.log(10) * 1e6 / (343 * 6e4 * 0.2)
    assert impulse[later] == pytest.approx(-np.exp(log_kept) / np.sqrt(5), rel=1e-6)


@pytest.mark.parametrize("rt60", [0.3, 0.6, 1.0])
def test_the_sound_decays_in_about_the_time_asked_for(rt60: float) -> None:
    impulse = room_impulse(ROOM, rt60)
    # From -5 to -35 dB, times two, as ISO 3382 measures (T30). A shoebox is not the diffuse field of the formula.
    measured = 2 * (seconds_to_fall(impulse, 35) - seconds_to_fall(impulse, 5))
    assert measured == pytest.approx(rt60, rel=0.3)


def test_a_drawn_room_has_the_distance_and_holds_both_away_from_the_walls() -> None:
    rng = np.random.default_rng(0)
    for distance in (0.2, 1.0, 3.0):
        room = draw_room(distance, rng)
        assert np.linalg.norm(np.subtract(room.talker, room.microphone)) == pytest.approx(distance)
        for place in (room.talker, room.microphone):
            assert np.all(np.asarray(place) >= 0.4)
            assert np.all(np.asarray(room.size) - place >= 0.4)


def test_a_distance_that_no_room_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="distance"):
        draw_room(20.0, np.random.default_rng(0))


def test_an_echo_of_half_the_height_after_three_samples_is_added_and_the_length_stays() -> None:
    wave = np.array([1, 0, 0, 0, 2], dtype=np.float32)
    np.testing.assert_allclose(reverberate(wave, np.array([1, 0, 0, 0.5])), [1, 0, 0, 0.5, 2], atol=1e-6)


def test_a_recorded_impulse_starts_at_its_peak_which_becomes_one() -> None:
    recorded = np.array([0, 0.1, -0.5, 0.25], dtype=np.float32)
    np.testing.assert_allclose(align_impulse(recorded, "room.wav"), [1, -0.5])


def test_a_silent_impulse_is_refused_by_name() -> None:
    with pytest.raises(AudioError, match=r"room\.wav"):
        align_impulse(np.zeros(10, dtype=np.float32), "room.wav")
