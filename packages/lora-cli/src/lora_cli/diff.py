"""The difference between what was heard and what is right, word by word."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Change = Literal["same", "removed", "added"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Words that belong together: kept, removed from what was heard, or added."""

    change: Change
    text: str


def word_difference(heard: str, right: str) -> list[Piece]:
    """Return the pieces that lead from `heard` to `right`; case counts, spaces do not."""
    old, new = heard.split(), right.split()
    pieces: list[Piece] = []
    for tag, old_from, old_to, new_from, new_to in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", " ".join(old[old_from:old_to])))
            continue
        if old_to > old_from:
            pieces.append(Piece("removed", " ".join(old[old_from:old_to])))
        if new_to > new_from:
            pieces.append(Piece("added", " ".join(new[new_from:new_to])))
    return pieces


def plain_difference(pieces: list[Piece]) -> str:
    """Return the pieces with marks that need no colour: `[-removed-] {+added+}`."""
    marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return " ".join(marks[piece.change].format(piece.text) for piece in pieces)
