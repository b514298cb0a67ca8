r"""Text from outside, made safe to show: file names, ids, transcripts, messages of other programs.

A terminal obeys control characters, and a bidi override shows text in another order than it has. Both become `\u001b`
and the like, which is also how JSON writes them: JSON text stays JSON and keeps its value.
"""

import re

# C0, DEL and C1; line and paragraph separators, bidi embeddings, overrides and isolates; surrogates, which a file name
# has for bytes that are no UTF-8. Marks such as U+200F stay: right-to-left text needs them, and they reorder little.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return `text` on one line, with an escape for every character that a terminal would obey."""
    return _CONTROL.sub(_escaped, str(text))


def printable_lines(text: object) -> str:
    """Return `text` with such escapes, line feeds and tabs kept."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else _escaped(match), str(text))


def replace_controls(text: str, mark: str) -> str:
    """Return `text` with `mark` in place of each such character, for where an escape would take too much room."""
    return _CONTROL.sub(mark, text)


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
