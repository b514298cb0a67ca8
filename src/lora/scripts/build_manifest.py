"""`moonshine-lora build-manifest`: a manifest from recordings, tables, corpora, hub datasets or synthetic speech."""

import sys
from collections.abc import Sequence

from lora.runners.build import BuildOptions, build_manifest
from lora.scripts.cli import Command, run_command


def run(options: BuildOptions) -> None:
    """Build the manifest and print what was written."""
    print(build_manifest(options))


COMMAND = Command(
    name="build-manifest",
    options=BuildOptions,
    run=run,
    description="Build a manifest and its audio files from a corpus. LibriSpeech unless --source says otherwise. "
    "The same command goes on from a build that was stopped.",
    examples="""
        moonshine-lora build-manifest --split test --samples 120 --output data/heldout_manifest.jsonl
        moonshine-lora build-manifest --source fsdd --path ../fsdd --split train --speakers jackson --output us.jsonl
        moonshine-lora build-manifest --source synthetic --split test --voices en-us --telephone --output phone.jsonl
        moonshine-lora build-manifest --source folder --path recordings --output data/recordings.jsonl
        moonshine-lora build-manifest --source csv --path a.csv --audio-column file --text-column said --output a.jsonl
        moonshine-lora build-manifest --source nemo --path nemo/train.json --hours 2 --output data/train.jsonl
        moonshine-lora build-manifest --source librispeech-dir --path LibriSpeech --split dev-clean --output dev.jsonl
        moonshine-lora build-manifest --source common-voice --path cv --balance-speakers --samples 99 --output cv.jsonl
        moonshine-lora build-manifest --source hub --dataset-id owner/name --split test --output hub.jsonl
        moonshine-lora build-manifest --source hub --path parquet_folder --split test --output local.jsonl
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
