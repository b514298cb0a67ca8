#!/usr/bin/env python3
"""Find faults in manifests: the same as `moonshine-lora check`."""

import sys

from lora.scripts.check import main

if __name__ == "__main__":
    sys.exit(main())
