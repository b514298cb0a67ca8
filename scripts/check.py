#!/usr/bin/env python3
"""Find faults in manifests: the same as `moonshine-lora check`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.check"))
