"""A WAV file that is readable at every moment while it is written.

Each block is handed to the operating system before the header announces it, so a killed process leaves a
valid file that lacks at most the block in flight.
"""

import os
import struct
from pathlib import Path

HEADER_BYTES = 44
SAMPLE_BYTES = 2


class WavWriter:
    """Writes 16-bit mono PCM to a new file.

    Raises:
        FileExistsError: the file exists; a recording is never overwritten.
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        self.path = path
        self.rate_hz = rate_hz
        self.data_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.write(self._file, wav_header(rate_hz, 0))
        except OSError:
            os.close(self._file)
            path.unlink()
            raise

    def write(self, data: bytes) -> None:
        """Append samples, int16 little-endian."""
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            view = view[written:]
        self.data_bytes += len(data)
        os.pwrite(self._file, wav_header(self.rate_hz, self.data_bytes), 0)

    def close(self) -> None:
        """Put the samples on the disk and close the file. A second call does nothing."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1


def wav_header(rate_hz: int, data_bytes: int) -> bytes:
    """Return the 44 bytes before the samples of a 16-bit mono file."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        HEADER_BYTES - 8 + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate_hz,
        rate_hz * SAMPLE_BYTES,
        SAMPLE_BYTES,
        8 * SAMPLE_BYTES,
        b"data",
        data_bytes,
    )
