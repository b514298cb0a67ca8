"""Leakage: what an evaluation set shares with the training set, by id, audio, recording, speaker and transcript.

One policy for every command. An id, the audio or the recording in common means that the model has seen the clip: that
is refused (`FORBIDDEN_KINDS`). A speaker or a transcript in common makes the result look better than it will be of
others, but to adapt to known voices and commands is a legitimate aim: that is told.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora.data.manifest import Utterance

LeakKind = Literal["id", "audio", "recording", "speaker", "transcript"]
LEAK_KINDS: tuple[LeakKind, ...] = ("id", "audio", "recording", "speaker", "transcript")
FORBIDDEN_KINDS: tuple[LeakKind, ...] = ("id", "audio", "recording")


@dataclass(frozen=True, slots=True)
class LeakRow:
    """What of an utterance is compared.

    Attributes:
        id: `None` is never compared; see `leak_row`.
        audio_sha256: `wave_sha256` of the prepared waveform, so that the file's format does not matter;
            `None` where the audio was not read.
        shown_id: the id that a leak names.
        recording: a number that likely the same recordings have in common (`lora.data.fingerprint`).
        place: `file:line`, where it is known.
    """

    id: str | None
    audio_sha256: str | None
    speaker_id: int | str | None
    text: str
    shown_id: str = ""
    recording: int | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """One evaluation utterance that shares `kind` with training; `train_id` is the first that it shares it with.

    Attributes:
        detail: what is shared, with the training utterance's id and place.
        place: the evaluation utterance's.
    """

    kind: LeakKind
    train_id: str
    evaluation_id: str
    detail: str
    place: str = ""

    @property
    def is_forbidden(self) -> bool:
        """Tell whether the model has seen the clip."""
        return self.kind in FORBIDDEN_KINDS

    def __str__(self) -> str:
        return f"{self.place}{': ' if self.place else ''}{self.evaluation_id}: {self.detail}"


def leak_row(utterance: Utterance, audio_sha256: str | None = None) -> LeakRow:
    """Return what of `utterance` is compared.

    An id that the reader made of the file's name and line is left out: two files of one name would
    seem to share every row.
    """
    file, _, line = utterance.place.rpartition(":")
    is_made = bool(file) and utterance.id == f"{Path(file).stem}:{line}"
    return LeakRow(
        None if is_made else utterance.id,
        audio_sha256,
        utterance.speaker_id,
        utterance.text,
        shown_id=utterance.id,
        place=utterance.place,
    )


def transcript_key(text: str) -> str:
    """Return the words of `text` without case and punctuation, as two transcripts are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = "".join(char if char.isalnum() or char == "'" or unicodedata.combining(char) else " " for char in folded)
    return " ".join(word.strip("'") for word in kept.split() if word.strip("'"))


def find_leaks(train: Sequence[LeakRow], evaluation: Sequence[LeakRow]) -> list[Leak]:
    """Compare two sets and return at most one leak a kind for each evaluation utterance.

    Speakers 1 and "1" are one speaker, and the same audio is not called the same recording as well. The order is that
    of `LEAK_KINDS`, then of `evaluation`.
    """
    leaks: list[Leak] = []
    same_audio: set[int] = set()
    for kind in LEAK_KINDS:
        key = _KEYS[kind]
        owners: dict[Hashable, list[LeakRow]] = defaultdict(list)
        for row in train:
            if (value := key(row)) is not None:
                owners[value].append(row)
        for number, row in enumerate(evaluation):
            found = owners.get(key(row)) if owners else None
            if not found or (kind == "recording" and number in same_audio):
                continue
            if kind == "audio":
                same_audio.add(number)
            leaks.append(Leak(kind, _name(found[0]), _name(row), _detail(kind, row, found), row.place))
    return leaks


_KEYS: dict[LeakKind, Callable[[LeakRow], Hashable]] = {
    "id": lambda row: row.id,
    "audio": lambda row: row.audio_sha256,
    "recording": lambda row: row.recording,
    "speaker": lambda row: None if row.speaker_id is None else str(row.speaker_id),
    "transcript": lambda row: transcript_key(row.text) or None,
}


def _name(row: LeakRow) -> str:
    return row.shown_id or row.id or "?"


def _detail(kind: LeakKind, row: LeakRow, owners: Sequence[LeakRow]) -> str:
    what = {
        "id": "the id is used in training",
        "audio": "the same audio is in training",
        "recording": "likely the same recording is in training",
        "speaker": f"speaker {row.speaker_id!r} is in training",
        "transcript": f"the text {row.text[:60]!r} is in training",
    }[kind]
    place = f" ({owners[0].place})" if owners[0].place else ""
    more = f" ({len(owners)} utterances)" if len(owners) > 1 else ""
    return f"{what}: {_name(owners[0])!r}{place}{more}"
