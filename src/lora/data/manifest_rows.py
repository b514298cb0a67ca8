"""What one row of a manifest may hold: the rules, each with its message."""

import codecs
import json
import math
from typing import Any

import numpy as np

from lora.bounded import parse_json
from lora.files import to_json_bytes
from lora.units import JsonObject, Wave

KNOWN_KEYS = ("id", "audio", "text", "speaker_id", "sampling_rate")


def parse_row(raw: bytes, place: str, problems: list[str]) -> dict[str, Any] | None:
    """Return the JSON object of one line, or add what is wrong with it to `problems`."""
    if raw.startswith(codecs.BOM_UTF8):
        problems.append(f"{place}: starts with a byte order mark. Save the file as UTF-8 without one.")
        return None
    try:
        row = parse_json(raw.decode("utf-8"), unique_keys=True)
    except ValueError as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        problems.append(f"{place}: not valid JSON ({reason}). Expected one object a line.")
        return None
    if not isinstance(row, dict):
        problems.append(f"{place}: got a JSON {type(row).__name__}; expected an object with `audio` and `text`.")
        return None
    return row


def check_fields(row: dict[str, Any], place: str, problems: list[str]) -> None:
    """Add every fault of the text, the id, the speaker and the sampling rate to `problems`."""
    text = row.get("text")
    if not isinstance(text, str):
        got = type(text).__name__ if "text" in row else "missing"
        problems.append(f"{place}: text is {got}; expected a string.")
    elif not any(char.isalnum() for char in text):
        problems.append(f"{place}: text is empty; got {text!r}, expected at least one word. Fix the row or remove it.")
    elif not _is_encodable(text):
        problems.append(f"{place}: text has a lone surrogate, which is not valid Unicode. Fix the row.")
    identifier = row.get("id", "x")
    if not isinstance(identifier, str) or not identifier.strip() or not _is_encodable(identifier):
        problems.append(f"{place}: id is {identifier!r}; expected a non-empty string.")
    speaker = row.get("speaker_id")
    is_name = isinstance(speaker, str) and bool(speaker.strip()) and _is_encodable(speaker)
    if speaker is not None and not is_name and (isinstance(speaker, bool) or not isinstance(speaker, int)):
        problems.append(f"{place}: speaker_id is {speaker!r:.80}; expected a non-empty string, an integer or null.")
    rate = row.get("sampling_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or not 1000 <= rate <= 768_000):
        problems.append(f"{place}: sampling_rate is {rate!r:.80}; expected an integer from 1000 to 768000 Hz.")


def check_extra(row: dict[str, Any], place: str, problems: list[str]) -> JsonObject:
    """Return the keys that are not the project's own, or add to `problems` that they cannot be written again."""
    extra = {key: value for key, value in row.items() if key not in KNOWN_KEYS}
    try:
        if not all(map(_is_plain, extra.values())) or not _is_encodable("".join(extra)):
            to_json_bytes(extra)
    except (ValueError, RecursionError):
        # Python reads 1e999 as infinity and "\ud800" as a character; neither can be written again.
        problems.append(
            f"{place}: a key other than {', '.join(KNOWN_KEYS)} holds an endless number or invalid Unicode."
        )
    return extra


def check_inline(audio: list[Any], place: str, problems: list[str]) -> Wave | None:
    """Return an inline waveform as float32, or add what is wrong with it to `problems`."""
    if not audio or not set(map(type, audio)) <= {int, float}:
        problems.append(f"{place}: the inline waveform is not a flat, non-empty list of numbers.")
        return None
    with np.errstate(over="ignore"):
        samples = np.asarray(audio, dtype=np.float64).astype(np.float32)
    if not np.isfinite(samples).all():
        problems.append(f"{place}: the inline waveform holds numbers too large for audio; expected -1 to 1.")
        return None
    return samples


def _is_plain(value: Any) -> bool:
    """Tell whether JSON can surely hold `value`; to write every row as JSON costs half the reading."""
    if isinstance(value, str):
        return value.isascii()
    return isinstance(value, int) or value is None or (isinstance(value, float) and math.isfinite(value))


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
