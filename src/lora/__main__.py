"""`python -m lora`: the umbrella command."""

import sys

from lora.scripts.entry import main

if __name__ == "__main__":
    sys.exit(main())
