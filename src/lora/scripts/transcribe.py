"""`moonshine-lora transcribe`: print the text of audio files."""

import sys
from collections.abc import Sequence

from lora.outputs import write_output_json
from lora.runners.transcription import KIND, TranscriptionConfig, print_texts, transcribe_to_json
from lora.scripts.cli import Command, run_command


def run(options: TranscriptionConfig) -> None:
    """Transcribe and print the texts; the JSON document too where `--output` asks for it."""
    document = transcribe_to_json(options)
    print_texts(document)
    if options.output is not None:
        write_output_json(options.output, document, kind=KIND)


COMMAND = Command(
    name="transcribe",
    options=TranscriptionConfig,
    run=run,
    description="Print the text of audio files: one file, its text alone; several, one line each.",
    examples="""
        moonshine-lora transcribe talk.wav
        moonshine-lora transcribe talk.wav --adapter-dir outputs/demo/lora_adapter
        moonshine-lora transcribe recordings/ --model-id UsefulSensors/moonshine-tiny
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
