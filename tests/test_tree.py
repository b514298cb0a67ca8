"""The README's file tree is the one on the disk."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lora"


def parts_in_tree(text: str) -> set[str]:
    """Return the names listed one level below `src/lora/` in the first tree of `text`.

    A line may hold several names before its description (`errors.py  units.py   what they are`);
    a folder ends in `/`. Tree-drawing characters count as indentation.
    """
    names: set[str] = set()
    depth: int | None = None
    below: int | None = None
    for line in text.splitlines():
        plain = re.sub(r"[│├└─|`]", " ", line)
        indent = len(plain) - len(plain.lstrip())
        if depth is None:
            depth = indent if re.match(r"\s*src/lora/(\s|$)", plain) else None
            continue
        if not plain.strip() or indent <= depth:
            break
        below = indent if below is None else below
        if indent == below:
            listed = re.match(r"\s*((?:\w+(?:/|\.py)(?:\s+|$))+)", plain)
            names.update(listed[1].split() if listed else [])
    return names


def parts_on_disk() -> set[str]:
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    return folders | {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}


def test_the_readme_lists_the_parts_of_the_package_as_they_are() -> None:
    readme = ROOT / "README.md"
    tree = parts_in_tree(readme.read_text(encoding="utf-8"))
    if not tree:
        pytest.skip("README.md shows no file tree below src/lora/")
    assert tree == parts_on_disk()


def test_a_tree_is_read_with_several_names_on_a_line_and_deeper_levels_left_out() -> None:
    text = (
        "```\nsrc/lora/\n  errors.py  units.py   the base, see x.py\n  data/    manifests\n    deep.py  no\ntests/\n```"
    )
    assert parts_in_tree(text) == {"errors.py", "units.py", "data/"}


def test_a_tree_is_read_with_drawn_branches() -> None:
    assert parts_in_tree("├── src/lora/  package\n│   ├── data/  manifests\n│   └── config.py\n└── tests/") == {
        "data/",
        "config.py",
    }
