"""Prepared waveforms that are read when they are needed, by threads ahead of the model."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from lora.data.audio import wave_sha256
from lora.data.batches import longest_first
from lora.data.sources.parallel import default_workers
from lora.units import SAMPLE_RATE_HZ, Wave

BATCHES_AHEAD = 2
SAMPLES_AHEAD = 320 * SAMPLE_RATE_HZ
"""Two evaluation batches of the usual size: 20 MB."""

R = TypeVar("R")


class LazyWave:
    """A prepared waveform by its source; it knows its length without being read, and its content once it was.

    Args:
        read: decodes and prepares it; called from threads too.
        num_samples: its length, as far as its source tells.
        is_exact: False where the length may be out by a little until the first reading.
        learn: told once, with the wave, after the first reading of one whose content was not known.
        known_sketch: `lora.data.fingerprint.sketch_wave` of it, of a wave store's waves alone.
    """

    __slots__ = ("_learn", "_read", "is_exact", "known_sha256", "known_sketch", "num_samples")

    def __init__(
        self,
        read: Callable[[], Wave],
        num_samples: int,
        known_sha256: str | None = None,
        *,
        is_exact: bool = True,
        learn: Callable[["LazyWave", Wave], None] | None = None,
        known_sketch: bytes | None = None,
    ) -> None:
        self._read = read
        self._learn = learn
        self.num_samples = num_samples
        self.known_sha256 = known_sha256
        self.known_sketch = known_sketch
        self.is_exact = is_exact

    def load(self) -> Wave:
        """Return the wave.

        Raises:
            AudioError: it cannot be decoded or used.
        """
        wave = self._read()
        if self.known_sha256 is None:
            self.num_samples, self.is_exact = len(wave), True
            self.known_sha256 = wave_sha256(wave)
            if self._learn is not None:
                self._learn(self, wave)
        return wave

    def held(self) -> "LazyWave":
        """Return the same with the wave in memory."""
        wave = self.load()
        return LazyWave(lambda: wave, self.num_samples, self.known_sha256, known_sketch=self.known_sketch)


Audio = Wave | LazyWave


def load_wave(audio: Audio) -> Wave:
    """Return the wave, reading it where it is not in memory."""
    return audio.load() if isinstance(audio, LazyWave) else audio


def num_samples_of(audio: Audio) -> int:
    """Return the wave's length without reading it."""
    return audio.num_samples if isinstance(audio, LazyWave) else len(audio)


def work_ahead(batches: Iterable[Sequence[Callable[[], R]]], *, ahead: int = BATCHES_AHEAD) -> Generator[list[R]]:
    """Yield each batch's results in order, while threads work on the next `ahead` batches.

    What a piece of work raises comes where its result would have come.
    """
    waiting: deque[list[Future[R]]] = deque()
    pool = ThreadPoolExecutor(default_workers(), thread_name_prefix="audio")
    try:
        for batch in batches:
            waiting.append([pool.submit(work) for work in batch])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class WavesAhead:
    """Waves by index, read by threads ahead of a reader that takes the longest first, whatever its batches are.

    A context manager: leaving it stops the threads.
    """

    def __init__(self, audios: Sequence[Audio], *, samples_ahead: int = SAMPLES_AHEAD) -> None:
        self._audios = audios
        # In memory already, a wave needs no thread: the voice app transcribes one at a time.
        lengths = [num_samples_of(audio) for audio in audios]
        self._left = deque(index for index in longest_first(lengths) if isinstance(audios[index], LazyWave))
        self._coming: dict[int, Future[Wave]] = {}
        self._samples_ahead = samples_ahead
        self._samples_coming = 0
        self._pool = ThreadPoolExecutor(default_workers(), thread_name_prefix="audio") if self._left else None

    def __enter__(self) -> "WavesAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __getitem__(self, index: int) -> Wave:
        self._send()
        future = self._coming.pop(index, None)
        if future is None:
            return load_wave(self._audios[index])
        self._samples_coming -= num_samples_of(self._audios[index])
        return future.result()

    def _send(self) -> None:
        while self._pool is not None and self._left and self._samples_coming < self._samples_ahead:
            index = self._left.popleft()
            self._samples_coming += num_samples_of(self._audios[index])
            self._coming[index] = self._pool.submit(load_wave, self._audios[index])
