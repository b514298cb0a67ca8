#!/usr/bin/env python3
"""A small real run: the same as `moonshine-lora real-small`."""

import sys

from lora.scripts.real_small import main

if __name__ == "__main__":
    sys.exit(main())
