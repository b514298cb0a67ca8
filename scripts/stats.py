#!/usr/bin/env python3
"""Describe manifests in numbers: the same as `moonshine-lora stats`."""

import sys

from lora.scripts.stats import main

if __name__ == "__main__":
    sys.exit(main())
