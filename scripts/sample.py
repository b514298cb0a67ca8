#!/usr/bin/env python3
"""Draw a random part of a manifest: the same as `moonshine-lora sample`."""

import sys

from lora.scripts.sample import main

if __name__ == "__main__":
    sys.exit(main())
