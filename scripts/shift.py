#!/usr/bin/env python3
"""Make a domain manifest out of any manifest: the same as `moonshine-lora shift`."""

import sys

from lora.scripts.shift import main

if __name__ == "__main__":
    sys.exit(main())
