"""Reverberation: a shoebox room by the image method, or a recorded impulse response."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.data.transforms.signal import Samples, convolve
from lora.errors import AudioError, ConfigError
from lora.units import SAMPLE_RATE_HZ, Seconds, Wave

SOUND_M_PER_S = 343.0
ROOM_LOW_M, ROOM_HIGH_M = (4.0, 3.0, 2.5), (9.0, 7.0, 3.5)
WALL_MARGIN_M = 0.4
MAX_IMPULSE_SECONDS = 3.0
MAX_DRAWS = 10_000


@dataclass(frozen=True)
class Room:
    """A shoebox with a talker and a microphone in it; all in metres from one corner."""

    size: tuple[float, float, float]
    talker: tuple[float, float, float]
    microphone: tuple[float, float, float]


def draw_room(distance_m: float, rng: np.random.Generator) -> Room:
    """Draw a living or meeting room with talker and microphone `distance_m` apart, away from the walls.

    Raises:
        ConfigError: the two do not fit into any room of this kind.
    """
    for _ in range(MAX_DRAWS):
        size = rng.uniform(ROOM_LOW_M, ROOM_HIGH_M)
        microphone = rng.uniform(WALL_MARGIN_M, size - WALL_MARGIN_M)
        direction = rng.standard_normal(3)
        talker = microphone + distance_m * direction / np.linalg.norm(direction)
        if np.all(talker >= WALL_MARGIN_M) and np.all(talker <= size - WALL_MARGIN_M):
            return Room(_triple(size), _triple(talker), _triple(microphone))
    raise ConfigError(f"reverb: distance of {distance_m} m does not fit into a room; expected 0.2 to 4 m.")


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def room_impulse(room: Room, rt60_s: Seconds) -> Samples:
    """Return the impulse response of `room`; the direct sound is 1 at sample 0.

    The image method (Allen and Berkley, JASA 65, 1979): every reflection is the talker mirrored in the walls, its
    delay rounded to a sample. A wall turns the sign, so that echoes do not pile up at low frequencies (Lehmann and
    Johansson, JASA 124, 2008). All walls absorb alike, by Eyring's formula for `rt60_s`; its field is diffuse and a
    shoebox's is not, so the measured decay is about a fifth longer.
    """
    size = np.asarray(room.size)
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    # Eyring: rt60 = 24 ln(10) V / (c S (-ln(1 - absorption))); an echo keeps sqrt(1 - absorption) a wall.
    log_kept = -12 * np.log(10) * size.prod() / (SOUND_M_PER_S * surface * rt60_s)
    reach = SOUND_M_PER_S * rt60_s
    axes = [_images(*axis, reach) for axis in zip(room.size, room.talker, room.microphone, strict=True)]
    (x, x_walls), (y, y_walls), (z, z_walls) = axes
    squared = np.square(x)[:, None, None] + np.square(y)[None, :, None] + np.square(z)[None, None, :]
    near = squared <= reach**2
    distance = np.sqrt(squared[near])
    walls = (x_walls[:, None, None] + y_walls[None, :, None] + z_walls[None, None, :])[near]
    direct = float(distance.min())
    delay = np.rint((distance - direct) * (SAMPLE_RATE_HZ / SOUND_M_PER_S)).astype(np.intp)
    heights = direct / distance * np.exp(log_kept * walls) * np.where(walls % 2, -1, 1)
    return np.asarray(np.bincount(delay, weights=heights), dtype=np.float64)


def _images(size: float, talker: float, microphone: float, reach: float) -> tuple[Samples, Samples]:
    """Return along one axis how far the talker's images are from the microphone, and how often each was reflected."""
    turns = np.arange(-int(reach / (2 * size)) - 1, int(reach / (2 * size)) + 2)
    straight = 2 * turns * size + talker - microphone
    mirrored = 2 * turns * size - talker - microphone
    walls = np.concatenate([np.abs(2 * turns), np.abs(2 * turns - 1)])
    return np.concatenate([straight, mirrored]), walls.astype(np.float64)


def reverberate(wave: Wave, impulse: Samples) -> Wave:
    """Return `wave` in the room of `impulse`; length and timing of the direct sound stay as they are."""
    return convolve(wave, impulse).astype(np.float32)


def align_impulse(recorded: Wave, name: str) -> Samples:
    """Return a recorded impulse response from its highest peak on, which becomes 1; at most three seconds.

    Raises:
        AudioError: the recording is silent.
    """
    peak = int(np.argmax(np.abs(recorded)))
    if recorded[peak] == 0:
        raise AudioError(f"{name}: the impulse response is silent. Remove the file.")
    kept = recorded[peak : peak + int(MAX_IMPULSE_SECONDS * SAMPLE_RATE_HZ)]
    return np.asarray(kept / recorded[peak], dtype=np.float64)
