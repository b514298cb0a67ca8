#!/usr/bin/env python3
"""Make a domain manifest out of any manifest: the same as `moonshine-lora shift`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.shift"))
