"""Parts of a manifest that share no speaker and no audio, by fractions or hours."""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora.data.leakage import Leak, LeakRow, find_leaks
from lora.errors import CheckFailed, ConfigError, ManifestError
from lora.units import Seconds

PartUnit = Literal["fraction", "hours", "rest"]
SplitBy = Literal["speaker", "utterance"]
MAX_ATTEMPTS = 64
MAX_PLACEMENTS = 400_000


@dataclass(frozen=True)
class Part:
    """One part that is asked for: `amount` is a fraction of the audio, hours, or nothing for the rest."""

    name: str
    unit: PartUnit
    amount: float = 0.0

    def target(self, total: Seconds) -> Seconds:
        """Return the seconds asked for; 0 for the rest."""
        return self.amount * total if self.unit == "fraction" else self.amount * 3600


@dataclass(frozen=True)
class Measured:
    """An utterance as far as a division needs it."""

    row: LeakRow
    seconds: Seconds

    @property
    def id(self) -> str:
        return self.row.shown_id


def parse_parts(texts: Sequence[str]) -> tuple[Part, ...]:
    """Parse `train=0.8 validation=0.1 test=1.5h extra=rest`.

    Raises:
        ConfigError: listing every wrong part, or fractions that come to more than 1.
    """
    parts: list[Part] = []
    problems: list[str] = []
    for text in texts:
        name, _, amount = text.partition("=")
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(h?)", amount)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not (found or amount == "rest"):
            problems.append(
                f"{text!r}; expected NAME=FRACTION, NAME=HOURSh or NAME=rest, for example test=0.1 or test=2h"
            )
        elif found:
            parts.append(Part(name, "hours" if found[2] else "fraction", float(found[1])))
        else:
            parts.append(Part(name, "rest"))
    names = [part.name for part in parts]
    problems += [f"{name!r} is named twice" for name in sorted(set(names)) if names.count(name) > 1]
    problems += [f"{part.name!r} asks for nothing" for part in parts if part.unit != "rest" and part.amount == 0]
    if sum(part.unit == "rest" for part in parts) > 1:
        problems.append("more than one part takes the rest")
    fractions = sum(part.amount for part in parts if part.unit == "fraction")
    if fractions > 1 + 1e-9:
        problems.append(f"the fractions come to {fractions:g}; expected at most 1")
    if len(texts) < 1:
        problems.append("got none, expected at least one")
    if problems:
        raise ConfigError("--parts cannot be used", problems)
    return tuple(parts)


def divide(rows: Sequence[Measured], parts: Sequence[Part], *, by: SplitBy, seed: int) -> dict[str, str]:
    """Return the part of each utterance id; an utterance in no part is left out.

    Whole groups are placed: all utterances of a speaker, and all with the same audio or likely the same recording,
    whoever is said to speak. Of many seeded orders the one that comes nearest to what was asked for is taken. Depends
    on the ids, not on the order of the rows.

    Raises:
        ManifestError: an utterance without speaker where `by` is "speaker", too few groups, or too little audio.
    """
    if by == "speaker":
        unnamed = sum(row.row.speaker_id is None for row in rows)
        if unnamed:
            raise ManifestError(
                f"{unnamed} of {len(rows)} utterances have no speaker_id, so no split can keep speakers apart. "
                "Add speaker_id, or pass --by utterance."
            )
    groups = _group(sorted(rows, key=lambda row: row.id), by)
    targets = _targets(sum(row.seconds for row in rows), parts)
    if len(groups) < len(parts):
        kind = "speakers that share no audio" if by == "speaker" else "utterances of different audio"
        raise ManifestError(f"got {len(groups)} {kind}; {len(parts)} parts need at least {len(parts)}. Ask for fewer.")
    sizes = {group: sum(row.seconds for row in members) for group, members in groups.items()}
    placed = _place_best(sizes, targets, seed)
    empty = [part.name for part in parts if part.name not in placed.values()]
    if empty:
        raise ManifestError(f"nothing is left for {', '.join(empty)}: whole speakers do not fit. Ask for larger parts.")
    return {row.id: placed[group] for group, members in groups.items() for row in members if placed[group] != LEFT_OUT}


