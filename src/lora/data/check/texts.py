"""Text faults: of one text, against the other texts of its manifest, and against the length of its audio."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Literal

from lora.data.check.audio import Fault
from lora.data.check.rows import CheckedRow

Casing = Literal["upper", "lower", "mixed"]

UNKNOWN_WORD = re.compile(r"[<\[({]\s*(unk|unknown|oov)\s*[>\])}]", re.IGNORECASE)
BRACKETED = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)")
HIDDEN = {"\ufeff", "\ufffd", *map(chr, range(0x200B, 0x2010)), *map(chr, range(0x202A, 0x202F))} - {"\u200c", "\u200d"}
"""Byte order mark, replacement character, invisible marks. Joiners stay: several scripts need them."""

NUMBER_WORDS = frozenset(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million".split()
)
"""Without `one`, which is a pronoun too."""

CHARS_PER_SECOND = (1.0, 40.0)
WORDS_PER_SECOND = (0.5, 5.5)
FAST_RATIO, FAST_SPREADS = 1.85, 2.5
SLOW_RATIO, SLOW_SPREADS = 2.3, 3.5
"""How far from the manifest's usual rate is suspicious: this ratio, or this many spreads where clips vary more.

A header that is wrong is wrong by a factor of 2 or more (8, 16, 44.1, 48 kHz). Hesitant speech is half as
fast as usual without any fault, so the bound on that side is wider.
"""
MIN_WORDS_FOR_RATE = 3
MIN_CLIPS_FOR_MEDIAN = 8
MAX_WORDS, MAX_CHARS = 193, 1000
"""Moonshine tiny and base emit at most 193 tokens: a word takes one at least, and five characters about one."""


def check_texts(rows: Sequence[CheckedRow]) -> list[Fault]:
    """Add the faults of the texts of one manifest to its rows; return those of the manifest as a whole."""
    readable = [row for row in rows if row.text]
    for row in readable:
        row.faults += check_text(row.text)
    _check_minority(readable, "mixed-numbers", number_style, "{kind} here, {other} in most others")
    _check_minority(readable, "other-script", script_of, "{kind} letters; most texts have {other}")
    _check_rates([row for row in readable if row.facts is not None and not row.has_error])
    return _check_casing(readable)


def check_text(text: str) -> Iterator[Fault]:
    """Yield the faults of one text by itself."""
    bad = sorted({char for char in text if char in HIDDEN or unicodedata.category(char) in ("Cc", "Co")})
    if bad:
        yield "control-character", ", ".join(f"U+{ord(char):04X}" for char in bad)
    if unknown := UNKNOWN_WORD.search(text):
        yield "unknown-word-tag", unknown[0]
    tags = [tag for tag in BRACKETED.findall(text) if not UNKNOWN_WORD.fullmatch(tag)]
    if tags:
        yield "bracket-tag", " ".join(tags)[:80]
    words = len(text.split())
    if words > MAX_WORDS or len(text) > MAX_CHARS:
        yield "text-too-long", f"{words} words, {len(text)} characters; at most {MAX_WORDS} and {MAX_CHARS}"


def casing_of(text: str) -> Casing | None:
    """Return how a text is cased; `None` where its letters do not tell (no case, or one lone capital).

    Words with digits and single letters are passed over: "A" and "I" are capitals in every casing.
    """
    words = [word for word in re.findall(r"[^\W_]+", BRACKETED.sub(" ", text)) if len(word) > 1 and word.isalpha()]
    cased = [word for word in words if word.lower() != word.upper()]
    if not cased:
        return None
    if all(word.isupper() for word in cased):
        # "OK" or "USA" alone says nothing about the manifest's casing.
        return "upper" if len(cased) > 1 or len(cased[0]) > 4 else None
    return "lower" if all(word.islower() for word in cased) else "mixed"


def number_style(text: str) -> str | None:
    """Return "digits" or "words" for a text with numbers; both in one text count as digits."""
    if any(char.isdigit() for char in text):
        return "digits"
    return "words" if NUMBER_WORDS & set(re.findall(r"[a-z]+", text.lower())) else None


def script_of(text: str) -> str | None:
    """Return the script of most letters, as Unicode names them: LATIN, CYRILLIC, CJK."""
    letters = [char for char in text if char.isalpha()]
    if all(char.isascii() for char in letters):
        return "LATIN" if letters else None
    names = Counter(unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0] for char in letters)
    # Japanese writes in three scripts at once.
    for kana in ("HIRAGANA", "KATAKANA"):
        names["CJK"] += names.pop(kana, 0)
    return names.most_common(1)[0][0]


def _check_casing(rows: Sequence[CheckedRow]) -> list[Fault]:
    counts = Counter(kind for row in rows if (kind := casing_of(row.text)))
    if counts and counts["upper"] == counts.total() and (counts.total() > 1):
        return [("all-caps", f"{counts.total()} of {len(rows)} texts")]
    _check_minority(rows, "casing", casing_of, "{kind} case; most texts have {other} case")
    return []


def _check_minority(rows: Sequence[CheckedRow], code: str, kind_of: Callable[[str], str | None], words: str) -> None:
    kinds = [kind_of(row.text) for row in rows]
    counts = Counter(kind for kind in kinds if kind is not None)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    for row, kind in zip(rows, kinds, strict=True):
        if kind is not None and kind != usual:
            row.faults.append((code, words.format(kind=kind, other=usual)))


def _check_rates(rows: Sequence[CheckedRow]) -> None:
    """Compare how fast each text is spoken with what speech can be, and with the manifest's other clips."""
    rates: list[tuple[CheckedRow, float]] = []
    for row in rows:
        assert row.facts is not None
        seconds = max(row.facts.active_seconds, 0.05)
        num_words = len(row.text.split())
        chars = len("".join(row.text.split()))
        low, high = CHARS_PER_SECOND
        # One short word may lie in any amount of silence, or be cut very close.
        if num_words >= MIN_WORDS_FOR_RATE and not low <= chars / seconds <= high:
            row.faults.append(("text-rate", f"{chars} characters in {seconds:.1f} s of sound"))
        elif chars / seconds > 3 * high:
            row.faults.append(("text-rate", f"{chars} characters in {seconds:.2f} s of sound"))
        elif num_words >= MIN_WORDS_FOR_RATE:
            rates.append((row, num_words / seconds))
    if not rates:
        return
    usual = median(rate for _, rate in rates)
    spread = 1.4826 * median(abs(math.log(rate / usual)) for _, rate in rates)
    fast, slow = max(FAST_RATIO, math.exp(FAST_SPREADS * spread)), max(SLOW_RATIO, math.exp(SLOW_SPREADS * spread))
    if len(rates) < MIN_CLIPS_FOR_MEDIAN:
        fast = slow = math.inf
    for row, rate in rates:
        assert row.facts is not None
        outside = not WORDS_PER_SECOND[0] <= rate <= WORDS_PER_SECOND[1]
        if outside or not 1 / slow <= rate / usual <= fast:
            row.faults.append(
                ("wrong-rate", f"{rate:.1f} words a second at {row.facts.sampling_rate} Hz; usual here {usual:.1f}")
            )
