"""The line between the app and the model process: one JSON object a line, then `bytes` raw bytes where it says so."""

import json
from typing import BinaryIO

from lora.units import JsonObject


def send(stream: BinaryIO, message: JsonObject, payload: bytes = b"") -> None:
    """Write one message and flush it."""
    if payload:
        message = message | {"bytes": len(payload)}
    stream.write(json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n" + payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[JsonObject, bytes] | None:
    """Read one message with its payload; None where the other side has gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message: JsonObject = json.loads(line)
    size = int(message.pop("bytes", 0))
    payload = stream.read(size) if size else b""
    return None if len(payload) < size else (message, payload)
