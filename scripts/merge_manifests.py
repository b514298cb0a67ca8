#!/usr/bin/env python3
"""Merge manifests: the same as `moonshine-lora merge-manifests`."""

import sys

from lora.scripts.merge_manifests import main

if __name__ == "__main__":
    sys.exit(main())