LEFT_OUT = ""
"""The part of what no one asked for."""


def check_parts(rows: Sequence[Measured], assigned: Mapping[str, str], *, by: SplitBy) -> list[Leak]:
    """Compare every two parts, and return the transcripts that they share.

    Raises:
        CheckFailed: parts share an id, audio, a recording, or (by speaker) a speaker.
    """
    members: dict[str, list[LeakRow]] = defaultdict(list)
    for row in rows:
        if row.id in assigned:
            members[assigned[row.id]].append(row.row)
    names = sorted(members)
    leaks = [
        leak
        for number, name in enumerate(names)
        for other in names[number + 1 :]
        for leak in find_leaks(members[name], members[other])
    ]
    bad = [leak for leak in leaks if leak.is_forbidden or (leak.kind == "speaker" and by == "speaker")]
    if bad:
        raise CheckFailed("the parts leak into each other", list(map(str, bad)))
    return [leak for leak in leaks if leak.kind == "transcript"]


def _targets(total: Seconds, parts: Sequence[Part]) -> dict[str, Seconds]:
    targets = {part.name: part.target(total) for part in parts if part.unit != "rest"}
    asked = sum(targets.values())
    if asked > total * (1 + 1e-9):
        raise ManifestError(
            f"the parts ask for {asked / 3600:.3f} hours, and there are {total / 3600:.3f}. Ask for less."
        )
    rest = next((part.name for part in parts if part.unit == "rest"), None)
    if rest is not None or asked < total * (1 - 1e-9):
        targets[rest or LEFT_OUT] = max(total - asked, 1e-9)
    return targets


def _group(rows: Sequence[Measured], by: SplitBy) -> dict[str, list[Measured]]:
    """Return the utterances that must stay together, under the smallest id of each group."""
    first_with: dict[tuple[str, str], str] = {}
    leader: dict[str, str] = {}

    def find(identifier: str) -> str:
        while leader[identifier] != identifier:
            leader[identifier] = leader[leader[identifier]]
            identifier = leader[identifier]
        return identifier

    for row in rows:
        leader[row.id] = row.id
        keys = [("audio", str(row.row.audio_sha256))] if row.row.audio_sha256 is not None else []
        if row.row.recording is not None:
            keys.append(("recording", str(row.row.recording)))
        if by == "speaker":
            keys.append(("speaker", str(row.row.speaker_id)))
        for key in keys:
            one, other = sorted((find(row.id), find(first_with.setdefault(key, row.id))))
            leader[other] = one
    groups: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        groups[find(row.id)].append(row)
    return dict(groups)


def _place_best(sizes: Mapping[str, Seconds], targets: Mapping[str, Seconds], seed: int) -> dict[str, str]:
    attempts = max(1, min(MAX_ATTEMPTS, MAX_PLACEMENTS // (len(sizes) * len(targets))))
    placements = [_place(_seeded_order(sizes, f"{seed}/{number}"), sizes, targets) for number in range(attempts)]
    return min(placements, key=lambda placed: _distance(placed, sizes, targets))


def _place(order: Iterable[str], sizes: Mapping[str, Seconds], targets: Mapping[str, Seconds]) -> dict[str, str]:
    """Give each group to the part that lacks the largest share of what it asks for."""
    filled = dict.fromkeys(targets, 0.0)
    placed: dict[str, str] = {}
    for group in order:
        part = max(targets, key=lambda name: ((targets[name] - filled[name]) / targets[name], targets[name]))
        filled[part] += sizes[group]
        placed[group] = part
    return placed


def _distance(placed: Mapping[str, str], sizes: Mapping[str, Seconds], targets: Mapping[str, Seconds]) -> float:
    """Return how far the parts are from what was asked for: relative, so that a small part counts as much."""
    filled = dict.fromkeys(targets, 0.0)
    for group, part in placed.items():
        filled[part] += sizes[group]
    return sum(abs(filled[name] / target - 1) for name, target in targets.items() if name != LEFT_OUT)


def _seeded_order(names: Iterable[str], seed: str) -> list[str]:
    order = sorted(names)
    random.Random(hashlib.sha256(seed.encode()).digest()).shuffle(order)
    return order
