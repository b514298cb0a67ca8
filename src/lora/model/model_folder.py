"""What the folder of a base model or a processor may hold, looked at before Transformers reads it.

Transformers asks on the terminal whether to run code that a folder brings, unpickles weights where there is no
safetensors file, loads another model where there is an adapter's configuration, and builds what size it is told.
"""

from pathlib import Path
from typing import Any

from lora.errors import InputError, ModelError
from lora.files import read_json
from lora.model.weights_file import check_header, pickles_in

MAX_LAYERS = 1000
"""Also of heads."""
MAX_NUMBER = 2**20
"""Of any other whole number of a configuration; the largest is a vocabulary of some ten thousand tokens."""


def check_model_folder(folder: Path) -> None:
    """Refuse a base model's folder that would run code, is pickled, or asks for more than any model has.

    Raises:
        ModelError: every fault that was found, with the file.
    """
    documents, problems = _read_documents(folder)
    config = documents.get("config.json", {})
    if isinstance(config, dict):
        problems += _unusual_sizes(config)
    if "adapter_config.json" in documents:
        problems.append("adapter_config.json: an adapter, whose base model would be loaded. Give it with --adapter-dir")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = pickles_in(folder)
        problems.append(
            f"{', '.join(pickled)}: pickled, which is never read. Save the model as safetensors"
            if pickled
            else "no *.safetensors: the weights are missing"
        )
    for path in weights:
        try:
            check_header(path)
        except ValueError as error:
            problems.append(f"{path.name}: {error}")
    problems += _foreign_shards(documents)
    _refuse(folder, problems)


def check_processor_folder(folder: Path) -> None:
    """Refuse a processor's folder that would run code.

    Raises:
        ModelError: every fault that was found, with the file.
    """
    _refuse(folder, _read_documents(folder)[1])


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ModelError(f"{folder}: cannot be loaded; expected a folder written by save_pretrained", problems)


def _read_documents(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the folder's JSON files, and what is wrong with them."""
    documents: dict[str, Any] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            documents[path.name] = read_json(path)
        except InputError as error:
            problems.append(error.message)
            continue
        found = code_in(documents[path.name])
        problems += [f"{path.name}: {key} names code, which is never run. Remove it" for key in found]
    return documents, problems


def code_in(document: Any) -> list[str]:
    """Return the keys by which a configuration names code: of its own folder, or a kernel on the hub."""
    if not isinstance(document, dict):
        return []
    found = [
        key
        for key, value in document.items()
        if (key == "auto_map" and value) or (str(key).endswith("_implementation") and "/" in str(value))
    ]
    return found + [key for part in document.values() for key in code_in(part)]


def _unusual_sizes(config: dict[str, Any]) -> list[str]:
    """Return a line for each whole number of a configuration that no model has."""
    problems = []
    for name, value in config.items():
        is_count = name.endswith(("layers", "heads"))
        low, high = (1, MAX_LAYERS) if is_count else (-MAX_NUMBER, MAX_NUMBER)
        if isinstance(value, int) and not low <= value <= high:
            problems.append(f"config.json: {name} is {value}; expected {low} to {high}")
    return problems


def _foreign_shards(documents: dict[str, Any]) -> list[str]:
    """Return a line for each file that an index names and that is no safetensors file of the folder."""
    names: set[Any] = set()
    for name, document in documents.items():
        shards = document.get("weight_map") if name.endswith(".index.json") and isinstance(document, dict) else {}
        names.update(map(str, shards.values()) if isinstance(shards, dict) else [shards])
    return [
        f"an index names {name!r:.80}; expected a safetensors file of the folder"
        for name in sorted(names, key=str)
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name or "\\" in name
    ]
