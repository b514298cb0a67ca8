"""`moonshine-lora manifest-diagnostics`: durations and the split of manifests, headroom, enough data or not."""

import sys
from collections.abc import Sequence

from lora.runners.diagnostics import DiagnosticsOptions, diagnose
from lora.scripts.cli import Command, run_command


def run(options: DiagnosticsOptions) -> None:
    """Describe the manifests; the tables are printed on the way."""
    diagnose(options)


COMMAND = Command(
    name="manifest-diagnostics",
    options=DiagnosticsOptions,
    run=run,
    description="Print how long the clips of manifests are and how training would split them.",
    examples="""
        moonshine-lora manifest-diagnostics --manifests data/heldout.jsonl data/radio_train.jsonl --max-seconds 20
        moonshine-lora manifest-diagnostics --manifests train.jsonl --thresholds 2 4 6 --min-samples 200 --output out
        moonshine-lora manifest-diagnostics --manifests test.jsonl --model-id builtin:digits
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
