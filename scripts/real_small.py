#!/usr/bin/env python3
"""A small real run: the same as `moonshine-lora real-small`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.real_small"))
