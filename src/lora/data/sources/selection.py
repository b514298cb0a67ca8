"""Which clips of a source are taken, and in which case their text is written.

A source that can be listed twice is chosen from by its facts alone (`choose`); a stream is taken from
as it passes (`sift`). Neither holds audio.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lora.data.sources.base import Read
from lora.errors import LoraError, SourceError
from lora.units import Seconds

TextMode = Literal["keep", "lower", "auto"]

EMPTY_TEXT = "without words"
FAULTY = "that cannot be used"
CASE_SAMPLE = 64
"""So many texts of a stream say whether it is ALL CAPS."""
MAX_MISSES = 10_000
"""An endless source that gives no fitting clip for so long will not give one."""


@dataclass(frozen=True)
class Selection:
    """Which clips are taken.

    Attributes:
        samples: this many, drawn by `seed`; `None` takes all.
        min_seconds, max_seconds: clips outside are passed over and do not count as samples.
        text_mode: `auto` lowers a source whose texts are all in capitals.
        hours: stop before the audio is longer than this; with `samples`, whichever comes first.
        balance_speakers: draw speakers in turn, so that each gives as many clips as another while it has any.
        speakers, exclude_speakers: take only, or never, the clips of these.
        skip_empty_text: pass over a row without words instead of refusing it.
        skip_faults: pass over faulty rows where they are at most so many.
    """

    samples: int | None = None
    seed: int = 42
    min_seconds: Seconds = 0.0
    max_seconds: Seconds | None = None
    text_mode: TextMode = "keep"
    hours: float | None = None
    balance_speakers: bool = False
    speakers: tuple[str, ...] | None = None
    exclude_speakers: tuple[str, ...] = ()
    skip_empty_text: bool = False
    skip_faults: int = 0

    @property
    def needs_seconds(self) -> bool:
        """Tell whether clips must be measured before they are chosen."""
        return bool(self.min_seconds or self.max_seconds is not None or self.hours is not None)

    def check(self) -> None:
        """Refuse values that no source can satisfy.

        Raises:
            SourceError: naming the first of them.
        """
        if self.samples is not None and self.samples < 1:
            raise SourceError(f"samples: got {self.samples}, expected at least 1.")
        if self.hours is not None and not 0 < self.hours < float("inf"):
            raise SourceError(f"hours: got {self.hours}, expected more than 0.")
        if self.min_seconds < 0:
            raise SourceError(f"min_seconds: got {self.min_seconds}, expected 0 or more.")
        if self.max_seconds is not None and not self.max_seconds > self.min_seconds:
            raise SourceError(
                f"max_seconds: got {self.max_seconds}, expected more than min_seconds ({self.min_seconds})."
            )
        if self.balance_speakers and self.samples is None and self.hours is None:
            raise SourceError("balance_speakers: expected samples or hours with it; all clips cannot be balanced.")

    def why_left_out(self, speaker: str | int | None, seconds: Seconds | None) -> str:
        """Return why a clip is passed over, or an empty text. Seconds that are not known are not judged."""
        named = str(speaker)
        if self.speakers is not None and (speaker is None or named not in self.speakers):
            return "of other speakers"
        if speaker is not None and named in self.exclude_speakers:
            return "of excluded speakers"
        if seconds is not None and seconds < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if seconds is not None and self.max_seconds is not None and seconds > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        return ""


@dataclass
class Notes:
    """What a source did that its clips do not show. Filled while the clips are read.

    Attributes:
        left_out: how many clips were passed over, by reason.
        faults: what is wrong with those that cannot be used.
        lines: sentences for the person who builds.
        total: how many clips there will be, where that is known.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    total: int | None = None

    def leave_out(self, faults: Sequence[str]) -> None:
        """Note rows or clips that are passed over because they cannot be used."""
        if faults:
            self.left_out[FAULTY] += len(faults)
            self.faults += faults

    def __str__(self) -> str:
        counts = [f"{count} {reason}" for reason, count in sorted(self.left_out.items())]
        left_out = [f"left out: {', '.join(counts)}"] if counts else []
        return "\n".join([*self.lines, *left_out, *(f"  {fault}" for fault in self.faults)])


class Fact(NamedTuple):
    """What choosing needs to know of a clip. `key` decides its place in the draw."""

    key: str
    speaker: str | int | None
    seconds: Seconds


