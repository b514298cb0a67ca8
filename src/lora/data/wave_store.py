"""The audio of a run: checked by headers up front, decoded in threads, the latest kept in memory within a bound.

What was learnt of a file by decoding it (its length, its content's hash at 16 kHz and its sketch) is kept on disk under
the hash of the file's bytes, so that a second run need not decode anything before it starts. Reading and hashing a file
costs a small part of decoding it; its size and time of change can stay the same when it is replaced.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import soxr

from lora.caches import name_damage
from lora.config import PreprocessConfig
from lora.data.audio import check_prepared_length, read_header
from lora.data.fingerprint import SKETCH_BYTES, sketch_wave
from lora.data.manifest import InlineAudio, Utterance
from lora.data.sources.parallel import default_workers
from lora.data.waves import LazyWave
from lora.errors import AudioError, InputError
from lora.files import RecordFile, sha256_bytes, sha256_file, to_json, writing
from lora.units import SAMPLE_RATE_HZ, Wave

DEFAULT_MEMORY_BYTES = 2**30
"""4.6 hours of audio."""
HEADERS_AT_ONCE = 256
FACTS_AT_ONCE = 64
FACTS_VERSION = 3
SAMPLE_BYTES = 4
DECODERS = (soundfile.__libsndfile_version__, soxr.__libsoxr_version__)

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(title, total) -> a block in which the work done is told."""


def no_progress(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda count: None)


class WaveStore:
    """Gives utterances' prepared waves when they are asked for.

    Args:
        memory_bytes: most audio that stays in memory for the next time; the longest unused goes first.
        facts: folder of what earlier runs have learnt; without it nothing is kept. Nothing is written there before
            the first `flush`: a run that is refused leaves nothing behind.
    """

    def __init__(
        self,
        preprocess: PreprocessConfig,
        *,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        facts: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.preprocess = preprocess
        self.memory_bytes = memory_bytes
        self._progress = progress
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Wave] = OrderedDict()
        self._kept_bytes = 0
        self._keeps = True
        name = f"waves-{FACTS_VERSION}.index"
        self._file = None if facts is None else RecordFile(facts / name, f"32sQ32s{SKETCH_BYTES}s")
        self._is_damaged = False
        self._facts: dict[bytes, tuple[int, bytes, bytes]] = {key: tuple(fact) for key, *fact in self._read()}
        self._new: list[tuple[bytes, int, bytes, bytes]] = []
        self._may_write = False

    def measure(self, utterances: Sequence[Utterance]) -> list[LazyWave | AudioError]:
        """Return each utterance's wave, unread, or what its header says against it.

        A clip whose wave was read by an earlier run is known to be sound.
        """
        parts = [utterances[start : start + HEADERS_AT_ONCE] for start in range(0, len(utterances), HEADERS_AT_ONCE)]
        measured: list[LazyWave | AudioError] = []
        with ThreadPoolExecutor(default_workers()) as pool:
            for part in pool.map(lambda part: [self._measure(utterance) for utterance in part], parts):
                measured += part
        return measured

    def decode(self, waves: Sequence[LazyWave], title: str) -> list[AudioError | None]:
        """Read the waves whose content is not known, and return what is wrong with each; none stays in memory."""
        unknown = [number for number, wave in enumerate(waves) if wave.known_sha256 is None]
        faults: list[AudioError | None] = [None] * len(waves)
        if not unknown:
            return faults
        keeps, self._keeps = self._keeps, False
        with self._progress(title, len(unknown)) as advance, ThreadPoolExecutor(default_workers()) as pool:
            for number, fault in zip(unknown, pool.map(lambda number: _fault_of(waves[number]), unknown), strict=True):
                faults[number] = fault
                advance(1)
        self._keeps = keeps
        return faults

    def release(self) -> None:
        """Keep no wave in memory from now on: for a caller that needs each once."""
        with self._lock:
            self._keeps = False
            self._kept.clear()
            self._kept_bytes = 0

    def fits(self, waves: Sequence[LazyWave]) -> bool:
        """Tell whether the waves whose content is not known are together no more than `memory_bytes`."""
        unknown = sum(wave.num_samples for wave in waves if wave.known_sha256 is None)
        return unknown * SAMPLE_BYTES <= self.memory_bytes

    def flush(self) -> None:
        """Write down what was learnt, and from now on what will be."""
        with self._lock:
            self._may_write = True
            new, self._new = self._new, []
            if self._file is not None and new:
                with writing(self._file.path):
                    if self._is_damaged:
                        self._file.path.unlink(missing_ok=True)
                        self._is_damaged = False
                    self._file.append(new)

    def _read(self) -> list[tuple[Any, ...]]:
        try:
            return [] if self._file is None else self._file.read()
        except InputError as error:
            name_damage(error.message)
            self._is_damaged = True
            return []

    def _measure(self, utterance: Utterance) -> LazyWave | AudioError:
        try:
            key = self._key_of(utterance)
            if key is not None and key in self._facts:
                length, digest, sketch = self._facts[key]
                return LazyWave(partial(self._load, utterance, key), length, digest.hex(), known_sketch=sketch)
            num_samples, rate, is_exact = _header_of(utterance)
            name = utterance.place or utterance.id
            length = check_prepared_length(num_samples, rate, self.preprocess, name=name)
        except AudioError as error:
            return error
        learn = partial(self._learn, key)
        return LazyWave(partial(self._load, utterance, key), length, is_exact=is_exact, learn=learn)

    def _key_of(self, utterance: Utterance) -> bytes | None:
        """Return what the source is known by, `None` for a wave in memory."""
        audio = utterance.audio
        if isinstance(audio, InlineAudio):
            source: list[object] = ["inline", audio.sha256, utterance.sampling_rate]
        elif isinstance(audio, Path):
            try:
                source = ["file", sha256_file(audio)]
            except OSError as error:
                place = utterance.place or str(audio)
                raise AudioError(f"{place}: {audio.name} cannot be read ({error.strerror}). Check the path.") from error
        else:
            return None
        text = to_json([FACTS_VERSION, *DECODERS, asdict(self.preprocess), *source], indent=None)
        return bytes.fromhex(sha256_bytes(text.encode()))

    def _learn(self, key: bytes | None, lazy: LazyWave, wave: Wave) -> None:
        lazy.known_sketch = sketch = sketch_wave(wave)
        if key is None:
            return
        with self._lock:
            fact = (lazy.num_samples, bytes.fromhex(lazy.known_sha256 or ""), sketch)
            self._facts[key] = fact
            self._new.append((key, *fact))
            is_due = self._may_write and len(self._new) >= FACTS_AT_ONCE
        if is_due:
            self.flush()

    def _load(self, utterance: Utterance, key: bytes | None) -> Wave:
        if key is None:
            return utterance.load(self.preprocess)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        wave = utterance.load(self.preprocess)
        with self._lock:
            if self._keeps and key not in self._kept:
                self._kept[key] = wave
                self._kept_bytes += wave.nbytes
            while self._kept_bytes > self.memory_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.nbytes
        return wave


def _header_of(utterance: Utterance) -> tuple[int, int, bool]:
    """Return samples, sampling rate, and whether the number is exact."""
    audio = utterance.audio
    if isinstance(audio, Path):
        header = read_header(audio, name=utterance.file_name)
        return header.num_samples, header.rate_hz, header.is_exact
    return len(audio), utterance.sampling_rate or SAMPLE_RATE_HZ, True


def _fault_of(wave: LazyWave) -> AudioError | None:
    try:
        wave.load()
    except AudioError as error:
        return error
    return None
