#!/usr/bin/env python3
"""Describe manifests: the same as `moonshine-lora manifest-diagnostics`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.manifest_diagnostics"))
