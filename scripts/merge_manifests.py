#!/usr/bin/env python3
"""Merge manifests: the same as `moonshine-lora merge-manifests`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.merge_manifests"))
