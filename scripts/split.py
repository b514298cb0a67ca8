#!/usr/bin/env python3
"""Divide a manifest: the same as `moonshine-lora split`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.split"))
