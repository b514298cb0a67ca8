"""Saving weights and processors: what the machine refuses is said as for every other file."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora.errors import SetupError
from lora.files import writing


def save_pretrained(model: Any, folder: Path, **options: Any) -> None:
    """Call the own `save_pretrained` of a model or a processor.

    Raises:
        SetupError: the machine does not let it be written: a full disk, no permission, a folder that is gone.
    """
    try:
        with writing(folder):
            model.save_pretrained(str(folder), **options)
    except Exception as error:
        # The libraries' own in place of an OSError: a class of one, and of the tokenizer's no class but `Exception`.
        if not isinstance(error, SafetensorError) and "(os error" not in str(error):
            raise
        raise SetupError(
            f"{folder}: its files cannot be written ({error}). What was there before is as it was. Free space, "
            "correct the permissions, or choose another place."
        ) from error
