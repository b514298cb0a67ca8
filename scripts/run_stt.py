#!/usr/bin/env python3
"""Transcribe and score audio, with or without an adapter: the same as `moonshine-lora run-stt`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.run_stt"))
