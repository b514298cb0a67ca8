"""The commands without a terminal app: transcribe files, record one take, list microphones."""

import json
import queue
import sys
import threading
from dataclasses import replace
from pathlib import Path

from lora.errors import CheckFailed
from lora.terminal import unguarded
from lora.units import JsonObject
from lora_cli import events
from lora_cli.core import VoiceCore
from lora_cli.devices import list_microphones
from lora_cli.engine import NoEngine
from lora_cli.levels import Level
from lora_cli.options import VoiceOptions
from lora_cli.portaudio import MicError
from lora_cli.ports import SoundDevicePort
from lora_cli.vad import SileroVad

METER_CELLS = 20


def print_transcripts(options: VoiceOptions) -> int:
    """Transcribe files as `run-stt` does, by the base model or by each adapter given."""
    from lora.runners.transcription import TranscriptionConfig, print_texts, transcribe_to_json

    config = TranscriptionConfig(
        audio=options.file,
        model_id=options.model_id,
        device=options.device,
        tokens_per_second=options.tokens_per_second,
    )
    adapters: list[Path | None] = [*options.adapter_dir] or [None]
    documents: list[JsonObject] = [transcribe_to_json(replace(config, adapter_dir=folder)) for folder in adapters]
    if options.json:
        shown = documents[0] if len(documents) == 1 else documents
        sys.stdout.write(json.dumps(shown, ensure_ascii=False, indent=2) + "\n")
        return 0
    for document in documents:
        if len(documents) > 1:
            sys.stdout.write(f"# {document['adapter']['dir']}\n")
        print_texts(document)
    return 0


def print_devices(*, as_json: bool) -> int:
    """Print the microphones."""
    microphones = list_microphones()
    if as_json:
        rows = [{"name": item.name, "description": item.description, "default": item.default} for item in microphones]
        sys.stdout.write(json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
        return 0
    for item in microphones:
        sys.stdout.write(f"{'*' if item.default else ' '} {item.name}\t{item.description}\n")
    if not microphones:
        raise MicError("no microphone was found. Plug one in. On Debian and Ubuntu: apt install libasound2-plugins.")
    return 0


def record_one(options: VoiceOptions) -> int:
    """Record one take; Enter, Ctrl-C, silence or the cap end it. Print the file's path."""
    inbox: queue.SimpleQueue[events.Message] = queue.SimpleQueue()
    core = VoiceCore(
        port=SoundDevicePort(),
        engine=NoEngine(),
        store=options.open_store(),
        emit=inbox.put,
        settings=replace(options.core_settings, open_mic=False),
        detector=SileroVad,
    )
    core.start()
    core.press()
    if sys.stdin.isatty():
        threading.Thread(target=_press_on_enter, args=(core,), daemon=True).start()
    try:
        path = _follow(inbox, core)
    finally:
        core.stop()
    sys.stdout.write(f"{path}\n")
    return 0


def _press_on_enter(core: VoiceCore) -> None:
    sys.stdin.readline()
    core.press()


def _follow(inbox: "queue.SimpleQueue[events.Message]", core: VoiceCore) -> Path:
    """Show the meter on stderr until the take has ended; return its file."""
    path: Path | None = None
    problem = "nothing was recorded"
    while True:
        try:
            message = inbox.get(timeout=0.2)
        except queue.Empty:
            continue
        except KeyboardInterrupt:
            core.press()
            continue
        match message:
            case events.TakeStarted():
                path = Path(message.path)
            case events.Heard():
                _show_meter(message)
            case events.Notice():
                sys.stderr.write(f"\n{message.severity}: {message.text}\n")
                problem = message.text
                if path is None and message.severity == "error":
                    raise MicError(problem)
            case events.TakeFinished() if path is not None:
                sys.stderr.write("\n")
                return path
            case events.TakeDiscarded():
                raise CheckFailed(problem)
            case events.Broken():
                raise message.error


def _show_meter(heard: events.Heard) -> None:
    if sys.stderr.isatty():
        unguarded(sys.stderr).write(f"\r{heard.seconds:5.1f} s  {bar(heard.level)}  Enter stops ")
        sys.stderr.flush()


def bar(level: Level) -> str:
    """Return the level as a bar of `METER_CELLS` characters from -60 dBFS, with a word where it clips."""
    filled = round(METER_CELLS * min(max((level.rms_db + 60) / 60, 0.0), 1.0))
    return f"[{'#' * filled}{'.' * (METER_CELLS - filled)}] {level.rms_db:4.0f} dB{' CLIP' if level.clipping else ''}"
