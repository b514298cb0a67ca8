"""`moonshine`, also `python -m lora_cli`."""

import sys

from lora.scripts.entry import run_process


def main() -> int:
    """Run `moonshine`."""
    return run_process("lora_cli.main")


if __name__ == "__main__":
    sys.exit(main())
