"""Plays a recording; where there is nothing to play on, says so."""

from pathlib import Path

from lora.errors import LoraError
from lora_cli.events import Notice
from lora_cli.portaudio import PORTAUDIO_USE, import_sounddevice
from lora_cli.ports import read_pcm
from lora_cli.transcripts import Emit

CHUNK_BYTES = 4096


def play_wav(path: Path, emit: Emit) -> None:
    """Play a file to its end. Runs on a thread of its own."""
    try:
        sounddevice = import_sounddevice()
        pcm, rate_hz = read_pcm(path)
    except LoraError as error:
        emit(Notice(str(error), "error"))
        return
    PORTAUDIO_USE.claim()
    try:
        with sounddevice.RawOutputStream(samplerate=rate_hz, channels=1, dtype="int16") as stream:
            for start in range(0, len(pcm), CHUNK_BYTES):
                stream.write(pcm[start : start + CHUNK_BYTES])
    except sounddevice.PortAudioError as error:
        emit(Notice(f"Nothing to play on ({error}). The file is {path}.", "warning"))
    finally:
        PORTAUDIO_USE.release()
