"""Saving weights: what the machine refuses is said as for every other file."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora.errors import SetupError
from lora.files import writing


def save_pretrained(model: Any, folder: Path, **options: Any) -> None:
    """Call the model's own `save_pretrained`.

    Raises:
        SetupError: the machine does not let it be written: a full disk, no permission, a folder that is gone.
    """
    try:
        with writing(folder):
            model.save_pretrained(str(folder), **options)
    except SafetensorError as error:  # the library's own, in place of an OSError
        raise SetupError(
            f"{folder}: the weights cannot be written ({error}). What was there before is as it was. Free space, "
            "correct the permissions, or choose another place."
        ) from error
