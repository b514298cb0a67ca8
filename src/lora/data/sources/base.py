"""What a source gives, and how its clips become a manifest."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from lora.console import PlainConsole
from lora.data.audio import encode_flac, resample
from lora.data.manifest_rows import KNOWN_KEYS
from lora.data.sources.parallel import default_workers, map_in_order
from lora.data.sources.staging import Entry, Staging
from lora.errors import AudioError, LoraError, SourceError
from lora.files import to_json
from lora.outputs import check_file
from lora.units import SAMPLE_RATE_HZ, JsonObject, Seconds, Wave

SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")
ShowProgress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Given a title and the expected count, shows progress for the length of a block; told how many more were finished."""
_console = PlainConsole()
MAX_FAULTS = 1000
"""Building stops here: more faults than this say that the source is another one than meant."""


@dataclass(frozen=True)
class Clip:
    """One utterance of a source.

    Attributes:
        id: unique in its manifest and usable as a file name (see `SAFE_ID`).
        wave: mono float32, shape (samples,), at `sampling_rate` and at its own level.
        speaker_id: whose voice it is, or `None` where the source does not say.
        extra: further keys for the manifest row.
    """

    id: str
    wave: Wave
    sampling_rate: int
    text: str
    speaker_id: str | int | None = None
    extra: JsonObject = field(default_factory=dict)

    @property
    def seconds(self) -> Seconds:
        """Duration of the audio."""
        return self.wave.size / self.sampling_rate

    @property
    def fingerprint(self) -> str:
        """Hash of the audio; two clips with one fingerprint sound the same."""
        data = np.ascontiguousarray(self.wave).tobytes()
        return f"{hashlib.sha256(data).hexdigest()} {self.wave.dtype} {self.wave.shape} {self.sampling_rate}"

    def load(self) -> "Clip":
        """Return the clip itself: its audio is there."""
        return self


@dataclass(frozen=True)
class PendingClip:
    """One utterance of a source whose audio is decoded when it is needed, in any thread.

    Attributes:
        fingerprint: changes when the audio changes: a content hash, or a file's path, size and time.
        seconds: duration by the header; 0 where nobody asked.
        decode: returns samples and sampling rate; raises AudioError with the place in its message.
    """

    id: str
    text: str
    speaker_id: str | int | None
    fingerprint: str
    seconds: Seconds
    decode: Callable[[], tuple[Wave, int]]
    extra: JsonObject = field(default_factory=dict)

    def load(self) -> Clip:
        """Decode the audio.

        Raises:
            AudioError: it cannot be decoded.
        """
        wave, rate = self.decode()
        return Clip(self.id, wave, rate, self.text, self.speaker_id, self.extra)


AnyClip = Clip | PendingClip
Read = AnyClip | SourceError | AudioError
"""What a source gives: a clip, or why one that it should give cannot be used. The clips after it can be."""


@dataclass
class Written:
    """What was written. `reused` clips were there from an earlier run of the same build, `faults` were left out."""

    path: Path
    utterances: int = 0
    seconds: Seconds = 0.0
    speakers: set[str | int] = field(default_factory=set)
    reused: int = 0
    faults: list[str] = field(default_factory=list)


def write_clips(
    clips: Iterable[Read],
    output: Path,
    *,
    embed_audio: bool = False,
    total: int | None = None,
    workers: int | None = None,
    build_key: str = "",
) -> Path:
    """Write clips as 16 kHz, 16-bit FLAC files and the manifest `output` that names them; see `build_clips`.

    Returns:
        `output`.
    """
    options = {"embed_audio": embed_audio, "total": total, "workers": workers, "build_key": build_key}
    return build_clips(clips, output, **options).path  # type: ignore[arg-type]


def build_clips(
    clips: Iterable[Read],
    output: Path,
    *,
    embed_audio: bool = False,
    total: int | None = None,
    workers: int | None = None,
    build_key: str = "",
    skip_faults: int = 0,
    progress: ShowProgress | None = None,
) -> Written:
    """Write clips as 16 kHz, 16-bit FLAC files and the manifest `output` that names them.

    The audio goes to `<stem>_audio-<hash>/` beside the manifest; an older manifest of ours is replaced, its audio
    stays. A build that ends early, however, leaves what is finished in a hidden folder, and the same build goes on from
    it. A clip louder than full scale is scaled down to it.
    Memory: a few clips, and about 300 bytes an utterance for its id and hash.

    Args:
        embed_audio: write the same samples as inline waveforms instead; no folder is made.
        total: how many clips are expected, for `progress`.
        workers: threads that decode and encode; one a processor unless given. The order is kept.
        build_key: says which build this is; only one with the same key goes on from what is left.
        skip_faults: leave out clips that cannot be used where they are at most so many.

    Raises:
        ConfigError: what is at `output` is not an earlier output.
        SourceError: no clips, or clips that a manifest cannot hold, all listed.
        AudioError: the only fault is a clip that cannot be decoded.
        SetupError: something cannot be written.
    """
    check_file(output)
    iterator = iter(clips)
    # The first clip comes before any folder is made, so a source that fails at once leaves no trace.
    first = next(iterator, None)
    if first is None:
        raise SourceError(f"{output}: the source gave no clips. Choose a split, speakers or a number that it has.")
    with Staging(output, build_key=f"{build_key} embed_audio={embed_audio}", embed_audio=embed_audio) as staging:
        writer = _Writer(staging, output, workers or default_workers())
        try:
            with (progress or _no_progress)(f"writing {output.name}", total) as report:
                for _ in writer.run(chain([first], iterator)):
                    report(1)
            writer.finish(skip_faults)
            staging.commit()
        except BaseException:
            if staging.holds_clips:
                _console.print(f"{output.name}: what is finished is kept; the same command goes on from there.")
            raise
    for folder in staging.others():
        _console.print(f"{folder}: left by another build of {output.name}; remove it if you do not need it.")
    return writer.written


