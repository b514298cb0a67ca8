"""Prompts: what a person is asked to read aloud, and where they are in it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.errors import InputError

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_IN_PROMPT = (3, 7)
WORDS_IN_PROMPT = (3, 6)
MAX_PROMPT_CHARACTERS = 300


@dataclass
class PromptList:
    """The prompts of one sitting; `position` moves on when one is accepted or skipped."""

    prompts: tuple[str, ...]
    position: int = 0

    @property
    def current(self) -> str | None:
        """Return the prompt to read now, None at the end."""
        return self.prompts[self.position] if self.position < len(self.prompts) else None

    def advance(self) -> None:
        """Go to the next prompt."""
        self.position = min(self.position + 1, len(self.prompts))


def digit_prompts(count: int, *, seed: int) -> PromptList:
    """Return digit strings in which every digit comes about equally often.

    Digits are dealt from shuffled packs of ten, so that ten prompts already hold each digit several times.
    """
    return PromptList(_deal(DIGIT_WORDS, count, DIGITS_IN_PROMPT, seed))


def word_prompts(words: Sequence[str], count: int, *, seed: int) -> PromptList:
    """Return strings of a person's own words, each about equally often."""
    return PromptList(_deal(tuple(words), count, WORDS_IN_PROMPT, seed))


def _deal(words: tuple[str, ...], count: int, length: tuple[int, int], seed: int) -> tuple[str, ...]:
    rng = random.Random(seed)
    pack: list[str] = []
    prompts = []
    for _ in range(count):
        wanted = rng.randint(*length)
        while len(pack) < wanted:
            pack += rng.sample(words, len(words))
        prompts.append(" ".join(pack[:wanted]))
        del pack[:wanted]
    return tuple(prompts)


def read_prompts(path: Path, count: int, *, seed: int) -> PromptList:
    """Read prompts from a text file: lines of several words are sentences, a list of single words is mixed.

    Raises:
        InputError: the file cannot be read, is empty, or a line is too long to read aloud.
    """
    try:
        lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    long = [number for number, line in enumerate(lines, start=1) if len(line) > MAX_PROMPT_CHARACTERS]
    if long:
        raise InputError(f"{path}:{long[0]}: longer than {MAX_PROMPT_CHARACTERS} characters; split it into sentences.")
    kept = [line for line in lines if any(char.isalnum() for char in line)]
    if not kept:
        raise InputError(f"{path}: no words; expected one sentence or one word a line.")
    if all(" " not in line for line in kept):
        return word_prompts(kept, count, seed=seed)
    return PromptList(tuple(kept[:count]))
