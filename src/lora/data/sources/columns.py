"""Which column of a table holds what, checked against the table's features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from lora.errors import SourceError

_TEXT_TYPES = ("string", "large_string")
_INTEGER_TYPES = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


@dataclass(frozen=True)
class Columns:
    """Which column of the dataset holds what.

    Without `id`, an utterance is named by the hash of its audio and text, so its id does not depend on
    the order. `extra` columns are kept in the manifest.
    """

    audio: str = "audio"
    text: str = "text"
    speaker: str | None = None
    id: str | None = None
    extra: tuple[str, ...] = ()


def check_columns(table: Any, columns: Columns, name: str) -> Mapping[str, Any]:
    """Return the features by column.

    Raises:
        SourceError: listing every column that is missing or of a wrong type, and those present.
    """
    features = table.features or table._resolve_features().features
    wanted = {"audio": columns.audio, "text": columns.text, "speaker": columns.speaker, "id": columns.id}
    problems: list[str] = []
    for role, column in [*wanted.items(), *(("extra", column) for column in columns.extra)]:
        if column is None:
            continue
        if column not in features:
            problems.append(f"{role} column {column!r} does not exist")
        elif role != "extra" and not _is_usable(features[column], role):
            problems.append(f"{role} column {column!r} holds {_type_of(features[column])}; expected {_EXPECTED[role]}")
    if problems:
        present = ", ".join(f"{column} ({_type_of(feature)})" for column, feature in features.items())
        raise SourceError(f"{name}: {len(problems)} wrong column(s). Present are: {present}.", problems)
    return features


_EXPECTED = {"audio": "audio", "text": "text", "speaker": "text or integers", "id": "text or integers"}


def _is_usable(feature: Any, role: str) -> bool:
    if role == "audio":
        is_struct = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        return isinstance(feature, datasets.Audio) or is_struct or getattr(feature, "dtype", "") in ("string", "binary")
    if isinstance(feature, datasets.ClassLabel):
        return role != "id"
    types = _TEXT_TYPES if role == "text" else (*_TEXT_TYPES, *_INTEGER_TYPES)
    return isinstance(feature, datasets.Value) and feature.dtype in types


def _type_of(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def plain_value(value: Any, feature: Any) -> Any:
    """Return a class label's name; any other value as it is."""
    return feature.int2str(value) if isinstance(feature, datasets.ClassLabel) and value is not None else value
