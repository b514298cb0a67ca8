"""The train/validation split: whole speakers where the data allows it, random utterances otherwise.

A speaker who is in both parts makes validation look better than it is, so whole speakers come first;
when that cannot be, the split says why.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lora.data.manifest import Utterance
from lora.errors import ConfigError, ManifestError

MIN_TRAIN_SPEAKERS = 2
TOLERANCE = (0.5, 2.0)
"""Whole speakers are held out when they come to between these multiples of the fraction asked for."""


@dataclass(frozen=True)
class Split:
    """A train/validation split. Both parts are ordered by utterance id.

    Attributes:
        kind: "speaker" when no speaker is in both parts, "random" otherwise.
        reason: in words, what was held out, and for "random" why whole speakers were not.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    kind: Literal["speaker", "random"]
    reason: str


def split_train_validation(utterances: Sequence[Utterance], *, fraction: float, seed: int) -> Split:
    """Hold out about `fraction` of the utterances for validation.

    Depends on the ids, the speakers and `seed`, never on the order of the rows. Speaker ids 1 and "1"
    are one speaker.

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        ManifestError: fewer than two utterances, or an id appears twice.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation fraction: got {fraction}, expected more than 0 and less than 1.")
    rows = {utterance.id: utterance for utterance in sorted(utterances, key=lambda utterance: utterance.id)}
    if len(rows) != len(utterances):
        raise ManifestError(f"{len(utterances) - len(rows)} utterance id(s) appear twice. Make ids unique.")
    if len(rows) < 2:
        raise ManifestError(f"got {len(rows)} utterance(s); a train/validation split needs at least 2. Add rows.")
    speakers, obstacle = _group_by_speaker(rows)
    held_out: set[str] = set()
    if obstacle is None:
        chosen = _choose_speakers({name: len(ids) for name, ids in speakers.items()}, fraction * len(rows), seed)
        held_out = {identifier for name in chosen for identifier in speakers[name]}
        obstacle = None if held_out else _no_fit(speakers, fraction, len(rows))
    if obstacle is None:
        reason = (
            f"{len(chosen)} of {len(speakers)} speakers held out whole: {_share(len(held_out), len(rows), fraction)}"
        )
        return _make_split(rows, held_out, "speaker", reason)
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    held_out = set(_seeded_order(rows, seed)[:count])
    reason = f"random utterances, because {obstacle}: {_share(count, len(rows), fraction)}"
    return _make_split(rows, held_out, "random", reason)


def _group_by_speaker(rows: dict[str, Utterance]) -> tuple[dict[str, list[str]], str | None]:
    """Return the ids of each speaker, and in words what forbids a split by speaker, if anything does."""
    unnamed = sum(utterance.speaker_id is None for utterance in rows.values())
    if unnamed:
        return {}, f"{unnamed} of {len(rows)} utterances have no speaker_id"
    speakers: dict[str, list[str]] = defaultdict(list)
    for utterance in rows.values():
        speakers[str(utterance.speaker_id)].append(utterance.id)
    if len(speakers) <= MIN_TRAIN_SPEAKERS:
        return speakers, (
            f"there are {len(speakers)} speaker(s), and holding one out whole needs at least "
            f"{MIN_TRAIN_SPEAKERS + 1} ({MIN_TRAIN_SPEAKERS} stay in training)"
        )
    return speakers, None


def _choose_speakers(sizes: dict[str, int], target: float, seed: int) -> list[str]:
    """Return speakers that together have about `target` utterances; empty when no set is within `TOLERANCE`.

    Three attempts, and the three together miss no possible set: a random draw that comes nearer with
    every speaker; one speaker alone; the largest speakers first (when only few may be held out).
    """
    most = len(sizes) - MIN_TRAIN_SPEAKERS
    candidates = [name for name in _seeded_order(sizes, seed) if sizes[name] <= TOLERANCE[1] * target]
    drawn = _draw(candidates, sizes, target, most)
    if _fits(drawn, sizes, target):
        return drawn
    alone = min(candidates, key=lambda name: abs(sizes[name] - target), default=None)
    if alone is not None and _fits([alone], sizes, target):
        return [alone]
    largest = _draw(sorted(candidates, key=lambda name: -sizes[name]), sizes, target, most)
    return largest if _fits(largest, sizes, target) else []


def _draw(order: Sequence[str], sizes: dict[str, int], target: float, most: int) -> list[str]:
    chosen: list[str] = []
    total = 0
    for name in order:
        if len(chosen) < most and abs(total + sizes[name] - target) <= abs(total - target):
            chosen.append(name)
            total += sizes[name]
    return chosen


def _fits(names: Sequence[str], sizes: dict[str, int], target: float) -> bool:
    low, high = TOLERANCE
    return low * target <= sum(sizes[name] for name in names) <= high * target


def _seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Return `names` in an order that depends on each name and `seed` alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _no_fit(speakers: dict[str, list[str]], fraction: float, total: int) -> str:
    low, high = (bound * fraction for bound in TOLERANCE)
    sizes = [len(ids) for ids in speakers.values()]
    return (
        f"no set of whole speakers comes to between {low:.1%} and {high:.1%} of the utterances with "
        f"{MIN_TRAIN_SPEAKERS} speakers left to train on "
        f"(one speaker has {min(sizes) / total:.1%} to {max(sizes) / total:.1%})"
    )


def _share(count: int, total: int, fraction: float) -> str:
    return f"{count} of {total} utterances ({count / total:.1%}, asked for {fraction:.1%})"


def _make_split(
    rows: dict[str, Utterance], held_out: set[str], kind: Literal["speaker", "random"], reason: str
) -> Split:
    return Split(
        train=tuple(utterance for identifier, utterance in rows.items() if identifier not in held_out),
        validation=tuple(utterance for identifier, utterance in rows.items() if identifier in held_out),
        kind=kind,
        reason=reason,
    )
