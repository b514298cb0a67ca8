#!/usr/bin/env python3
"""Search over training options: the same as `moonshine-lora sweep`."""

import sys

from lora.scripts.sweep import main

if __name__ == "__main__":
    sys.exit(main())
