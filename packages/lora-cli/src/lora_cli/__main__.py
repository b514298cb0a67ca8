"""`python -m lora_cli` is `moonshine`."""

import sys

from lora_cli.main import main

sys.exit(main())
