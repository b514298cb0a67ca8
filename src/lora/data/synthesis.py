"""Synthetic speech: eSpeak NG from the `espeakng-loader` wheel, the same bytes for the same request.

The speaking happens in a helper process (`espeak_worker`), which says why.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lora.data import espeak_worker
from lora.data.audio import resample
from lora.errors import InputError, SetupError
from lora.units import Wave

ACCENTS = (
    "en-us",
    "en",
    "en-us-nyc",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
"""Accents of English that eSpeak NG accepts by these names; `en-gb` it rejects."""

VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("adam", "anika", "belinda", "benjamin", "caleb", "david", "edward", "ian", "linda", "max", "michel"),
    *("norbert", "quincy", "rob", "shelby", "steph", "travis", "victor", "zac"),
)
"""Timbres that go with every accent: the speaker of a synthetic voice."""

VOICES = tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS)

RATE_WPM = range(80, 451)
PITCH = range(100)
SECONDS_PER_CLIP_LIMIT = 10.0


@dataclass(frozen=True)
class SpeechRequest:
    """One clip to speak.

    Attributes:
        voice: an accent, alone or with a variant: `en-us+f3`.
        rate_wpm: words a minute, 80 to 450; eSpeak NG's own default is 175.
        pitch: 0 to 99; 50 is the voice's own.
    """

    text: str
    voice: str = "en-us"
    rate_wpm: int = 175
    pitch: int = 50

    def __post_init__(self) -> None:
        if not self.text.strip() or "\0" in self.text:
            raise InputError(f"speech request: text is {self.text!r}; expected words without NUL characters.")
        accent, plus, variant = self.voice.partition("+")
        # eSpeak NG accepts any variant name in silence and speaks without it, so the check is ours.
        if accent not in ACCENTS or (plus and variant not in VARIANTS):
            raise InputError(
                f"speech request: unknown voice {self.voice!r}; expected ACCENT or ACCENT+VARIANT, "
                f"accents {', '.join(ACCENTS)}; variants {', '.join(VARIANTS)}."
            )
        if self.rate_wpm not in RATE_WPM:
            raise InputError(f"speech request: rate_wpm is {self.rate_wpm}; expected an integer from 80 to 450.")
        if self.pitch not in PITCH:
            raise InputError(f"speech request: pitch is {self.pitch}; expected an integer from 0 to 99.")


def synthesize(requests: Sequence[SpeechRequest]) -> list[Wave]:
    """Speak every request, at eSpeak NG's own level, at 16 kHz.

    The same request gives the same bytes in any order and in any process.

    Raises:
        SetupError: eSpeak NG is not installed, crashed, or could not speak a request, which is named.
    """
    if not requests:
        return []
    library, data = _find_espeak()
    job = {"library": library, "data": data, "requests": [asdict(request) for request in requests]}
    limit = 30.0 + SECONDS_PER_CLIP_LIMIT * len(requests)
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(espeak_worker.__file__).resolve())],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(
            f"eSpeak NG: {len(requests)} clips not spoken within {limit:.0f} s. Run it again on a machine less loaded."
        ) from error
    pieces, rate = _split_stream(done.stdout, done.returncode, done.stderr, requests)
    return [
        resample(np.frombuffer(piece, dtype="<i2").astype(np.float32) / np.float32(32768), rate) for piece in pieces
    ]


def _find_espeak() -> tuple[str, str]:
    if not hasattr(os, "fork"):
        raise SetupError("eSpeak NG: this system has no fork, which reproducible speech needs. Use Linux or macOS.")
    try:
        import espeakng_loader
    except ImportError as error:
        raise SetupError("eSpeak NG: the package espeakng-loader is not installed. Run `make sync`.") from error
    library = Path(espeakng_loader.get_library_path())
    if not library.is_file():
        raise SetupError(f"eSpeak NG: no library at {library}. Install the package espeakng-loader again.")
    return str(library), str(espeakng_loader.get_data_path())


def _split_stream(
    stream: bytes, code: int, stderr: bytes, requests: Sequence[SpeechRequest]
) -> tuple[list[bytes], int]:
    """Cut the helper's output into one piece of PCM a request, with the sampling rate of all."""
    pieces: list[bytes] = []
    position = espeak_worker.STREAM_RATE.size
    while position + espeak_worker.FRAME.size <= len(stream):
        failed, length = espeak_worker.FRAME.unpack_from(stream, position)
        position += espeak_worker.FRAME.size
        payload = stream[position : position + length]
        position += length
        if failed:
            reason = payload.decode(errors="replace")
            raise SetupError(f"eSpeak NG, clip {len(pieces) + 1} of {len(requests)}, {requests[len(pieces)]}: {reason}")
        pieces.append(payload)
    if code != 0 or len(pieces) != len(requests) or position != len(stream):
        reason = stderr.decode(errors="replace").strip()[-500:] or "no message"
        raise SetupError(
            f"eSpeak NG: the speaking process ended with status {code} after {len(pieces)} of {len(requests)} clips "
            f"({reason}). Install the package espeakng-loader again."
        )
    return pieces, espeak_worker.STREAM_RATE.unpack_from(stream)[0]
