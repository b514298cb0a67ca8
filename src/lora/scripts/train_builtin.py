"""`moonshine-lora train-builtin`: train the builtin digits base model from scratch."""

import sys
from collections.abc import Sequence

from lora.runners.builtin_options import BuiltinConfig
from lora.scripts.cli import Command, run_command


def run(options: BuiltinConfig) -> None:
    """Train and print where the checkpoint is."""
    from lora.runners.builtin_digits import train_builtin

    print(train_builtin(options))


COMMAND = Command(
    name="train-builtin",
    options=BuiltinConfig,
    run=run,
    description="Train builtin:digits from scratch on synthetic voices and the US speakers of FSDD.",
    examples="""
        moonshine-lora train-builtin --fsdd ../shared/fsdd --output outputs/builtin-digits
        moonshine-lora train-builtin --steps 20 --synthetic-clips 100 --output outputs/try
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
