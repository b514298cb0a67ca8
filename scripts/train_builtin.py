#!/usr/bin/env python3
"""Train the builtin digits model; the same as `moonshine-lora train-builtin`."""

import sys

from lora.scripts.entry import run_process

sys.exit(run_process("lora.scripts.train_builtin"))
