"""Documents of the user's with a section of ours: what is between two markers is written, the rest stays as it is."""

import os
from pathlib import Path

from lora.errors import InputError
from lora.files import atomic_file


def read_document(path: Path) -> str:
    """Read a document with its line ends as they are.

    Raises:
        InputError: there is none, or it is no text.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such document. Check the path, or run in the folder that it is relative to.")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Give a Markdown document.") from error


def write_document(path: Path, text: str, *, before: str | None) -> None:
    """Write a document atomically, through a link to it and with its permissions.

    Args:
        before: as it was read, `None` where there was none.

    Raises:
        InputError: it was changed in the meantime.
        SetupError: it cannot be written.
    """
    target = path.resolve()
    with atomic_file(target) as file:
        file.write(text.encode("utf-8"))
        if before is not None and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
        if (read_document(path) if os.path.lexists(path) else None) != before:
            raise InputError(f"{path}: was changed while the section was made. Run the command again.")


def replace_section(text: str, name: str, body: str, *, where: Path) -> str:
    """Put `body` between `<!-- name -->` and `<!-- /name -->`, with the document's line ends.

    Raises:
        InputError: the document does not have each marker once, in this order.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise InputError(f"{where}: expected one {first} and after it one {last}. Add them where the section belongs.")
    section = f"\n\n{body}\n\n"
    if "\r\n" in text:
        section = section.replace("\n", "\r\n")
    return text[: text.index(first) + len(first)] + section + text[text.index(last) :]
