#!/usr/bin/env python3
"""Make the domain manifest that a run improves: the same as `moonshine-lora build-domain-manifest`."""

import sys

from lora.scripts.entry import run_process

if __name__ == "__main__":
    sys.exit(run_process("lora.scripts.build_domain_manifest"))
