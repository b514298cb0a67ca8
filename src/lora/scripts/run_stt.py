"""`moonshine-lora run-stt`: transcribe and score audio, with or without an adapter, as JSON."""

import sys
from collections.abc import Sequence

from lora import processes
from lora.files import to_json
from lora.outputs import write_output_json
from lora.runners.transcription import KIND, TranscriptionConfig, transcribe_to_json
from lora.scripts.cli import Command, run_command


def run(options: TranscriptionConfig) -> None:
    """Transcribe and write the JSON document."""
    document = transcribe_to_json(options)
    if not processes.is_main():
        return
    if options.output is None:
        print(to_json(document))
        return
    write_output_json(options.output, document, kind=KIND)
    wer = "" if document["wer"] is None else f", WER {100 * document['wer']:.2f}%, CER {100 * document['cer']:.2f}%"
    print(f"{options.output}: {document['samples']} samples{wer}")


COMMAND = Command(
    name="run-stt",
    options=TranscriptionConfig,
    run=run,
    several_processes=True,
    description="Transcribe audio files or a manifest and write JSON: samples, WER, CER and every utterance.",
    examples="""
        moonshine-lora run-stt --manifest data/domain_manifest.jsonl --output baseline.json
        moonshine-lora run-stt --manifest data/domain_manifest.jsonl --output tuned.json \\
          --adapter-dir outputs/demo/lora_adapter --processor-dir outputs/demo/processor
        moonshine-lora run-stt talk.wav --model-id UsefulSensors/moonshine-tiny
        moonshine-lora run-stt --audio-list first.wav second.flac --batch-size 8
        torchrun --nproc-per-node 4 -m lora run-stt --manifest data/domain_manifest.jsonl --output baseline.json
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
