"""What an adapter folder holds, read strictly: the record, PEFT's configuration, the weights.

PEFT itself reads weights that are pickled, fills in what is missing, passes over what it does not know, imports modules
that a configuration names, and allocates what a rank asks for. So each file is checked before PEFT sees the folder.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig
from lora.errors import AdapterError, InputError
from lora.files import read_object, sha256_file
from lora.model.weights_file import pickles_in, read_weights, unusable_numbers
from lora.units import JsonObject

RECORD_NAME = "moonshine_lora.json"
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
SCHEMA_VERSION = 1

Limits = tuple[type, float, float]
RECORD_LIMITS: dict[str, Limits] = {"strength": (float, 0.0, 100.0)}
PREPROCESS_LIMITS: dict[str, Limits] = {
    "target_rms": (float, 1e-4, 1.0),
    "peak_limit": (float, 1e-2, 1.0),
    "min_seconds": (float, 0.056, 60.0),
}
DECODE_LIMITS: dict[str, Limits] = {"tokens_per_second": (float, 0.1, 1000.0), "min_token_limit": (int, 1, 10_000)}
CONFIG_LIMITS: dict[str, Limits] = {
    "r": (int, 1, 2**20),
    "lora_alpha": (float, 0.0, 1e9),
    "lora_dropout": (float, 0.0, 1.0),
}
SWITCHES = ("use_rslora", "use_dora", "init_lora_weights", "inference_mode")
READ_SETTINGS = {"target_modules", "auto_mapping", "base_model_name_or_path", "peft_version", "peft_type"}


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter folder says about itself.

    Attributes:
        adapter_sha256: of the weights file.
        config_sha256: of PEFT's configuration; another alpha there is another model.
        strength: the part of the trained change that is applied; already in the configuration's alpha.
    """

    base_id: str
    base_sha256: str
    family: str
    adapter_sha256: str
    config_sha256: str
    strength: float
    preprocess: PreprocessConfig
    decode: DecodeSettings


def read_record(folder: Path) -> AdapterRecord:
    """Read an adapter folder's record.

    Raises:
        AdapterError: the folder is not an adapter of this project, or its record is damaged; with every value that is
            not what it must be.
    """
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such adapter folder. Check --adapter-dir.")
    for name in (CONFIG_NAME, WEIGHTS_NAME, RECORD_NAME):
        if not (folder / name).is_file():
            pickled = ", ".join(pickles_in(folder))
            raise AdapterError(
                f"{folder}: {name} is missing; expected a lora_adapter folder of this project."
                + (f" {pickled} is pickled, which is never read. Save it as safetensors." if pickled else "")
            )
    values = _read_object(folder / RECORD_NAME)
    problems: list[str] = []
    if values.pop("schema_version", None) != SCHEMA_VERSION:
        problems.append(f"schema_version: expected {SCHEMA_VERSION}")
    parts = {"preprocess": (PreprocessConfig, PREPROCESS_LIMITS), "decode": (DecodeSettings, DECODE_LIMITS)}
    for name, (kind, limits) in parts.items():
        part = values.get(name)
        if isinstance(part, dict):
            _check_keys(part, kind, f"{name}.", problems)
            _check_numbers(part, limits, f"{name}.", problems)
        elif name in values:
            problems.append(f"{name}: got {part!r:.80}, expected an object")
    _check_keys(values, AdapterRecord, "", problems)
    _check_numbers(values, RECORD_LIMITS, "", problems)
    texts = ("base_id", "base_sha256", "family", "adapter_sha256", "config_sha256")
    problems += [
        f"{name}: got {values[name]!r:.80}, expected text"
        for name in texts
        if name in values and not isinstance(values[name], str)
    ]
    if problems:
        raise AdapterError(f"{folder / RECORD_NAME}: damaged record. Restore it or retrain", problems)
    preprocess, decode = PreprocessConfig(**values.pop("preprocess")), DecodeSettings(**values.pop("decode"))
    return AdapterRecord(preprocess=preprocess, decode=decode, **values)


def check_unchanged(folder: Path, record: AdapterRecord) -> None:
    """Refuse an adapter whose bytes are not those of its record.

    Raises:
        AdapterError: naming the file and both hashes.
    """
    for name, recorded in ((WEIGHTS_NAME, record.adapter_sha256), (CONFIG_NAME, record.config_sha256)):
        digest = sha256_file(folder / name)
        if digest != recorded:
            raise AdapterError(
                f"{folder / name}: content {digest} differs from the record's {recorded}. "
                "The file was changed or damaged; restore or retrain."
            )


def read_adapter_config(folder: Path) -> JsonObject:
    """Read PEFT's configuration of plain LoRA.

    Raises:
        AdapterError: another kind of adapter, a number out of range, or a setting that this project does not write and
            that would change what PEFT does.
    """
    path = folder / CONFIG_NAME
    config = _read_object(path)
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{path}: peft_type {config.get('peft_type')!r:.80}; expected 'LORA'. It is no LoRA adapter."
        )
    problems = [f"{name}: missing" for name in (*CONFIG_LIMITS, "target_modules") if name not in config]
    _check_numbers(config, CONFIG_LIMITS, "", problems)
    problems += [
        f"{name}: got {config[name]!r:.80}, expected true or false"
        for name in SWITCHES
        if not isinstance(config.get(name, False), bool)
    ]
    usual = {field.name: field.default for field in fields(LoraConfig)}
    problems += [
        f"{name}: got {value!r:.80}, which this project's adapters do not have"
        for name, value in config.items()
        if name not in READ_SETTINGS.union(CONFIG_LIMITS, SWITCHES) and value and value != usual.get(name)
    ]
    if problems:
        raise AdapterError(f"{path}: not the configuration of an adapter of this project", problems)
    return config


def read_adapter_weights(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's tensors.

    Raises:
        AdapterError: a damaged file, or one with NaN or infinite numbers, with the tensors' names.
    """
    path = folder / WEIGHTS_NAME
    try:
        weights = read_weights(path)
    except ValueError as error:
        raise AdapterError(f"{path}: {error}. Restore the file or retrain.") from error
    problems = unusable_numbers(weights)
    if problems:
        raise AdapterError(f"{path}: {len(problems)} tensor(s) cannot be used. Restore the file or retrain", problems)
    return weights


def _read_object(path: Path) -> JsonObject:
    try:
        return read_object(path)
    except InputError as error:
        raise AdapterError(error.message) from error


def _check_keys(values: Mapping[str, Any], kind: type, prefix: str, problems: list[str]) -> None:
    known = {field.name for field in fields(kind)}
    problems += [f"{prefix}{name}: missing" for name in sorted(known - values.keys())]
    problems += [f"{prefix}{name:.80}: unknown" for name in sorted(values.keys() - known)]


def _check_numbers(values: Mapping[str, Any], limits: Mapping[str, Limits], prefix: str, problems: list[str]) -> None:
    for name, (kind, low, high) in limits.items():
        value = values.get(name, low)
        is_kind = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if not is_kind or not math.isfinite(value) or not low <= value <= high:
            noun = "an integer" if kind is int else "a number"
            problems.append(f"{prefix}{name}: got {value!r:.80}, expected {noun} from {low} to {high}")
