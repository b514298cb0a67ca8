"""The recorder: pre-roll, the running take, its file on disk, level and voice activity.

Works block by block on one thread, that of the core. It knows neither keys nor models.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora.units import SAMPLE_RATE_HZ, Seconds, Wave
from lora_cli.levels import FLOOR_DB, Meter, to_db
from lora_cli.ports import Block
from lora_cli.session import Reason
from lora_cli.vad import FRAME, Endpoint, VoiceDetector
from lora_cli.wav import SAMPLE_BYTES, WavWriter

POST_ROLL_S: Seconds = 0.12
"""Kept after the stop: what is between the microphone and us when the key comes up was still spoken before it."""
MIN_TAKE_S: Seconds = 0.3


@dataclass
class Take:
    """A recording, running or finished.

    Attributes:
        started: clock time of the key press; the audio begins `pre_roll_s` earlier.
        speech_at: clock time at which the first speech frame had arrived, None before.
        stopped: clock time of the stop.
        dropped: blocks that came with news of lost samples.
    """

    id: str
    path: Path
    rate_hz: int
    started: float
    writer: WavWriter
    pre_roll_s: Seconds = 0.0
    speech_at: float | None = None
    stopped: float | None = None
    reason: Reason | None = None
    last_at: float = 0.0
    peak: int = 0
    clipped: int = 0
    dropped: int = 0
    pcm: bytearray = field(default_factory=bytearray)

    @property
    def seconds(self) -> Seconds:
        """Return the length so far."""
        return len(self.pcm) / SAMPLE_BYTES / self.rate_hz

    @property
    def peak_db(self) -> float:
        """Return the loudest sample so far."""
        return to_db(self.peak / 32_768) if self.peak else FLOOR_DB

    def faults(self) -> list[str]:
        """Return what is wrong with the recording, each as a sentence that says what to do."""
        found = []
        if self.clipped > max(8, len(self.pcm) // SAMPLE_BYTES // 2000):
            found.append("The recording clips: turn the microphone's level down, or move away from it.")
        if self.dropped:
            found.append(f"{self.dropped} gap(s) in the recording: the machine was too busy for all of it.")
        return found


@dataclass(frozen=True, slots=True)
class Pushed:
    """What one block brought: samples for the take, the end of speech, the end of the take."""

    added: bytes = b""
    speech_ended: bool = False
    finished: Take | None = None


class Recorder:
    """Turns blocks into takes.

    Args:
        detector: voice activity at 16 kHz; None leaves silence alone.
        pre_roll_s: audio kept from before the key press, while the microphone listens.
    """

    def __init__(
        self,
        detector: VoiceDetector | None,
        *,
        pre_roll_s: Seconds = 0.5,
        endpoint: Callable[[], Endpoint] = Endpoint,
        post_roll_s: Seconds = POST_ROLL_S,
    ) -> None:
        self.pre_roll_s, self.post_roll_s = pre_roll_s, post_roll_s
        self.meter = Meter()
        self.take: Take | None = None
        self.rate_hz = SAMPLE_RATE_HZ
        self._detector = detector
        self._endpoint = endpoint()
        self._ring: deque[Block] = deque()
        self._ring_samples = 0
        self._resampler: Any = None
        self._closing_samples: int | None = None

    @property
    def speech(self) -> bool:
        """Tell whether somebody speaks in the running take just now."""
        return self.take is not None and self._endpoint.armed and self._endpoint.silent_frames == 0

    def set_detector(self, detector: VoiceDetector) -> None:
        """Use a detector from now on; a running take is heard from its start."""
        self._detector = detector
        detector.reset()
        if self.take is not None:
            self._detect(self.take, bytes(self.take.pcm))

    def opened(self, rate_hz: int) -> None:
        """Note that a microphone was opened; older blocks are forgotten."""
        self.rate_hz = rate_hz
        self._ring.clear()
        self._ring_samples = 0
        self.meter = Meter()

    def start(self, take_id: str, path: Path, at: float) -> Take:
        """Begin a take with the pre-roll; its file exists when this returns.

        Raises:
            OSError: the file cannot be written.
        """
        take = Take(take_id, path, self.rate_hz, at, WavWriter(path, self.rate_hz))
        take.pre_roll_s = self._ring_samples / self.rate_hz
        self.take, self._closing_samples = take, None
        self._endpoint.reset()
        if self._detector is not None:
            self._detector.reset()
        self._resampler = None
        for block in self._ring:
            self._add(take, block)
        self._ring.clear()
        self._ring_samples = 0
        return take

    def push(self, block: Block) -> Pushed:
        """Take a block in."""
        self.meter.add(block.data)
        take = self.take
        if take is None:
            self._remember(block)
            return Pushed()
        was_ended = self._endpoint.ended
        self._add(take, block)
        finished = None
        if self._closing_samples is not None:
            self._closing_samples -= len(block.data) // SAMPLE_BYTES
            if self._closing_samples <= 0:
                finished = self.close_take()
        return Pushed(block.data, self._endpoint.ended and not was_ended, finished)

    def finish(self, reason: Reason, at: float) -> None:
        """Let the running take end once its post-roll is in."""
        if self.take is not None:
            self.take.stopped, self.take.reason = at, reason
            # After a second of silence nothing is on its way any more.
            self._closing_samples = 0 if reason == "silence" else round(self.post_roll_s * self.rate_hz)

    @property
    def closing(self) -> bool:
        """Tell whether a stopped take still waits for its post-roll."""
        return self.take is not None and self._closing_samples is not None

    def close_take(self) -> Take | None:
        """End the running take at once and return it."""
        take, self.take, self._closing_samples = self.take, None, None
        if take is not None:
            take.writer.close()
        return take

    def discard(self) -> Take | None:
        """Throw the running take and its file away."""
        take = self.close_take()
        if take is not None:
            take.path.unlink(missing_ok=True)
        return take

    def _remember(self, block: Block) -> None:
        self._ring.append(block)
        self._ring_samples += len(block.data) // SAMPLE_BYTES
        limit = round(self.pre_roll_s * self.rate_hz)
        while self._ring and self._ring_samples - len(self._ring[0].data) // SAMPLE_BYTES >= limit:
            self._ring_samples -= len(self._ring.popleft().data) // SAMPLE_BYTES

    def _add(self, take: Take, block: Block) -> None:
        take.writer.write(block.data)
        take.pcm += block.data
        take.dropped += block.lost
        samples = np.frombuffer(block.data, dtype="<i2")
        size = np.abs(samples.astype(np.int32))
        take.peak = max(take.peak, int(size.max(initial=0)))
        take.clipped += int(np.count_nonzero(size >= 32_760))
        take.last_at = block.at
        if self._detector is not None:
            self._detect(take, block.data)

    def _detect(self, take: Take, data: bytes) -> None:
        assert self._detector is not None
        samples = np.frombuffer(data, dtype="<i2")
        for probability in self._detector.feed(self._at_16_khz(samples)):
            self._endpoint.add(probability)
        if take.speech_at is None and self._endpoint.first_speech_frame is not None:
            # The end of that frame, counted back from the newest block.
            behind = (self._endpoint.frames - 1 - self._endpoint.first_speech_frame) * FRAME / SAMPLE_RATE_HZ
            take.speech_at = take.last_at - behind

    def _at_16_khz(self, samples: np.ndarray[Any, Any]) -> Wave:
        wave = samples.astype(np.float32) / np.float32(32_768)
        if self.rate_hz == SAMPLE_RATE_HZ:
            return wave
        if self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(self.rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        return np.asarray(self._resampler.resample_chunk(wave), dtype=np.float32)
