#!/usr/bin/env python3
"""Make the domain manifest that a run improves: the same as `moonshine-lora build-domain-manifest`."""

import sys

from lora.scripts.build_domain_manifest import main

if __name__ == "__main__":
    sys.exit(main())
