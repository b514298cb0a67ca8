#!/usr/bin/env python3
"""Transcribe and score audio, with or without an adapter: the same as `moonshine-lora run-stt`."""

import sys

from lora.scripts.run_stt import main

if __name__ == "__main__":
    sys.exit(main())
