#!/usr/bin/env python3
"""Search over training options: the same as `moonshine-lora sweep`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.sweep"))
