"""A command as the whole of a process: what `moonshine-lora`, `python -m lora` and the files in `scripts/` call.

Nothing large is imported before signals are answered: Ctrl-C in the seconds that the imports take is one line too.
"""

import importlib

from lora import signals


def run_process(module: str) -> int:
    """Run `main` of a module on this process's arguments and return the exit code."""
    signals.leave_at_once()
    from lora import terminal

    terminal.guard_streams()
    code: int = importlib.import_module(module).main()
    return code


def main() -> int:
    """Run `moonshine-lora`."""
    return run_process("lora.scripts.umbrella")
