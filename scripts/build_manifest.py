#!/usr/bin/env python3
"""Make a manifest from a corpus: the same as `moonshine-lora build-manifest`."""

import sys

from lora.scripts.build_manifest import main

if __name__ == "__main__":
    sys.exit(main())
