"""Audio files that were cut short: decoders read them as shorter ones, without an error.

Each format says somewhere how long it is, or where its end is; what it says is compared with the file. An MP3 without a
Xing header says neither: its frames are counted, because decoders guess, and read too little where they guess wrong. A
FLAC file is only found to be cut when it is decoded.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

OGG_HEAD_BYTES = 27
OGG_END_OF_STREAM = 4
KNOWN_BELOW = {4: 2**31, 8: 2**62}
"""A size in so many bytes is one that the writer knew; a recorder that was stopped leaves all bits set."""
MAX_CHUNKS = 10_000
XING_SEARCH_BYTES = 64
MP3_KBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
"""Bit rates of Layer III by their number in a frame's head: of the low sampling rates, and of MPEG-1."""


@dataclass(frozen=True)
class _Chunks:
    """How a container writes its chunks: an identifier, a size, then that much.

    Attributes:
        start: of the first chunk.
        counts_head: the size has identifier and size in it.
        data: how the identifier of the samples' chunk begins.
    """

    start: int
    id_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    align: int
    counts_head: bool
    data: bytes


_RIFF = _Chunks(12, 4, 4, "little", 2, counts_head=False, data=b"data")
_AIFF = _Chunks(12, 4, 4, "big", 2, counts_head=False, data=b"SSND")
_CAF = _Chunks(8, 4, 8, "big", 1, counts_head=False, data=b"data")
_W64 = _Chunks(40, 16, 8, "little", 8, counts_head=True, data=b"data")
_CONTAINERS = {b"RIFF": _RIFF, b"RF64": _RIFF, b"FORM": _AIFF, b"caff": _CAF, b"riff": _W64}


def cut_short(audio: bytes | Path) -> str | None:
    """Return what shows that an audio file was cut, `None` where nothing does."""
    with io.BytesIO(audio) if isinstance(audio, bytes) else audio.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        magic = file.read(4)
        if magic == b"OggS":
            return _cut_ogg(file, size)
        if magic in _CONTAINERS:
            missing = _missing_of_chunk(file, size, _CONTAINERS[magic])
        elif magic == b".snd":
            missing = _missing_of_au(file, size)
        elif magic[:3] == b"ID3" or magic[:1] == b"\xff":
            missing = _missing_of_mp3(file, size)
        else:
            missing = 0
    return f"the last {missing} bytes that its header announces are missing" if missing > 0 else None


def _missing_of_chunk(file: BinaryIO, size: int, kind: _Chunks) -> int:
    file.seek(kind.start)
    head_bytes = kind.id_bytes + kind.size_bytes
    size_bytes, long_size = kind.size_bytes, 0
    for _ in range(MAX_CHUNKS):
        head = file.read(head_bytes)
        length = int.from_bytes(head[kind.id_bytes :], kind.order) - (head_bytes if kind.counts_head else 0)
        start = file.tell()
        if head.startswith(b"ds64"):  # RF64's place for sizes of 64 bits; EBU Tech 3306
            size_bytes, long_size = 8, int.from_bytes(file.read(16)[8:], "little")
        if head.startswith(kind.data):
            length = long_size or length
            return start + length - size if length < KNOWN_BELOW[size_bytes] else 0
        if len(head) < head_bytes or not 0 <= length <= size:
            return 0
        file.seek(start + -(-length // kind.align) * kind.align)
    return 0


def _missing_of_au(file: BinaryIO, size: int) -> int:
    start, length = (int.from_bytes(file.read(4), "big") for _ in range(2))
    return start + length - size if length < 2**32 - 1 else 0


def _missing_of_mp3(file: BinaryIO, size: int) -> int:
    """Compare the size that a Xing header gives, from its own frame to the last."""
    start = _start_of_mp3(file)
    file.seek(start)
    frame = file.read(XING_SEARCH_BYTES)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or at < 0 or not frame[at + 7] & 2:
        return 0
    field = at + (12 if frame[at + 7] & 1 else 8)
    return start + int.from_bytes(frame[field : field + 4], "big") - size


def _start_of_mp3(file: BinaryIO) -> int:
    """Return where the first frame begins: after an ID3 tag."""
    file.seek(0)
    tag = file.read(10)
    if tag[:3] != b"ID3" or len(tag) < 10:
        return 0
    # Four bytes of seven bits, and the ten of the tag's own head.
    return 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))


def count_mp3_samples(audio: bytes | Path) -> int:
    """Return the samples of an MP3 file by walking its frames, which no header counts (ISO/IEC 11172-3, 13818-3).

    Returns:
        0 where a first frame counts them, or for another layer.
    """
    with io.BytesIO(audio) if isinstance(audio, bytes) else audio.open("rb") as file:
        file.seek(_start_of_mp3(file))
        data = file.read(XING_SEARCH_BYTES)
        if any(mark in data for mark in (b"Xing", b"Info", b"VBRI")):
            return 0
        data += file.read()
    place = samples = 0
    while place + 4 <= len(data) and (frame := _mp3_frame(data[place : place + 4])) is not None:
        place += frame[0]
        samples += frame[1]
    return samples


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Return a Layer III frame's bytes and samples; `None` for what is no such frame."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, rate = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    hertz = (44_100, 48_000, 32_000)[rate] >> (3 - version if version else 2)
    return samples // 8 * 1000 * MP3_KBITS[version == 3][bit_rate] // hertz + (head[2] >> 1 & 1), samples


def _cut_ogg(file: BinaryIO, size: int) -> str | None:
    """Walk the pages to the end; each stream's last one is marked (RFC 3533, section 6)."""
    file.seek(0)
    unfinished: set[bytes] = set()
    while head := file.read(OGG_HEAD_BYTES):
        if not head.startswith(b"OggS"):
            break  # what follows the last page is no audio
        lengths = file.read(head[26]) if len(head) == OGG_HEAD_BYTES else b""
        if len(head) < OGG_HEAD_BYTES or len(lengths) < head[26] or file.tell() + sum(lengths) > size:
            return "it ends inside an Ogg page"
        file.seek(sum(lengths), io.SEEK_CUR)
        if head[5] & OGG_END_OF_STREAM:
            unfinished.discard(head[14:18])
        else:
            unfinished.add(head[14:18])
    return "its last Ogg page is not marked as the end of the stream" if unfinished else None
