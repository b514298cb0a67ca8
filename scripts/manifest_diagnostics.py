#!/usr/bin/env python3
"""Describe manifests: the same as `moonshine-lora manifest-diagnostics`."""

import sys

from lora.scripts.manifest_diagnostics import main

if __name__ == "__main__":
    sys.exit(main())
