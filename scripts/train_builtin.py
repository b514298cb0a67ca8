#!/usr/bin/env python3
"""Train the builtin digits model; the same as `moonshine-lora train-builtin`."""

import sys

from lora.scripts.train_builtin import main

sys.exit(main())
