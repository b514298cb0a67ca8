"""What an option's type hint says: its item type, its name for people, its placeholder in help."""

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NAMES: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    bool: ("true or false", "true or false"),
}


def without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        return typing.Union[tuple(rest)]  # noqa: UP007 (a tuple of types has no `|`)
    return hint


def is_bool(hint: Any) -> bool:
    return without_none(hint) is bool


def item_type(hint: Any) -> Any:
    """Return T for list[T], tuple[T, ...] and Sequence[T] (or None beside them), else None."""
    inner = without_none(hint)
    origin = typing.get_origin(inner)
    is_list = isinstance(origin, type) and issubclass(origin, Sequence)
    return typing.get_args(inner)[0] if is_list else None


def replace_item(hint: Any, item: Any) -> Any:
    """Put `item` in the place of T in T, T | None, list[T] and list[T] | None."""
    new = item if item_type(hint) is None else typing.get_origin(without_none(hint))[item]
    return new | None if type(None) in typing.get_args(hint) else new


def type_name(hint: Any) -> str:
    """Name a type in the words of a person: `a whole number`, `a list of paths`, `one of a, b`."""
    inner = without_none(hint)
    if (item := item_type(hint)) is not None:
        return f"a list of {_NAMES[item][1] if item in _NAMES else type_name(item)}"
    if typing.get_origin(inner) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(inner)))
    if inner in _NAMES:
        return _NAMES[inner][0]
    return " or ".join(type_name(part) for part in typing.get_args(inner)) or str(inner)


def metavar(hint: Any) -> str:
    inner = without_none(hint)
    if typing.get_origin(inner) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(inner))) + "}"
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        return "|".join(map(metavar, typing.get_args(inner)))
    return {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}.get(inner, "VALUE")


def as_declared(hint: Any, value: Any) -> Any:
    """Return a tuple where the options dataclass declares one; the parser makes lists."""
    is_tuple = typing.get_origin(without_none(hint)) is tuple
    return tuple(value) if is_tuple and value is not None else value
