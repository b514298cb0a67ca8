"""`moonshine-lora shift`: a domain manifest out of any manifest."""

import sys
from collections.abc import Sequence

from lora.data.transforms.spec import transform_usages
from lora.runners.shift import ShiftOptions, shift
from lora.scripts.cli import Command, run_command


def run(options: ShiftOptions) -> None:
    """Run and print what came of it."""
    print(shift(options))


COMMAND = Command(
    name="shift",
    options=ShiftOptions,
    run=run,
    description=(
        "Make a domain manifest out of any manifest: every utterance transformed, ids and texts kept.\n\ntransforms:\n"
        + "\n".join(f"  {usage}" for usage in transform_usages())
    ),
    examples="""
        moonshine-lora shift data/test.jsonl --transform noise:babble:snr=5 telephone --output data/phone_test.jsonl
        moonshine-lora shift data/test.jsonl --transform reverb:rt60=0.3-0.6 --output data/room_test.jsonl
        moonshine-lora shift data/test.jsonl --transform radio mulaw clip:12 --output data/radio_test.jsonl --seed 7
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
