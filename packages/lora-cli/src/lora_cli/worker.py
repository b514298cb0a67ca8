"""The model process: `python -m lora_cli.worker`. The only module here that loads torch.

A process of its own keeps the app's start short, its screen fluid and its microphone safe: loading and
decoding hold Python's lock for longer than an audio block lasts.
"""

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lora.errors import LoraError, ModelError
from lora.units import JsonObject
from lora_cli.desk import Desk
from lora_cli.protocol import receive, send

BASE = "base"


class ModelVoices:
    """The base model and its adapters, all on one set of base weights.

    Every voice is the project's own `Recognizer` under the settings that the adapter was scored with.
    """

    def __init__(self, model_id: str, device: str, tokens_per_second: float | None) -> None:
        from lora.config import DecodeSettings, PreprocessConfig
        from lora.decoding import Recognizer
        from lora.model.device import resolve_device
        from lora.model.load import load_bundle

        self._tokens_per_second = tokens_per_second
        self.bundle = load_bundle(model_id, resolve_device(device))  # type: ignore[arg-type]
        self._model: Any = None
        base = Recognizer(self.bundle, PreprocessConfig(), self._limited(DecodeSettings()))
        self._recognizers = {BASE: base}

    def _limited(self, decode: Any) -> Any:
        from dataclasses import replace

        chosen = self._tokens_per_second
        return decode if chosen is None else replace(decode, tokens_per_second=chosen)

    def names(self) -> list[str]:
        """Return the voices, the base model first."""
        return list(self._recognizers)

    def load(self, folder: Path, name: str) -> None:
        """Put an adapter on the loaded base."""
        from lora.decoding import Recognizer
        from lora.model.adapters import load_adapter, load_further_adapter

        if name in self._recognizers:
            raise ModelError(f"{folder}: there is a voice named {name!r} already.")
        if self._model is None:
            self._model, record = load_adapter(self.bundle, folder, name=name)
        else:
            record = load_further_adapter(self._model, self.bundle, folder, name=name)
        self._recognizers[name] = Recognizer(self.bundle, record.preprocess, self._limited(record.decode))

    def transcribe(self, voice: str, pcm: bytes, rate_hz: int) -> str:
        """Return what `voice` hears; the samples are scaled as libsndfile scales a 16-bit file's."""
        from lora.data.audio import prepare_wave
        from lora.model.adapters import use_adapter

        recognizer = self._recognizers.get(voice)
        if recognizer is None:
            raise ModelError(f"{voice}: no such voice; there is {', '.join(self._recognizers)}.")
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32_768)
        wave = prepare_wave(samples, rate_hz, recognizer.preprocess, name="this recording")
        if self._model is None:
            return recognizer.transcribe([wave])[0].text
        with use_adapter(self._model, None if voice == BASE else voice):
            return recognizer.transcribe([wave])[0].text


def main(argv: list[str] | None = None) -> int:
    """Load the model while commands are already taken, then work until the app goes away."""
    parser = argparse.ArgumentParser(prog="lora_cli.worker")
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens-per-second", type=float)
    parser.add_argument("--adapter", action="append", nargs=2, metavar=("NAME", "DIR"), default=[])
    options = parser.parse_args(argv)
    commands, messages = _own_streams()
    lock = threading.Lock()

    def emit(message: JsonObject) -> None:
        with lock:
            send(messages, message)

    desk = Desk(emit)
    threading.Thread(target=_take_commands, args=(commands, desk), daemon=True).start()
    try:
        voices = load_voices(options, emit)
    except LoraError as error:
        emit({"is": "error", "message": str(error)})
        return error.exit_code
    known = {"model": options.model_id, "device": str(voices.bundle.device)}
    emit({"is": "ready", "voices": voices.names(), "detail": "", **known})
    desk.work(voices)
    return 0


def load_voices(options: argparse.Namespace, emit: Any) -> ModelVoices:
    """Load the base model and every adapter, saying what is being done; a bad adapter does not stop the rest."""
    total = 4 + len(options.adapter)

    def say(done: int, detail: str) -> None:
        emit({"is": "loading", "detail": detail, "done": done, "total": total})

    say(0, "starting PyTorch")
    import torch

    torch.set_num_threads(max(1, min(4, os.cpu_count() or 1)))
    say(1, "importing Transformers")
    import transformers  # noqa: F401

    say(2, f"loading {options.model_id}")
    voices = ModelVoices(options.model_id, options.device, options.tokens_per_second)
    for number, (name, folder) in enumerate(options.adapter, start=3):
        say(number, f"loading adapter {name}")
        try:
            voices.load(Path(folder), name)
        except LoraError as error:
            emit({"is": "refused", "message": str(error)})
    say(total - 1, "warming up")
    for name in voices.names():
        voices.transcribe(name, _noise(), 16_000)
    return voices


def _noise() -> bytes:
    """Return a second of quiet noise: the first decoding of a process is slow, and nobody should wait for it."""
    samples = np.random.default_rng(0).normal(0.0, 300.0, 16_000)
    return samples.astype("<i2").tobytes()


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return stdin and stdout for the protocol alone; whatever a library prints goes to stderr."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, messages


def _take_commands(commands: BinaryIO, desk: Desk) -> None:
    while (received := receive(commands)) is not None:
        desk.command(*received)
    # The app is gone, perhaps killed: without it there is nobody to work for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
