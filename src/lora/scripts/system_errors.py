"""What the operating system refuses, in words: which file, why, and what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora.errors import SetupError
from lora.terminal import OutputClosedError

_ADVICE = {
    errno.ENOSPC: "Free space there, or choose another place.",
    errno.EDQUOT: "Free space there, or choose another place.",
    errno.EFBIG: "Choose a place that takes larger files.",
    errno.EROFS: "Choose a place that can be written.",
    errno.EACCES: "Correct its permissions, or choose another place.",
    errno.EPERM: "Correct its permissions, or choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Check the path; it, or its folder, may have been removed meanwhile.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Give the path of a file.",
    errno.EMFILE: "Allow more open files (`ulimit -n`).",
    errno.EIO: "Check the disk.",
}


@contextmanager
def system_errors(where: str) -> Iterator[None]:
    """Turn what the system refuses in this block into the project's own error.

    Raises:
        SetupError: in place of an `OSError`, but for output that nobody reads any more.
    """
    try:
        yield
    except OutputClosedError:
        raise
    except OSError as error:
        raise SetupError(f"{where}: {explain(error)}") from error


def explain(error: OSError) -> str:
    """Return what could not be done and what to do about it."""
    if error.strerror is None:  # an error of a package, such as a hub's, that has words of its own
        return str(error) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    subject = " to ".join(names) or "a file"
    advice = _ADVICE.get(error.errno or 0, "")
    return f"{subject}: cannot be read or written ({error.strerror}). {advice}".rstrip()


def require_current_folder() -> None:
    """Refuse to start in a folder that was removed: every relative path would fail, each in another way.

    Raises:
        SetupError: it was.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise SetupError("the current folder does not exist any more. Change into another one.") from error