class _Writer:
    """Takes clips through the staging folder: those that are there as they are, the others in parallel."""

    def __init__(self, staging: Staging, output: Path, workers: int) -> None:
        self.written = Written(output)
        self._staging = staging
        self._workers = workers
        self._ids: set[int] = set()
        self._faults: list[LoraError] = []

    def run(self, clips: Iterator[Read]) -> Iterator[AnyClip]:
        """Write every clip that can be used; yield each when it is done."""
        for work, encoded in map_in_order(self._encode, self._check(clips), self._workers, size_of=_size):
            if isinstance(encoded, LoraError):
                self._add(encoded)
                continue
            if isinstance(encoded, Entry):
                self.written.reused += 1
                self._staging.take(work.place)
            else:
                encoded = self._staging.add(work.key, encoded, _row(work.clip))
            self._count(work.clip, encoded)
            yield work.clip

    def finish(self, skip_faults: int) -> None:
        """Raise the one fault, or one error that lists them all, if they are more than may be left out."""
        if len(self._faults) > skip_faults or not self.written.utterances:
            self._refuse_faults()
        self.written.faults = [str(fault) for fault in self._faults]

    def _refuse_faults(self) -> None:
        if len(self._faults) == 1:
            raise self._faults[0]
        if self._faults:
            problems = [str(fault) for fault in self._faults]
            raise SourceError(f"{self.written.path}: {len(problems)} clips cannot be used", problems)

    def _count(self, clip: AnyClip, entry: Entry) -> None:
        self.written.utterances += 1
        self.written.seconds += entry.num_samples / SAMPLE_RATE_HZ
        if clip.speaker_id is not None:
            self.written.speakers.add(clip.speaker_id)

    def _add(self, fault: LoraError) -> None:
        self._faults.append(fault)
        if len(self._faults) >= MAX_FAULTS:
            self._refuse_faults()

    def _check(self, clips: Iterator[Read]) -> Iterator["_Work"]:
        for clip in clips:
            if isinstance(clip, LoraError):
                self._add(clip)
                continue
            fault = _fault_of(clip, self.written.path.name, hash(clip.id.casefold()) in self._ids)
            if fault:
                self._add(SourceError(fault))
                continue
            # Two ids that differ in case only are one file on macOS. Hashes, because a long source has long ids.
            self._ids.add(hash(clip.id.casefold()))
            key = clip_key(clip)
            yield _Work(clip, key, *(self._staging.find(key) or (None, 0)))

    def _encode(self, work: "_Work") -> tuple[bytes, int] | Entry | LoraError:
        if work.entry is not None:
            return work.entry
        try:
            clip = work.clip.load()
            if clip.wave.ndim != 1 or not len(clip.wave) or not np.isfinite(clip.wave).all():
                raise SourceError(
                    f"{self.written.path.name}: clip {clip.id!r}: samples of shape {clip.wave.shape}, or NaN or "
                    "infinite ones; expected a finite, non-empty mono waveform. Remove the clip from the source."
                )
        except (AudioError, SourceError) as error:
            return error
        wave = _to_16_khz(clip)
        return encode_flac(wave), len(wave)


@dataclass(frozen=True, slots=True)
class _Work:
    """A clip to encode, or one that is there: `entry`, at `place` of the journal."""

    clip: AnyClip
    key: str
    entry: Entry | None
    place: int


def _row(clip: AnyClip) -> JsonObject:
    speaker = {} if clip.speaker_id is None else {"speaker_id": clip.speaker_id}
    return {"id": clip.id, "text": clip.text} | speaker | clip.extra


def clip_key(clip: AnyClip) -> str:
    """Return the hash of everything that a clip brings into its manifest."""
    facts = [clip.id, clip.text, clip.speaker_id, clip.extra, clip.fingerprint]
    return hashlib.sha256(to_json(facts, indent=None).encode("utf-8", "surrogatepass")).hexdigest()


def _fault_of(clip: AnyClip, name: str, is_used: bool) -> str:
    place = f"{name}: clip {clip.id!r}"
    if not SAFE_ID.fullmatch(clip.id):
        return f"{place}: the id is no portable file name; expected letters, digits and . _ + = @ -"
    if is_used:
        return f"{place}: the id was used before. Ids must be unique, upper and lower case being alike."
    if not any(char.isalnum() for char in clip.text):
        return f"{place}: text is {clip.text!r}; expected at least one word. Remove the clip."
    reserved = sorted(set(clip.extra) & set(KNOWN_KEYS))
    if reserved:
        return f"{place}: extra keys {', '.join(reserved)} belong to the manifest. Rename them."
    try:
        to_json([clip.text, clip.speaker_id, clip.extra], indent=None).encode("utf-8")
    except ValueError as error:
        return f"{place}: text or extra keys cannot be written as JSON ({error}). Remove the clip."
    return ""


def _size(work: _Work) -> int:
    """Return the bytes that a clip needs while it is worked on: decoded at 48 kHz, three copies."""
    return 0 if work.entry is not None else round(work.clip.seconds * 48_000 * 4 * 3)


def _to_16_khz(clip: Clip) -> Wave:
    wave = resample(clip.wave, clip.sampling_rate)
    peak = float(np.abs(wave).max())
    return wave / np.float32(peak) if peak > 1.0 else wave


def _no_progress(title: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)
