#!/usr/bin/env python3
"""Draw a random part of a manifest: the same as `moonshine-lora sample`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.sample"))
