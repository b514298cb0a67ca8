#!/usr/bin/env python3
"""The experiments of a matrix file and their table: the same as `moonshine-lora matrix`."""

import sys

from lora.scripts.matrix import main

if __name__ == "__main__":
    sys.exit(main())
