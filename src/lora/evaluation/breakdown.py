"""Where a gain comes from: errors that an adapter removed and added, by kind, word, duration and speaker.

Pure counts over texts; no rate, no interval. Texts are compared in the light style, the one of the primary WER.

Errors are counted in slots: each reference word is one (right, substituted or missing), and so is each gap
between words (how much was inserted there). An error of a kind is *removed* where a slot held it before and
not after, *added* the other way round, so in every tally `tuned - baseline = added - removed`. A word that
was substituted and is now missing removes a substitution, adds a deletion and leaves the total as it is.
Where several alignments have the fewest edits (one "nine" of two is missing), the choice of slot is
arbitrary: such a pair of errors can show as one removed and one added. The net is exact.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass

from lora.evaluation.wer import AlignedWord, align_words, normalize_text
from lora.units import JsonObject, Seconds

RARE_AT_MOST = 2
"""A word is rare when the references of its set hold it at most this often."""

LOOP_REPEATS, LOOP_EXCESS, LOOP_MAX_WORDS = 4, 2, 8
"""A text loops when a run of up to 8 words stands in it at least 4 times in a row, and at least twice more
than in the reference: "nine nine nine nine" can be what was said."""

DURATION_EDGES_S: tuple[Seconds, ...] = (0.0, 2.0, 4.0, 8.0, 16.0)

NUMBER_WORDS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion "
    "trillion".split()
)
"""Cardinals. "oh" is left out, since it is more often no digit; so are ordinals ("second")."""

_JOINT = "_"  # the light style removes it from texts, so it cannot be part of a word


@dataclass(frozen=True, slots=True)
class PairedUtterance:
    """One utterance as both models wrote it; `*_ended` is False where the token limit cut the text off."""

    reference: str
    baseline: str
    tuned: str
    seconds: Seconds
    speaker_id: int | str | None = None
    baseline_ended: bool = True
    tuned_ended: bool = True


@dataclass(slots=True)
class Tally:
    """Errors before and after among `of` reference words, or affected ones among `of` utterances."""

    of: int = 0
    baseline: int = 0
    tuned: int = 0
    removed: int = 0
    added: int = 0

    def count_(self, before: int, after: int) -> None:
        """Add one slot."""
        self.baseline += before
        self.tuned += after
        self.removed += max(before - after, 0)
        self.added += max(after - before, 0)


@dataclass(frozen=True, slots=True)
class _Slots:
    """What became of each reference word (`equal`, `substitute`, `delete`), and the insertions in each gap."""

    words: tuple[str, ...]
    inserted: tuple[int, ...]


def break_down(rows: Sequence[PairedUtterance]) -> JsonObject:
    """Count where one set's errors went, as JSON values.

    Returns:
        Tallies: `total`; `operations` by `substitution`, `deletion`, `insertion`; `word_classes`
        (substituted or missing reference words: `number` and `other`, `rare` and `common`);
        `case_or_punctuation` (words that are right in the light style and differ as written);
        `utterances` that `loop` or are `empty`; `by_duration` and `by_speaker`. Also `rare_at_most`.
    """
    frequency = Counter(word for row in rows for word in _light(row.reference))
    total, case = Tally(), Tally()
    operations = {kind: Tally() for kind in ("substitution", "deletion", "insertion")}
    classes = {name: Tally() for name in ("number", "other", "rare", "common")}
    utterances = {"loop": Tally(), "empty": Tally()}
    durations = [Tally() for _ in DURATION_EDGES_S]
    speakers: dict[Hashable, Tally] = {}
    members: Counter[Hashable] = Counter()
    for row in rows:
        words = _light(row.reference)
        before, after = _slots(words, row.baseline), _slots(words, row.tuned)
        interval = duration_bin(row.seconds)
        speaker = speakers.setdefault(row.speaker_id, Tally())
        members.update([("s", row.speaker_id), ("d", interval)])
        _count_total_((total, durations[interval], speaker), before, after)
        _count_operations_(operations, before, after)
        for word, old, new in zip(words, before.words, after.words, strict=True):
            for name in ("number" if is_number(word) else "other", _rarity(frequency[word])):
                classes[name].of += 1
                classes[name].count_(old != "equal", new != "equal")
        _count_case_(case, row)
        _count_utterance_(utterances, row)
    return {
        "total": asdict(total),
        "operations": {kind: asdict(tally) for kind, tally in operations.items()},
        "word_classes": {name: asdict(tally) for name, tally in classes.items()},
        "case_or_punctuation": asdict(case),
        "utterances": {name: asdict(tally) for name, tally in utterances.items()},
        "by_duration": [
            {"from_s": low, "to_s": high, "utterances": members["d", index]} | asdict(durations[index])
            for index, (low, high) in enumerate(zip(DURATION_EDGES_S, [*DURATION_EDGES_S[1:], None], strict=True))
        ],
        "by_speaker": [
            {"speaker_id": name, "utterances": members["s", name]} | asdict(speakers[name])
            for name in sorted(speakers, key=_speaker_order)
        ],
        "rare_at_most": RARE_AT_MOST,
    }


def is_number(word: str) -> bool:
    """Tell whether a word in the light style holds a digit or is a cardinal."""
    return word in NUMBER_WORDS or any(character.isdigit() for character in word)


def is_loop(ref: str, hyp: str) -> bool:
    """Tell whether `hyp` repeats itself as no speaker did (see `LOOP_REPEATS`)."""
    repeats = most_repeats(_light(hyp))
    return repeats >= LOOP_REPEATS and repeats >= most_repeats(_light(ref)) + LOOP_EXCESS


def most_repeats(words: Sequence[str]) -> int:
    """Return how often in a row the most repeated run of up to `LOOP_MAX_WORDS` words stands in `words`."""
    most = min(len(words), 1)
    for size in range(1, LOOP_MAX_WORDS + 1):
        same = 0  # words in a row that equal the word `size` places before
        for index in range(size, len(words)):
            same = same + 1 if words[index] == words[index - size] else 0
            most = max(most, same // size + 1)
    return most


def duration_bin(seconds: Seconds) -> int:
    """Return the index of the range of `DURATION_EDGES_S` that holds a duration."""
    return sum(seconds >= edge for edge in DURATION_EDGES_S[1:])


def _light(text: str) -> list[str]:
    return normalize_text(text, "light").split()


def _slots(words: Sequence[str], hyp: str) -> _Slots:
    return _to_slots(align_words(" ".join(words), normalize_text(hyp, "light")))


def _to_slots(aligned: Iterable[AlignedWord]) -> _Slots:
    words: list[str] = []
    inserted = [0]
    for operation, _, _ in aligned:
        if operation == "insert":
            inserted[-1] += 1
        else:
            words.append(operation)
            inserted.append(0)
    return _Slots(tuple(words), tuple(inserted))


def _count_total_(tallies: Iterable[Tally], before: _Slots, after: _Slots) -> None:
    for tally in tallies:
        tally.of += len(before.words)
        for old, new in zip(before.words, after.words, strict=True):
            tally.count_(old != "equal", new != "equal")
        for old_count, new_count in zip(before.inserted, after.inserted, strict=True):
            tally.count_(old_count, new_count)


def _count_operations_(operations: dict[str, Tally], before: _Slots, after: _Slots) -> None:
    for kind, operation in (("substitution", "substitute"), ("deletion", "delete")):
        for old, new in zip(before.words, after.words, strict=True):
            operations[kind].count_(old == operation, new == operation)
    for old_count, new_count in zip(before.inserted, after.inserted, strict=True):
        operations["insertion"].count_(old_count, new_count)
    for tally in operations.values():
        tally.of += len(before.words)


def _count_case_(tally: Tally, row: PairedUtterance) -> None:
    before, after = _written_differently(row.reference, row.baseline), _written_differently(row.reference, row.tuned)
    tally.of += len(before)
    for old, new in zip(before, after, strict=True):
        tally.count_(old, new)


def _written_differently(ref: str, hyp: str) -> list[bool]:
    """Tell for each word of `ref` as written whether `hyp` has it, but in another case or punctuation."""
    ref_words, hyp_words = _written(ref), _written(hyp)
    aligned = align_words(" ".join(key for key, _ in ref_words), " ".join(key for key, _ in hyp_words))
    left, right = iter(ref_words), iter(hyp_words)
    differs = []
    for operation, ref_word, hyp_word in aligned:
        old = next(left)[1] if ref_word is not None else None
        new = next(right)[1] if hyp_word is not None else None
        if old is not None:
            differs.append(operation == "equal" and old != new)
    return differs


def _written(text: str) -> list[tuple[str, str]]:
    """Return each word's light form beside the word as written; marks that stand alone are no words."""
    pairs = [(_JOINT.join(_light(word)), word) for word in text.split()]
    return [(key, word) for key, word in pairs if key]


def _count_utterance_(utterances: dict[str, Tally], row: PairedUtterance) -> None:
    looped = (
        not row.baseline_ended or is_loop(row.reference, row.baseline),
        not row.tuned_ended or is_loop(row.reference, row.tuned),
    )
    empty = (not row.baseline.strip(), not row.tuned.strip())
    for name, (before, after) in (("loop", looped), ("empty", empty)):
        utterances[name].of += 1
        utterances[name].count_(before, after)


def _rarity(count: int) -> str:
    return "rare" if count <= RARE_AT_MOST else "common"


def _speaker_order(speaker: Hashable) -> tuple[bool, bool, int, str]:
    """Sort numbers by value before names, and the unknown speaker last."""
    is_int = isinstance(speaker, int)
    return speaker is None, not is_int, speaker if isinstance(speaker, int) else 0, str(speaker)
