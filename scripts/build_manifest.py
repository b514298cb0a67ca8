#!/usr/bin/env python3
"""Make a manifest from a corpus: the same as `moonshine-lora build-manifest`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.build_manifest"))
