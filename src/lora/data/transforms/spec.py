"""Transforms as compact text: `noise:white:snr=5`, `reverb:rt60=0.3-0.6`, `speed:0.9-1.1:p=0.5`.

`name[:variant][:value][:key=value]...`; a value is a number or a range `low-high` that is drawn from for each
utterance. `p` is how often the transform is applied at all. `path` comes last, because a path may hold a colon.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_VALUE = re.compile(rf"({_NUMBER})(?:-({_NUMBER}))?")


@dataclass(frozen=True)
class Parameter:
    """One number of a transform: what it defaults to and what is allowed; `None` has no default."""

    default: tuple[float, float] | None
    low: float
    high: float
    is_whole: bool = False


@dataclass(frozen=True)
class Kind:
    """One sort of transform. The first parameter may be given without its name."""

    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    takes_path: bool = False


_SNR = Parameter((10, 10), -20, 60)
_OFTEN = Parameter((1, 1), 0, 1)

KINDS: dict[str, Kind] = {
    "noise:white": Kind("white noise, `snr` dB under the voice", {"snr": _SNR}),
    "noise:pink": Kind("pink noise", {"snr": _SNR}),
    "noise:babble": Kind(
        "the talk of `voices` other speakers of the manifest", {"snr": _SNR, "voices": Parameter((4, 4), 1, 20, True)}
    ),
    "noise:folder": Kind("noise from the audio files in `path`", {"snr": _SNR}, takes_path=True),
    "telephone": Kind("300 to 3400 Hz"),
    "radio": Kind("300 to 2700 Hz"),
    "band": Kind("`low` to `high` Hz", {"low": Parameter(None, 0, 7900), "high": Parameter(None, 100, 8000)}),
    "mulaw": Kind("mu-law companding, G.711", {"bits": Parameter((8, 8), 2, 16, True)}),
    "reverb": Kind(
        "a room by the image method: decay time in seconds, talker's distance in metres",
        {"rt60": Parameter((0.4, 0.4), 0.05, 1.5), "distance": Parameter((1, 2.5), 0.2, 4)},
    ),
    "reverb:folder": Kind("impulse responses from the audio files in `path`", takes_path=True),
    "speed": Kind("tape speed; pitch moves with it", {"factor": Parameter(None, 0.5, 2)}),
    "pitch": Kind("pitch in semitones; length stays", {"semitones": Parameter(None, -12, 12)}),
    "clip": Kind("input driven too high by `overdrive` dB", {"overdrive": Parameter((6, 6), 0, 60)}),
    "level": Kind("louder or softer by dB", {"decibels": Parameter(None, -60, 60)}),
    "drop-freq": Kind(
        "SpecAugment on the waveform: bands left out",
        {"count": Parameter((1, 3), 0, 20, True), "width": Parameter((0.05, 0.05), 0.001, 0.5)},
    ),
    "drop-chunk": Kind(
        "SpecAugment on the waveform: stretches silenced",
        {"count": Parameter((1, 5), 0, 100, True), "ms": Parameter((62.5, 125), 1, 2000)},
    ),
}


@dataclass(frozen=True)
class Transform:
    """One transform with its ranges, defaults filled in; `str` gives text that parses to the same."""

    kind: str
    ranges: tuple[tuple[str, tuple[float, float]], ...] = ()
    path: Path | None = None

    def range_of(self, name: str) -> tuple[float, float]:
        """Return the range of one parameter."""
        return dict(self.ranges)[name]

    def __str__(self) -> str:
        values = [f"{name}={_range_text(low, high)}" for name, (low, high) in self.ranges]
        return ":".join([self.kind, *values, *([f"path={self.path}"] if self.path else [])])


def parse_transforms(texts: Iterable[str]) -> tuple[Transform, ...]:
    """Parse a list of transforms.

    Raises:
        ConfigError: listing every wrong one, with the nearest right name.
    """
    transforms: list[Transform] = []
    problems: list[str] = []
    for text in texts:
        try:
            transforms.append(parse_transform(text))
        except ConfigError as error:
            problems.append(error.message)
    if problems or not transforms:
        problems = problems or ["got none, expected at least one"]
        raise ConfigError(f"transforms: {len(problems)} cannot be used", problems)
    return tuple(transforms)


def parse_transform(text: str) -> Transform:
    """Parse one transform.

    Raises:
        ConfigError: an unknown name or key, or a value that is no number or out of range.
    """
    before, has_path, path = text.partition(":path=")
    name, *words = before.split(":")
    if words and f"{name}:{words[0]}" in KINDS:
        name = f"{name}:{words.pop(0)}"
    if name not in KINDS:
        raise ConfigError(f"{text}: unknown transform{_nearest(':'.join([name, *words[:1]]), KINDS)}")
    kind = KINDS[name]
    parameters = {**kind.parameters, "p": _OFTEN}
    given: dict[str, tuple[float, float]] = {}
    for number, word in enumerate(words):
        key, has_key, value = word.partition("=")
        if not has_key:
            key, value = next(iter(kind.parameters), ""), word
            if number or not key or not _VALUE.fullmatch(value):
                raise ConfigError(f"{text}: {word!r} is not understood; expected key=value{_names(parameters)}")
        if key not in parameters:
            raise ConfigError(f"{text}: unknown key {key!r}{_nearest(key, parameters)}")
        if key in given:
            raise ConfigError(f"{text}: {key} is given twice")
        given[key] = _parse_range(text, key, value, parameters[key])
    return _complete(text, name, given, Path(path) if has_path else None)


def _complete(text: str, name: str, given: dict[str, tuple[float, float]], path: Path | None) -> Transform:
    kind = KINDS[name]
    if (path is not None) != kind.takes_path:
        raise ConfigError(f"{text}: {'path=FOLDER is missing' if kind.takes_path else f'{name} takes no path'}")
    ranges: list[tuple[str, tuple[float, float]]] = []
    for key, parameter in kind.parameters.items():
        value = given.get(key, parameter.default)
        if value is None:
            raise ConfigError(f"{text}: {key} is missing; expected {parameter.low:g} to {parameter.high:g}")
        ranges.append((key, value))
    if given.get("p", (1, 1)) != (1, 1):
        ranges.append(("p", given["p"]))
    return Transform(name, tuple(ranges), path)


def _parse_range(text: str, key: str, value: str, parameter: Parameter) -> tuple[float, float]:
    found = _VALUE.fullmatch(value)
    if not found:
        raise ConfigError(f"{text}: {key} is {value!r}; expected a number, or a range such as 5-20")
    low, high = float(found[1]), float(found[2] or found[1])
    if not parameter.low <= low <= high <= parameter.high:
        raise ConfigError(f"{text}: {key} is {value}; expected {parameter.low:g} to {parameter.high:g}, low first")
    if parameter.is_whole and (low % 1 or high % 1):
        raise ConfigError(f"{text}: {key} is {value}; expected a whole number")
    if key == "p" and low != high:
        raise ConfigError(f"{text}: p is {value}; expected one number from 0 to 1")
    return low, high


def transform_usages() -> list[str]:
    """Return one line a transform: how it is written with its defaults, and what it does."""
    lines = []
    for name, kind in KINDS.items():
        words = [name]
        for key, parameter in kind.parameters.items():
            words.append(f"{key}={'NUMBER' if parameter.default is None else _range_text(*parameter.default)}")
        usage = ":".join([*words, *(["path=FOLDER"] if kind.takes_path else [])])
        lines.append(f"{usage:<36}  {kind.summary}")
    return lines


def _range_text(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _nearest(word: str, names: Iterable[str]) -> str:
    known = list(names)
    begun = [name for name in known if word and name.startswith(word)]
    nearest = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; expected one of {', '.join(known)}"


def _names(parameters: Mapping[str, Parameter]) -> str:
    return f" with key one of {', '.join(parameters)}"
