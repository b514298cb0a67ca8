"""The exception tree. Library code raises these; only entry points print them and exit.

Every message says where, what was got, what was expected and what to do. Where many things can be
wrong at once (a manifest, a configuration), `problems` lists them all.
"""

from collections.abc import Sequence

from lora.escape import printable_lines

MAX_LISTED_PROBLEMS = 50


class LoraError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        message: one sentence that names the place and the fault.
        problems: every single fault, when there can be several; the first fifty are printed.
    """

    exit_code = 1

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.message = _within(message)
        self.problems = tuple(map(_within, problems))
        shown = [f"  - {problem}" for problem in self.problems[:MAX_LISTED_PROBLEMS]]
        hidden = len(self.problems) - len(shown)
        if hidden > 0:
            shown.append(f"  ... and {hidden} more")
        super().__init__("\n".join([self.message, *shown]))


def _within(text: str) -> str:
    """Return what was said, without control characters; a further line of it is no line of the message's own."""
    return printable_lines(text).replace("\n", "\n    ")


class SetupError(LoraError):
    """The machine lacks something: a package, a network, a device driver, disk space. Exit code 1."""


class InputError(LoraError):
    """The user's input is wrong. Exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration value or command line option is wrong."""


class ManifestError(InputError):
    """A manifest breaks its contract."""


class AudioError(InputError):
    """Audio cannot be read, or is not usable speech audio."""


class SourceError(InputError):
    """A corpus is not laid out as its kind requires, or a split or speaker does not exist in it."""


class DeviceError(InputError):
    """The requested device or precision is not available here."""


class ModelError(InputError):
    """A base model cannot be loaded or is not a Moonshine model."""


class AdapterError(InputError):
    """An adapter cannot be loaded, or belongs to another base model."""


class CheckFailed(LoraError):
    """A check of the run did not pass: misaligned objective, non-finite loss. Exit code 3."""

    exit_code = 3