def choose(facts: Iterable[Fact], selection: Selection, name: str, left_out: Counter[str]) -> NDArray[np.int64]:
    """Return the positions of the chosen clips, ascending.

    A clip's rank is a hash of the seed and its key: a larger `samples` or `hours` only adds clips, and the
    order of the source does not matter. Needs about 20 bytes a clip.

    Raises:
        SourceError: fewer clips or hours than asked for, or a clip without a speaker where speakers balance.
    """
    ranks, seconds, speakers = array("Q"), array("d"), array("l")
    numbers: dict[str, int] = {}
    for fact in facts:
        if selection.balance_speakers and fact.speaker is None:
            raise SourceError(f"{name}: {fact.key} has no speaker; balancing needs one. Name the speaker column.")
        digest = hashlib.blake2b(f"{selection.seed}\0{fact.key}".encode("utf-8", "surrogatepass"), digest_size=8)
        ranks.append(int.from_bytes(digest.digest(), "big"))
        seconds.append(fact.seconds)
        speakers.append(numbers.setdefault(str(fact.speaker), len(numbers)))
    order = np.argsort(np.asarray(ranks, dtype=np.uint64), kind="stable")
    if selection.balance_speakers:
        order = _in_turn(order, np.asarray(speakers, dtype=np.int64))
    count = min(len(order), selection.samples or len(order))
    by_hours = False
    if selection.hours is not None:
        total = np.cumsum(np.asarray(seconds)[order])
        fitting = int(np.searchsorted(total, selection.hours * 3600, side="right"))
        by_hours = fitting < len(order)
        count = min(count, fitting)
    if not by_hours:
        refuse_too_few(selection, name, count, float(np.sum(np.asarray(seconds)[order[:count]])), left_out)
    return np.sort(order[:count]).astype(np.int64)


def _in_turn(order: NDArray[np.int64], speakers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order the first clips of every speaker before the second ones, and so on."""
    grouped = order[np.argsort(speakers[order], kind="stable")]
    own = speakers[grouped]
    starts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else np.zeros(0, dtype=np.int64)
    turn = np.arange(len(own)) - np.repeat(starts, np.diff(np.r_[starts, len(own)]))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return np.asarray(grouped[np.lexsort((place[grouped], turn))])


def refuse_too_few(
    selection: Selection, name: str, taken: int, seconds: Seconds, left_out: Counter[str], *, stopped: bool = False
) -> None:
    """Raise SourceError when a source that ended gave fewer clips or hours than asked for."""
    reasons = ", ".join(f"{count} are {reason}" for reason, count in sorted(left_out.items()))
    read = taken + sum(left_out.values())
    source = f"{'it gave' if stopped else 'the split has'} {read}" + (f", and {reasons}" if reasons else "")
    if selection.samples is not None and taken < selection.samples:
        raise SourceError(
            f"{name}: {taken} of the {selection.samples} clips asked for; {source}. "
            "Ask for fewer, or allow other lengths or speakers."
        )
    if selection.samples is None and selection.hours is not None:
        raise SourceError(
            f"{name}: {seconds / 3600:.3f} of the {selection.hours:g} hours asked for; {source}. Ask for less."
        )


def sift(
    clips: Iterator[Read], selection: Selection, name: str, notes: Notes, *, endless: bool = False
) -> Iterator[Read]:
    """Take clips from a stream until there are enough, passing over those that are not asked for.

    A clip that cannot be used counts as taken: once it can be, it is, and the others stay the same.

    Raises:
        SourceError: the stream ended too early, or (`endless`) gives nothing that fits.
    """
    taken = misses = 0
    total = 0.0
    limit = float("inf") if selection.hours is None else selection.hours * 3600
    for clip in clips:
        if isinstance(clip, LoraError):
            misses, taken = 0, taken + 1
            yield clip
            if taken == selection.samples:
                return
            continue
        reason = selection.why_left_out(clip.speaker_id, clip.seconds)
        if reason:
            notes.left_out[reason] += 1
            misses += 1
            if endless and misses >= MAX_MISSES:
                refuse_too_few(selection, name, taken, total, notes.left_out, stopped=True)
            continue
        if total + clip.seconds > limit:
            return
        misses, taken, total = 0, taken + 1, total + clip.seconds
        yield clip
        if taken == selection.samples:
            return
    if selection.samples is not None or selection.hours is not None:
        refuse_too_few(selection, name, taken, total, notes.left_out)


def is_caps(text: str) -> bool:
    """Tell whether a text has capitals and no small letters."""
    return text == text.upper() != text.lower()


def says_caps(texts: Iterable[str]) -> bool:
    """Tell whether texts are ALL CAPS: capitals somewhere, small letters nowhere."""
    found = False
    for text in texts:
        if text != text.upper():
            return False
        found = found or is_caps(text)
    return found


def case_note(lowered: bool) -> str:
    """Return what `--text-mode auto` did."""
    return "text: ALL CAPS, so it is lower-cased" if lowered else "text: not ALL CAPS, so it is kept as it is"


def in_case(clips: Iterator[Read], mode: TextMode, name: str, notes: Notes) -> Iterator[Read]:
    """Write the texts of a stream in the case asked for; `auto` decides by the first `CASE_SAMPLE` texts.

    A later text that shows that the decision was wrong is a clip that cannot be used.
    """
    lowered = mode == "lower"
    if mode == "auto":
        first = list(islice(clips, CASE_SAMPLE))
        lowered = says_caps(clip.text for clip in first if not isinstance(clip, LoraError))
        notes.lines.append(case_note(lowered))
        clips = chain(first, clips)
    for clip in clips:
        if isinstance(clip, LoraError):
            yield clip
            continue
        if mode == "auto" and lowered and clip.text != clip.text.upper():
            yield SourceError(
                f"{name}: {clip.id}: text {clip.text!r:.80} has small letters, where the first {CASE_SAMPLE} were ALL "
                "CAPS. Pass --text-mode keep or --text-mode lower."
            )
            continue
        yield replace(clip, text=clip.text.lower()) if lowered else clip
