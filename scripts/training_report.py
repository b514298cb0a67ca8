#!/usr/bin/env python3
"""Fill the training report from runs' own JSON: the same as `moonshine-lora training-report`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.training_report"))
