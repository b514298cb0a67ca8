"""Leakage: what an evaluation set shares with the training set, by id, audio, speaker and transcript.

Pure comparison; the caller decides which kind forbids a run. An id or the audio in common means that the
model has seen the clip; a speaker or a transcript in common makes the result look better than it will be.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora.data.manifest import Utterance

LeakKind = Literal["id", "audio", "speaker", "transcript"]
LEAK_KINDS: tuple[LeakKind, ...] = ("id", "audio", "speaker", "transcript")


@dataclass(frozen=True, slots=True)
class LeakRow:
    """What of an utterance is compared.

    Attributes:
        id: `None` is never compared; see `leak_row`.
        audio_sha256: `wave_sha256` of the prepared waveform, so that the file's format does not matter;
            `None` where the audio was not read.
        shown_id: the id that a leak names.
    """

    id: str | None
    audio_sha256: str | None
    speaker_id: int | str | None
    text: str
    shown_id: str = ""


@dataclass(frozen=True, slots=True)
class Leak:
    """One evaluation utterance that shares `kind` with training; `train_id` is the first that it shares it with."""

    kind: LeakKind
    train_id: str
    evaluation_id: str
    detail: str


def leak_row(utterance: Utterance, audio_sha256: str | None = None) -> LeakRow:
    """Return what of `utterance` is compared.

    An id that the reader made of the file's name and line is left out: two files of one name would
    seem to share every row.
    """
    file, _, line = utterance.place.rpartition(":")
    is_made = bool(file) and utterance.id == f"{Path(file).stem}:{line}"
    return LeakRow(
        None if is_made else utterance.id, audio_sha256, utterance.speaker_id, utterance.text, shown_id=utterance.id
    )


def transcript_key(text: str) -> str:
    """Return the words of `text` without case and punctuation, as two transcripts are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = "".join(char if char.isalnum() or char == "'" or unicodedata.combining(char) else " " for char in folded)
    return " ".join(word.strip("'") for word in kept.split() if word.strip("'"))


def find_leaks(train: Sequence[LeakRow], evaluation: Sequence[LeakRow]) -> list[Leak]:
    """Compare two sets and return at most one leak a kind for each evaluation utterance.

    Speakers 1 and "1" are one speaker. The order is that of `LEAK_KINDS`, then of `evaluation`.
    """
    leaks: list[Leak] = []
    for kind in LEAK_KINDS:
        key = _KEYS[kind]
        owners: dict[Hashable, list[str]] = defaultdict(list)
        for row in train:
            if (value := key(row)) is not None:
                owners[value].append(_name(row))
        for row in evaluation:
            found = owners.get(key(row)) if owners else None
            if found:
                leaks.append(Leak(kind, found[0], _name(row), _detail(kind, row, found)))
    return leaks


_KEYS: dict[LeakKind, Callable[[LeakRow], str | None]] = {
    "id": lambda row: row.id,
    "audio": lambda row: row.audio_sha256,
    "speaker": lambda row: None if row.speaker_id is None else str(row.speaker_id),
    "transcript": lambda row: transcript_key(row.text) or None,
}


def _name(row: LeakRow) -> str:
    return row.shown_id or row.id or "?"


def _detail(kind: LeakKind, row: LeakRow, owners: list[str]) -> str:
    what = {
        "id": "the id is used in training",
        "audio": "the same audio is in training",
        "speaker": f"speaker {row.speaker_id!r} is in training",
        "transcript": f"the text {row.text[:60]!r} is in training",
    }[kind]
    more = f" ({len(owners)} utterances)" if len(owners) > 1 else ""
    return f"{what}: {owners[0]!r}{more}"
