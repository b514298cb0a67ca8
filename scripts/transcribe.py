#!/usr/bin/env python3
"""Print the text of audio files: the same as `moonshine-lora transcribe`."""

import sys

from lora.scripts.transcribe import main

if __name__ == "__main__":
    sys.exit(main())
