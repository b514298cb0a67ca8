"""`moonshine`: the app, or one of its commands without a terminal. Nothing here loads torch, Textual or PortAudio."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.errors import ConfigError
from lora.scripts.cli import Command, run_command
from lora_cli.options import VoiceOptions


@dataclass(frozen=True, kw_only=True)
class DevicesOptions:
    """Options of `moonshine devices`."""

    json: bool = option(False, help="print JSON")


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Options of `moonshine latency`."""

    audio: list[Path] = option(positional=True, help="audio files, or folders of them, one utterance each")
    model_id: str = option("builtin:digits", help="hub id, local folder or builtin:digits")
    adapter_dir: list[Path] = option(default_factory=list, help="a lora_adapter folder to measure beside the base")
    takes: int = option(20, help="takes to play, from the files in turn")
    silence_seconds: float = option(1.0, help="silence that ends a take")
    json: bool = option(False, help="print JSON")


def run_app(options: VoiceOptions) -> int | None:
    """Start the app, or do what `--file` or `--record-only` ask for."""
    options.check()
    if options.file:
        from lora_cli.headless import print_transcripts

        return print_transcripts(options)
    if options.record_only:
        from lora_cli.headless import record_one

        return record_one(options)
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise ConfigError(
            "moonshine: the app needs a terminal. Without one: moonshine --file talk.wav, moonshine --record-only, "
            "moonshine devices."
        )
    from lora_cli.ui.start import run_terminal_app

    return run_terminal_app(options)


def run_devices(options: DevicesOptions) -> int | None:
    """Print the microphones."""
    from lora_cli.headless import print_devices

    return print_devices(as_json=options.json)


def run_latency(options: LatencyOptions) -> int | None:
    """Measure and print latencies."""
    from lora_cli.bench import print_latency

    return print_latency(
        options.audio,
        options.model_id,
        options.adapter_dir,
        takes=options.takes,
        silence_s=options.silence_seconds,
        as_json=options.json,
    )


APP = Command(
    name="voice",
    program="moonshine",
    options=VoiceOptions,
    run=run_app,
    description="Talk to the base model and to your adapter, side by side; correct them, and teach.",
    examples="""
        moonshine
        moonshine --adapter-dir outputs/demo/lora_adapter
        moonshine --model-id UsefulSensors/moonshine-tiny --prompts sentences.txt --speaker ada
        moonshine --file talk.wav --adapter-dir outputs/demo/lora_adapter --json
        moonshine --record-only
        moonshine devices
        moonshine latency recordings/
        moonshine-lora voice (the same app)
    """,
)
DEVICES = Command(
    name="devices",
    program="moonshine devices",
    options=DevicesOptions,
    run=run_devices,
    description="List the microphones: the names that --mic takes, the default one first.",
    examples="moonshine devices",
)
LATENCY = Command(
    name="latency",
    program="moonshine latency",
    options=LatencyOptions,
    run=run_latency,
    description="Play recordings at their own pace through the app's own path and measure what a person would wait.",
    examples="moonshine latency recordings/ --adapter-dir outputs/demo/lora_adapter",
)
SUBCOMMANDS = {command.name: command for command in (DEVICES, LATENCY)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `moonshine` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in SUBCOMMANDS:
        return run_command(SUBCOMMANDS[arguments[0]], arguments[1:])
    return run_command(APP, arguments)


if __name__ == "__main__":
    sys.exit(main())
