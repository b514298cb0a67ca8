"""Fine-tune Moonshine speech-to-text models with LoRA adapters and prove that it helped.

Importing this package loads no torch: heavy imports stay in the modules that do the work.
"""

__version__ = "0.1.0"
