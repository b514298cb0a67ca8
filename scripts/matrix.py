#!/usr/bin/env python3
"""The experiments of a matrix file and their table: the same as `moonshine-lora matrix`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.matrix"))
