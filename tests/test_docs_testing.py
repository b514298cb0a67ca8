"""docs/testing.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "testing.md"


def test_every_test_that_the_page_names_is_there() -> None:
    named: list[tuple[str, str]] = []
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        file = ""
        for word in re.findall(r"`([\w/]+\.py|test_\w+)`", row) if row.startswith("|") else []:
            if word.endswith(".py"):
                file = word
            else:
                named.append((file, word))
    assert len(named) > 40
    missing = [f"{file}: {name}" for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert missing == []
