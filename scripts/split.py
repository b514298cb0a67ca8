#!/usr/bin/env python3
"""Divide a manifest: the same as `moonshine-lora split`."""

import sys

from lora.scripts.split import main

if __name__ == "__main__":
    sys.exit(main())
