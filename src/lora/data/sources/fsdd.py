"""Free Spoken Digit Dataset: connected digits made of one speaker's single recordings.

The folder holds `{digit}_{speaker}_{index}.wav`, itself or in `recordings/`. The corpus's own split:
index 0 to 4 is test, 5 to 49 is train.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lora.data.audio import decode_audio
from lora.data.sources.base import Clip
from lora.errors import SourceError
from lora.units import Seconds, Wave

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"test": range(5), "train": range(5, 50)}
NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[A-Za-z][A-Za-z0-9-]*)_(?P<index>0|[1-9][0-9]?)\.wav")

PAUSE_SECONDS = (0.05, 0.35)
EDGE_SECONDS = (0.05, 0.3)
# About 3 steps of 16-bit audio: a pause is quiet, not a digital zero that no microphone gives.
PAUSE_NOISE = 1e-4

FsddSplit = Literal["train", "test"]


@dataclass(frozen=True)
class Recording:
    """One spoken digit, at its own sampling rate (8 kHz in the corpus) and level."""

    name: str
    digit: int
    speaker: str
    index: int
    wave: Wave
    sampling_rate: int


def load_recordings(
    path: Path,
    split: FsddSplit,
    speakers: Sequence[str] | None = None,
    indices: Collection[int] | None = None,
) -> list[Recording]:
    """Load the single recordings of a split, sorted by speaker, digit and index.

    Args:
        speakers: all that the folder holds unless given.
        indices: those of the split unless given; only indices of the split are allowed.

    Raises:
        SourceError: the folder is missing, empty or not laid out as the corpus is (every misnamed file
            is listed), or the split, a speaker or an index does not exist in it.
        AudioError: a recording cannot be decoded.
    """
    wanted = _check_indices(path, split, indices)
    found = _list_recordings(path)
    present = sorted({speaker for speaker, _, _ in found})
    chosen = sorted(set(present if speakers is None else speakers))
    unknown = [speaker for speaker in chosen if speaker not in present]
    if unknown or not chosen:
        got = ", ".join(unknown) or "an empty list"
        raise SourceError(f"{path}: unknown speaker(s): {got}; the folder holds {', '.join(present)}. Choose of these.")
    keys = [key for key in sorted(found) if key[0] in chosen and key[2] in wanted]
    missing = [speaker for speaker in chosen if not any(key[0] == speaker for key in keys)]
    if missing:
        raise SourceError(
            f"{path}: no {split} recordings with an index among {sorted(wanted)} of {', '.join(missing)}. "
            "Choose another split, other indices or other speakers."
        )
    return [_load(found[key], key) for key in keys]


def list_speakers(path: Path) -> list[str]:
    """Return the speakers that a folder holds, sorted.

    Raises:
        SourceError: the folder is missing, empty or not laid out as the corpus is.
    """
    return sorted({speaker for speaker, _, _ in _list_recordings(path)})


def _check_indices(path: Path, split: str, indices: Collection[int] | None) -> set[int]:
    if split not in SPLITS:
        raise SourceError(f"{path}: unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    allowed = SPLITS[split]
    if indices is None:
        return set(allowed)
    outside = sorted(index for index in indices if index not in allowed)
    if outside or not indices:
        raise SourceError(
            f"{path}: indices {outside or 'empty'}; the {split} split has {allowed.start} to {allowed.stop - 1}. "
            "Narrow the split, never widen it."
        )
    return set(indices)


def _list_recordings(path: Path) -> dict[tuple[str, int, int], Path]:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder; expected the Free Spoken Digit Dataset. Check the path.")
    folder = path / "recordings" if (path / "recordings").is_dir() else path
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".wav" and file.name[0] != ".")
    if not files:
        raise SourceError(f"{folder}: no WAV files; expected names such as 7_jackson_12.wav. Check the path.")
    found: dict[tuple[str, int, int], Path] = {}
    problems: list[str] = []
    for file in files:
        match = NAME.fullmatch(file.name)
        if match is None or int(match["index"]) >= SPLITS["train"].stop:
            problems.append(f"{file.name}: expected {{digit}}_{{speaker}}_{{index}}.wav with index 0 to 49")
        else:
            found[match["speaker"], int(match["digit"]), int(match["index"])] = file
    if problems:
        raise SourceError(f"{folder}: {len(problems)} file(s) not named as in the corpus; rename or remove", problems)
    return found


def _load(file: Path, key: tuple[str, int, int]) -> Recording:
    wave, rate = decode_audio(file, name=str(file))
    if not len(wave):
        raise SourceError(f"{file}: the recording has no samples. Restore or remove it.")
    speaker, digit, index = key
    return Recording(file.name, digit, speaker, index, wave, rate)


def read_fsdd(
    path: Path,
    *,
    split: FsddSplit,
    speakers: Sequence[str] | None = None,
    samples: int,
    seed: int,
    indices: Collection[int] | None = None,
    min_digits: int = 3,
    max_digits: int = 7,
) -> Iterator[Clip]:
    """Yield `samples` connected-digit utterances, each of one speaker, speakers in turn.

    The same arguments give the same utterances on every machine. A speaker's utterances do not depend
    on the other speakers, and a larger `samples` only adds to them. Recordings are dealt from a
    shuffled deck that is used up before the next, so all are used about equally often.

    Raises:
        SourceError, AudioError: as `load_recordings`, at the call and not at the first clip.
    """
    if samples < 1:
        raise SourceError(f"{path}: {samples} samples asked for; expected at least 1.")
    if not 1 <= min_digits <= max_digits:
        raise SourceError(f"{path}: {min_digits} to {max_digits} digits asked for; expected 1 <= minimum <= maximum.")
    recordings = load_recordings(path, split, speakers, indices)
    if seed < 0:
        raise SourceError(f"{path}: seed is {seed}; expected 0 or more.")
    rates = sorted({recording.sampling_rate for recording in recordings})
    if len(rates) > 1:
        raise SourceError(f"{path}: recordings at {rates} Hz; expected one sampling rate. Resample them to one.")
    by_speaker: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_speaker.setdefault(recording.speaker, []).append(recording)
    streams = []
    for speaker, own in by_speaker.items():
        rng = np.random.default_rng([seed, SPLITS[split].start, *speaker.encode()])
        streams.append(_connect(own, split, rng, min_digits, max_digits))
    return (next(streams[number % len(streams)]) for number in range(samples))


def _connect(
    recordings: list[Recording], split: str, rng: np.random.Generator, min_digits: int, max_digits: int
) -> Iterator[Clip]:
    speaker, rate = recordings[0].speaker, recordings[0].sampling_rate
    deck = _deal(recordings, rng)
    number = 0
    while True:
        spoken = [next(deck) for _ in range(int(rng.integers(min_digits, max_digits + 1)))]
        pieces = [_pause(EDGE_SECONDS, rate, rng)]
        for position, recording in enumerate(spoken):
            last = position == len(spoken) - 1
            pieces += [recording.wave, _pause(EDGE_SECONDS if last else PAUSE_SECONDS, rate, rng)]
        yield Clip(
            id=f"fsdd-{split}-{speaker}-{number:04d}",
            wave=np.concatenate(pieces),
            sampling_rate=rate,
            text=" ".join(DIGIT_WORDS[recording.digit] for recording in spoken),
            speaker_id=speaker,
            extra={"digits": [recording.name for recording in spoken]},
        )
        number += 1


def _deal(recordings: list[Recording], rng: np.random.Generator) -> Iterator[Recording]:
    while True:
        for position in rng.permutation(len(recordings)):
            yield recordings[position]


def _pause(bounds: tuple[Seconds, Seconds], rate: int, rng: np.random.Generator) -> Wave:
    count = round(float(rng.uniform(*bounds)) * rate)
    return (PAUSE_NOISE * rng.standard_normal(count)).astype(np.float32)
