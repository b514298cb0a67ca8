"""Word and character errors as counts.

A rate hides how much was measured, so nothing here returns a bare rate: counts are pooled first and
divided last. No utterance is dropped, an empty reference included.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from rapidfuzz.distance import Levenshtein
from whisper_normalizer.english import EnglishTextNormalizer

from lora.errors import InputError

TextStyle = Literal["raw", "light", "whisper"]
TEXT_STYLES: tuple[TextStyle, ...] = get_args(TextStyle)

AlignmentOp = Literal["equal", "substitute", "delete", "insert"]
AlignedWord = tuple[AlignmentOp, str | None, str | None]
"""Operation, reference word (`None` for an insertion), hypothesis word (`None` for a deletion)."""

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\uff07", "'"))
_OUTER_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Edit operations that turn the reference into the hypothesis, in words or characters.

    Raises:
        InputError: a count is negative, or more of the reference was changed than it holds.
    """

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    def __post_init__(self) -> None:
        smallest = min(self.substitutions, self.deletions, self.insertions, self.reference_length)
        if smallest < 0 or self.substitutions + self.deletions > self.reference_length:
            raise InputError(
                f"error counts: got {self.substitutions} substitutions, {self.deletions} deletions, "
                f"{self.insertions} insertions for a reference of {self.reference_length}; expected counts from 0, "
                "and no more of the reference changed than it holds. Count from the texts again."
            )

    @classmethod
    def zero(cls) -> "ErrorCounts":
        """Return the counts of nothing: the neutral element of addition."""
        return cls(0, 0, 0, 0)

    @property
    def errors(self) -> int:
        """All edit operations."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit, above 1 where much was inserted; `None` without a reference."""
        return self.errors / self.reference_length if self.reference_length else None

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


def pool(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Add up counts; the pooled rate weighs each utterance by its reference length."""
    return sum(counts, ErrorCounts.zero())


def normalize_text(text: str, style: TextStyle) -> str:
    """Return `text` as one of the three styles in which errors are reported.

    `raw` changes nothing. `light` (the primary one) ignores case, punctuation, symbols and runs of spaces,
    and keeps apostrophes inside words; it never rewrites a word or a number. `whisper` is Whisper's English
    normaliser, for comparison with published figures. It is not the primary one because it turns
    "four six five" into "465": three spoken words count as one, and a changed digit can hide.

    Raises:
        InputError: `style` is not one of the three.
    """
    if style == "raw":
        return text
    if style == "light":
        return _normalize_light(text)
    if style == "whisper":
        return str(_whisper_normalizer()(text))
    raise InputError(f"text style: got {style!r}; expected one of {', '.join(TEXT_STYLES)}. Choose one of these.")


def _normalize_light(text: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).translate(_APOSTROPHES)
    kept = "".join(_light_character(character) for character in folded)
    return " ".join(_OUTER_APOSTROPHE.sub(" ", kept).split())


def _light_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width marks and soft hyphens sit inside words: a space would split them
        return ""
    return " " if character != "'" and category[0] in "PSC" else character


@cache
def _whisper_normalizer() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


def count_word_errors(ref: str, hyp: str) -> ErrorCounts:
    """Count word errors of `hyp` against `ref`; words are what whitespace separates.

    An empty reference is legal: every hypothesis word is then an insertion.
    """
    return _count(ref.split(), hyp.split())


def count_char_errors(ref: str, hyp: str) -> ErrorCounts:
    """Count character errors of `hyp` against `ref`; a run of whitespace is one space, none at the ends."""
    return _count(" ".join(ref.split()), " ".join(hyp.split()))


def _count(ref: str | list[str], hyp: str | list[str]) -> ErrorCounts:
    substitutions = deletions = insertions = 0
    for operation in Levenshtein.editops(ref, hyp):
        if operation.tag == "replace":
            substitutions += 1
        elif operation.tag == "delete":
            deletions += 1
        else:
            insertions += 1
    return ErrorCounts(substitutions, deletions, insertions, len(ref))


def align_words(ref: str, hyp: str) -> list[AlignedWord]:
    """Align two texts word by word with the fewest edits, in reading order.

    Its edits are those of `count_word_errors`.
    """
    ref_words, hyp_words = ref.split(), hyp.split()
    aligned: list[AlignedWord] = []
    for block in Levenshtein.opcodes(ref_words, hyp_words):
        in_ref = ref_words[block.src_start : block.src_end]
        in_hyp = hyp_words[block.dest_start : block.dest_end]
        if block.tag == "delete":
            aligned += [("delete", word, None) for word in in_ref]
        elif block.tag == "insert":
            aligned += [("insert", None, word) for word in in_hyp]
        else:
            operation: AlignmentOp = "equal" if block.tag == "equal" else "substitute"
            aligned += [(operation, *pair) for pair in zip(in_ref, in_hyp, strict=True)]
    return aligned
