#!/usr/bin/env python3
"""Baseline, LoRA training, tuned result and verdict: the same as `moonshine-lora experiment`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.experiment"))
