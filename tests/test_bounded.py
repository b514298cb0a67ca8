"""Small files that would cost minutes, all memory or a traceback are refused at once."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from lora.bounded import MAX_DEPTH, MAX_DIGITS, MAX_YAML_VALUES, parse_json, parse_yaml
from lora.errors import ConfigError, InputError
from lora.files import read_json, read_object
from lora.scripts.cli import read_yaml

LETTERS = "abcdefghij"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(LETTERS)
)
MERGED_LAUGHS = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n" for before, name in pairwise(LETTERS)
)
STACKED = "a0: &a0 [x]\n" + "".join(f"a{level + 1}: &a{level + 1} [*a{level}]\n" for level in range(MAX_DEPTH))
HOSTILE_YAML = {
    "aliases that unfold to ten billion values": (LAUGHS, "aliases unfolded"),
    "merges that unfold to ten billion keys": (MERGED_LAUGHS, "aliases unfolded"),
    "an alias of what it is in": ("a: &a [*a]", "an alias stands for what it is in"),
    "aliases stacked into depth": (STACKED, f"in {MAX_DEPTH} levels"),
    "brackets without end": ("[" * 100_000, "nested deeper"),
    "sequences in sequences on one line": ("- " * 100_000, "nested deeper"),
    "blocks in blocks": ("".join(f"{' ' * level}a:\n" for level in range(400)), "levels"),
    "too many values": ("[" + "~," * (MAX_YAML_VALUES + 1) + "]", f"at most {MAX_YAML_VALUES} values"),
    "an integer of 6000 digits": ("a: " + "9" * 6000, "a number of 6000 characters"),
    "a hexadecimal integer of 6000 digits": ("a: 0x" + "f" * 6000, "a number of 6002 characters"),
    "a sexagesimal number": ("a: 1:" + ":".join(["59"] * 60_000), "a number of"),
    "a date that is none": ("a: 2026-99-99", "not what its form or tag says"),
    "a tag that does not fit": ("a: !!bool maybe", "not what its form or tag says"),
    "a mapping that is a number": ("!!map 3", "not what its form or tag says"),
    "a list as a key": ("? [a]\n: b", "unhashable key"),
    "a long file": ("# " + "long " * 100_000, "longer than"),
}
HOSTILE_JSON = {
    "brackets without end": ("[" * 100_000, "nested deeper"),
    "one level too many": ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
    "objects in lists": ('[{"a":' * MAX_DEPTH + "1" + "}]" * MAX_DEPTH, "nested deeper"),
    "an integer of 6000 digits": ("9" * 6000, "an integer of 6000 digits"),
    "not a number": ("[NaN]", "the number NaN"),
    "endless": ("-Infinity", "the number -Infinity"),
}


@pytest.mark.parametrize(("text", "fault"), HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml_is_refused_at_once(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        read_yaml(path)
    assert fault in str(caught.value)
    assert caught.value.exit_code == 2
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("text", "fault"), HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not valid JSON") as caught:
        read_json(path)
    assert fault in str(caught.value)


def test_what_is_within_the_bounds_is_read() -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(nested) == parse_yaml(nested)
    assert parse_json("9" * MAX_DIGITS) == parse_yaml("9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    shared = "base: &base {rank: 8, alpha: 1e-4}\nruns: [*base, {<<: *base, rank: 4}]"
    assert parse_yaml(shared)["runs"] == [{"rank": 8, "alpha": 1e-4}, {"rank": 4, "alpha": 1e-4}]


def test_a_key_twice_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="key 'a' appears twice"):
        parse_json('{"a": 1, "a": 2}', unique_keys=True)


def test_a_device_without_an_end_is_no_config_file() -> None:
    with pytest.raises(ConfigError):
        read_yaml(Path("/dev/zero"))


def test_a_json_file_that_is_not_the_object_it_must_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"metrics\.json: got a JSON list, expected an object"):
        read_object(path)
    path.write_text('{"a": 1}')
    assert read_object(path, "a") == {"a": 1}
    with pytest.raises(InputError, match=r"metrics\.json: b, c is missing"):
        read_object(path, "a", "b", "c")


def test_a_folder_in_place_of_a_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)
