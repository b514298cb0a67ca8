"""`moonshine-lora check`: what is wrong with manifests, before anyone trains on them."""

import sys
from collections.abc import Sequence

from lora.runners.check import CheckOptions, run_check
from lora.scripts.cli import Command, run_command

COMMAND = Command(
    name="check",
    options=CheckOptions,
    run=run_check,
    description=(
        "Find faults in manifests: rows, audio, texts, duplicates, leakage from training to evaluation. Errors end\n"
        "with exit code 3, warnings with 0. docs/data_checks.md explains every code."
    ),
    examples="""
        moonshine-lora check --train data/radio_train.jsonl --eval data/radio_test.jsonl data/heldout_manifest.jsonl
        moonshine-lora check recordings.jsonl --output outputs/check
        moonshine-lora check recordings.jsonl --model-id builtin:digits --output outputs/check
        moonshine-lora check --train train.jsonl --eval test.jsonl --fix data/fixed --remove clipping wrong-rate
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
