"""JSON and YAML that others wrote, read within bounds: a small file may cost little time and memory only.

Every fault is a `ValueError` whose text is one line, so a reader adds the place and what to do. What the bounds refuse
is valid text: nesting that no recursive code survives, integers that take Python minutes, aliases that unfold to
billions of values.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import yaml

MAX_DEPTH = 64
MAX_DIGITS = 40
MAX_YAML_CHARACTERS = 2**18
"""Read in five seconds; the longest file of the project's own has a thirtieth of it."""
MAX_YAML_VALUES = 50_000
"""With each alias counted as what it stands for."""


def parse_json(text: str, *, unique_keys: bool = False) -> Any:
    """Return the value of a JSON document; NaN and infinity are refused, as JSON has neither.

    Args:
        unique_keys: refuse an object with a key twice, of which Python keeps the last.

    Raises:
        ValueError: not JSON, or beyond the bounds.
    """
    try:
        value = (_UNIQUE_DECODER if unique_keys else _DECODER).decode(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    # Two counts of characters, not a look at every sample of an inline waveform.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document; repeated keys are refused and 1e-4 is a number.

    Raises:
        ValueError: not YAML, or beyond the bounds.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"longer than {MAX_YAML_CHARACTERS} characters")
    try:
        return _BoundedLoader(text).get_single_data()
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    # PyYAML leaves it to Python when a value is not what its form or tag says: `2026-99-99`, `!!bool maybe`.
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"a value is not what its form or tag says ({error})") from error


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in _items_of(parent) if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _items_of(parent: Any) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ()


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name} is not allowed")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return row


_DECODER = json.JSONDecoder(parse_int=_bounded_int, parse_constant=_refuse_constant)
_UNIQUE_DECODER = json.JSONDecoder(
    parse_int=_bounded_int, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
)


class _BoundedLoader(yaml.SafeLoader):
    """SafeLoader within the bounds that reads 1e-4 as a number (YAML 1.2), not as a string."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._extents: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node, and know how many values it unfolds to and in how many levels."""
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not is_alias:
            self._extents[node] = self._extent_of(node)
        elif node not in self._extents:
            raise yaml.composer.ComposerError(None, None, "an alias stands for what it is in", mark)
        values, depth = self._extents[node]
        if values > MAX_YAML_VALUES or depth > MAX_DEPTH:
            text = f"at most {MAX_YAML_VALUES} values (aliases unfolded) in {MAX_DEPTH} levels are read"
            raise yaml.composer.ComposerError(None, None, text, mark)
        return node

    def _extent_of(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        extents = [self._extents[child] for child in children]
        return 1 + sum(values for values, _ in extents), 1 + max((depth for _, depth in extents), default=0)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Return a number of few digits; PyYAML multiplies the parts of `1:2:3` without an end."""
        if len(str(node.value)) > MAX_DIGITS:
            text = f"a number of {len(node.value)} characters; at most {MAX_DIGITS} are read"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        is_int = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


_BoundedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _BoundedLoader.add_constructor(_tag, _BoundedLoader.construct_number)
