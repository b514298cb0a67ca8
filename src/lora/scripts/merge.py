"""`moonshine-lora merge`: a checkpoint with the adapter inside."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True)
class MergeOptions:
    """Options of `merge`."""

    adapter_dir: Path = option(help="lora_adapter folder")
    output: Path = option(help="folder for the merged checkpoint")
    model_id: str = option("builtin:digits", help="the adapter's base: hub id, local folder or builtin:digits")
    overwrite: bool = option(False, help="keep files in the output folder that this tool did not write, beside the new")


def run(options: MergeOptions) -> None:
    """Merge, check and say how exact it is."""
    from lora.export.merge import merge_adapter

    difference = merge_adapter(options.model_id, options.adapter_dir, options.output, overwrite=options.overwrite)
    print(f"{options.output}: merged; logits equal adapter-on-base to {difference:.1e}")


COMMAND = Command(
    name="merge",
    options=MergeOptions,
    run=run,
    description="Merge an adapter into its base, write a plain checkpoint, and check that its logits are the same.",
    examples="""
        moonshine-lora merge --adapter-dir outputs/demo/lora_adapter --output outputs/demo-merged
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())
