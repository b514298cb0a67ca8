#!/usr/bin/env python3
"""Describe manifests in numbers: the same as `moonshine-lora stats`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.stats"))
