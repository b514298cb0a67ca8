#!/usr/bin/env python3
"""Print the text of audio files: the same as `moonshine-lora transcribe`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.transcribe"))
