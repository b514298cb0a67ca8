"""`moonshine-lora voice`: the terminal app, which is a package of its own."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lora.errors import SetupError
from lora.scripts.cli import Command, run_command

APP_PACKAGE = "lora_cli"


@dataclass(frozen=True)
class VoiceEntry:
    """`voice` has the options of `moonshine`, from the app's own package."""


def run(options: VoiceEntry) -> None:
    """Say how to install the app.

    Raises:
        SetupError: always; where the app is installed, `main` starts it.
    """
    raise SetupError(
        "moonshine-lora voice: the app is not installed. In the project's folder: pip install ./packages/lora-cli "
        "(make sync does it too)."
    )


COMMAND = Command(
    name="voice",
    options=VoiceEntry,
    run=run,
    description="Talk to the base model and to your adapter in a terminal app; correct them, and teach.",
    examples="""
        moonshine-lora voice
        moonshine-lora voice --adapter-dir outputs/demo/lora_adapter
        moonshine-lora voice --file talk.wav
    """,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app, or say how to install it, and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if importlib.util.find_spec(APP_PACKAGE) is not None:
        code: int = importlib.import_module(f"{APP_PACKAGE}.main").main(arguments)
        return code
    wants_help = any(word in ("-h", "--help") for word in arguments)
    return run_command(COMMAND, ["--help"] if wants_help else [])


if __name__ == "__main__":
    sys.exit(main())
