"""The process that speaks: eSpeak NG through ctypes, one forked child for each clip.

eSpeak NG keeps state from clip to clip, so one process speaks the same text in slightly different
lengths. A child forked right after initialising speaks it byte for byte the same, in any order. The
fork happens here and not in the caller, whose threads (torch, BLAS) would make it unsafe. This file
is run by its path and needs the standard library alone.

Input, on stdin: JSON with `library`, `data` and `requests` (text, voice, rate_wpm, pitch).
Output, on stdout, for each request in order: `FRAME` (0 and the length, or 1 and the length), then
16-bit PCM at the rate of the first eight bytes of the stream, or an error text, which ends the stream.
"""

import ctypes
import json
import os
import struct
import sys
from typing import Any

FRAME = struct.Struct("<II")
STREAM_RATE = struct.Struct("<Q")
RANDOM_SEED = 0
SYNCHRONOUS = 2
DO_NOT_EXIT = 0x8000
RATE, PITCH = 1, 3
UTF8 = 1
POSITION_CHARACTER = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _initialise(library: str, data: str) -> tuple[Any, int]:
    espeak = ctypes.CDLL(library)
    # eSpeak NG cuts its data path at 160 characters; "." is never too long.
    os.chdir(data)
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, b".", DO_NOT_EXIT)
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize returned {rate} with the data in {data}")
    # Initialising seeds the noise of breathy voices (f2, f3, f5, victor) with the time of day.
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
    return espeak, rate


def _speak(espeak: Any, request: dict[str, Any]) -> bytes:
    pieces: list[bytes] = []

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(collect)
    espeak.espeak_SetSynthCallback(callback)
    voice = request["voice"]
    status = espeak.espeak_SetVoiceByName(voice.encode())
    if status != 0:
        raise RuntimeError(f"eSpeak NG rejected the voice {voice!r} (status {status})")
    espeak.espeak_SetParameter(RATE, request["rate_wpm"], 0)
    espeak.espeak_SetParameter(PITCH, request["pitch"], 0)
    text = request["text"].encode() + b"\0"
    status = espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, POSITION_CHARACTER, 0, UTF8, None, None)
    if status != 0:
        raise RuntimeError(f"eSpeak NG could not speak {request['text']!r} (status {status})")
    espeak.espeak_Synchronize()
    return b"".join(pieces)


def _speak_in_child(espeak: Any, request: dict[str, Any]) -> tuple[int, bytes]:
    """Return (0, PCM) or (1, error text) from a fresh child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            try:
                payload, code = _speak(espeak, request), 0
            except (RuntimeError, ValueError) as error:
                payload = str(error).encode()
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(payload)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        payload = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return 1, f"eSpeak NG was ended by signal {-code} while speaking {request['text']!r}".encode()
    if code == 0 and not payload.strip(b"\0"):
        return 1, f"eSpeak NG gave no sound for {request['text']!r}".encode()
    return code, payload


def main() -> int:
    """Answer the requests on stdin; return the exit status."""
    job = json.load(sys.stdin)
    out = sys.stdout.buffer
    espeak, rate = _initialise(job["library"], job["data"])
    out.write(STREAM_RATE.pack(rate))
    for request in job["requests"]:
        code, payload = _speak_in_child(espeak, request)
        out.write(FRAME.pack(int(code != 0), len(payload)) + payload)
        out.flush()
        if code:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
