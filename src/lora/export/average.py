"""Average adapters of several seeds or checkpoints, exactly.

The mean of weight changes s_i B_i A_i is not the mean of the factors. Stacking the factors is exact:
[w_1 s_1 B_1 | w_2 s_2 B_2 | ...] times [A_1; A_2; ...] is the weighted sum, at the sum of the ranks.
Averaging fine-tuned models often beats each of them and forgets less (Wortsman et al., "Model soups",
2022).
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lora.errors import AdapterError
from lora.files import sha256_file, write_bytes, write_json
from lora.model.adapter_files import (
    CONFIG_NAME,
    RECORD_NAME,
    SCHEMA_VERSION,
    WEIGHTS_NAME,
    AdapterRecord,
    check_unchanged,
    read_adapter_config,
    read_adapter_weights,
    read_record,
)
from lora.outputs import check_folder, output_folder

KIND = "an averaged adapter"


def publish_average(
    folders: Sequence[Path], output: Path, *, weights: Sequence[float] | None = None, overwrite: bool = False
) -> AdapterRecord:
    """Put the average of adapters at `output`, where nothing or an earlier average is.

    Raises:
        AdapterError: as `average_adapters`.
        ConfigError, SetupError: as `output_folder`, or one of the adapters lies in `output`.
    """
    check_folder(output, folders, kind=KIND, overwrite=overwrite)
    with output_folder(output, kind=KIND, overwrite=overwrite) as stage:
        return average_adapters(folders, stage, weights=weights)


def average_adapters(folders: Sequence[Path], output: Path, *, weights: Sequence[float] | None = None) -> AdapterRecord:
    """Write the weighted mean of LoRA adapters of one base, as a new adapter, into a fresh folder.

    Args:
        weights: one an adapter, summing to 1; equal unless given.

    Raises:
        AdapterError: a damaged or changed adapter, adapters of different bases, layers or settings, or of a method
            whose change is not a low-rank sum (DoRA).
    """
    if not folders:
        raise AdapterError("no adapters to average; expected at least one folder.")
    shares = list(weights) if weights is not None else [1 / len(folders)] * len(folders)
    if len(shares) != len(folders) or abs(sum(shares) - 1) > 1e-6:
        raise AdapterError(f"weights {shares}: expected {len(folders)} numbers that sum to 1.")
    records = [read_record(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        check_unchanged(folder, record)
    configs = [read_adapter_config(folder) for folder in folders]
    states = [read_adapter_weights(folder) for folder in folders]
    _check(folders, records, configs, states)
    scales = [share * _scaling(config) for share, config in zip(shares, configs, strict=True)]
    rank = sum(int(config["r"]) for config in configs)
    write_bytes(output / WEIGHTS_NAME, save(_stack(states, scales), metadata={"format": "pt"}))
    write_json(output / CONFIG_NAME, configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False})
    record = replace(
        records[0],
        strength=1.0,
        adapter_sha256=sha256_file(output / WEIGHTS_NAME),
        config_sha256=sha256_file(output / CONFIG_NAME),
    )
    origin = [{"adapter_sha256": old.adapter_sha256, "weight": w} for old, w in zip(records, shares, strict=True)]
    write_json(output / "average.json", {"average_of": origin})
    write_json(output / RECORD_NAME, {"schema_version": SCHEMA_VERSION} | asdict(record))
    return record


def _scaling(config: dict[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _check(
    folders: Sequence[Path],
    records: Sequence[AdapterRecord],
    configs: Sequence[dict[str, Any]],
    states: Sequence[dict[str, Tensor]],
) -> None:
    first = records[0]
    problems = []
    for folder, record, config, state in zip(folders, records, configs, states, strict=True):
        if record.base_sha256 != first.base_sha256:
            problems.append(f"{folder}: base {record.base_sha256}; {folders[0]} has {first.base_sha256}")
        if (record.preprocess, record.decode) != (first.preprocess, first.decode):
            problems.append(f"{folder}: other preprocess or decode settings than {folders[0]}")
        if config.get("use_dora"):
            problems.append(f"{folder}: a DoRA adapter rescales weights and cannot be averaged as low-rank sums")
            continue
        foreign = [name for name, tensor in state.items() if not _is_factor(name, tensor, config["r"])]
        if foreign:
            problems.append(f"{folder}: {', '.join(foreign):.200} is no factor of rank {config['r']}")
        elif _layer_sizes(state) != _layer_sizes(states[0]):
            problems.append(f"{folder}: adapts other layers than {folders[0]}")
    if problems:
        raise AdapterError("these adapters cannot be averaged", problems)


def _is_factor(name: str, tensor: Tensor, rank: int) -> bool:
    side = 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
    return side is not None and tensor.ndim == 2 and tensor.shape[side] == rank


def _layer_sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """Return the size of each factor's side that is not the rank."""
    return {name: tensor.shape[1 if ".lora_A." in name else 0] for name, tensor in state.items()}


def _stack(states: Sequence[dict[str, Tensor]], scales: Sequence[float]) -> dict[str, Tensor]:
    stacked = {}
    for key in sorted(states[0]):
        parts = [state[key].float() for state in states]
        if ".lora_B." in key:
            parts = [part * scale for part, scale in zip(parts, scales, strict=True)]
            stacked[key] = torch.cat(parts, dim=1).contiguous()
        else:
            stacked[key] = torch.cat(parts, dim=0).contiguous()
    return stacked
