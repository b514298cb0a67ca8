"""Adapters: PEFT injects, saves and loads them; the record beside them makes them safe to use.

`lora_adapter/` is a plain PEFT folder, so `PeftModel.from_pretrained` loads it. `moonshine_lora.json`
beside the weights holds what PEFT does not: the base's hash, the adapter's own hash, and the preprocess
and decode settings under which it was trained and scored (decision D1).
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora.config import DecodeSettings, PreprocessConfig, TargetPreset
from lora.errors import AdapterError
from lora.files import sha256_file, staged_directory, write_json
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
from lora.model.load import Bundle
from lora.model.saving import save_pretrained
from lora.units import JsonObject

_ATTENTION = r"(q_proj|k_proj|v_proj|o_proj)"
_LINEAR = rf"((self_attn|encoder_attn)\.{_ATTENTION}|mlp\.(fc1|fc2))"
_UPPER = "UPPER"  # stands for the numbers of the upper encoder layers, which only a model knows
TARGET_PRESETS: dict[TargetPreset, str] = {
    # The official trainer's choice: decoder self-attention, queries, keys and values.
    "decoder-attention": r"model\.decoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj)",
    "attention": rf"model\.(encoder|decoder)\.layers\.\d+\.(self_attn|encoder_attn)\.{_ATTENTION}",
    "decoder": rf"model\.decoder\.layers\.\d+\.{_LINEAR}",
    "encoder": rf"model\.encoder\.layers\.\d+\.(self_attn\.{_ATTENTION}|mlp\.(fc1|fc2))",
    "upper": rf"model\.(encoder\.layers\.{_UPPER}|decoder\.layers\.\d+)\.{_LINEAR}",
    "all-linear": rf"model\.(encoder|decoder)\.layers\.\d+\.{_LINEAR}",
}
"""Patterns over module names, for `target_pattern`; the two families name their layers alike."""


@dataclass(frozen=True)
class AdapterConfig:
    """What kind of adapter to train."""

    method: str
    rank: int
    alpha: float
    dropout: float
    targets: TargetPreset


def target_pattern(targets: TargetPreset, *, num_encoder_layers: int) -> str:
    """Return the pattern over module names that a preset means in a model with this many encoder layers.

    The upper half of an odd number of layers is the smaller one, but never empty: layers 3, 4 and 5 of six, 3 and 4 of
    five, and the only layer of one.
    """
    lowest = num_encoder_layers - max(num_encoder_layers // 2, 1)
    upper = "|".join(map(str, range(lowest, num_encoder_layers)))
    return TARGET_PRESETS[targets].replace(_UPPER, f"({upper})")


def add_adapter(bundle: Bundle, config: AdapterConfig, *, seed: int) -> PeftModel:
    """Inject a fresh adapter into the bundle's model; only its weights are trainable.

    Raises:
        AdapterError: the target pattern matches no layer of this model, or it has an adapter already.
    """
    _refuse_second(bundle)
    torch.manual_seed(seed)
    pattern = target_pattern(config.targets, num_encoder_layers=len(bundle.core.model.encoder.layers))
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=pattern,
        bias="none",
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        init_lora_weights="pissa" if config.method == "pissa" else True,
    )
    bundle.core.name_or_path = bundle.model_id
    try:
        with _quiet_peft():
            return get_peft_model(bundle.core, lora)
    except ValueError as error:
        raise AdapterError(f"{bundle.model_id}: targets {config.targets!r} match no layer ({error}).") from error


def adapted_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Return the layers that carry an adapter, by their name in the base model."""
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }


def delta_norm(model: PeftModel) -> float:
    """Return the Frobenius norm of all weight changes together: sqrt(sum over layers of |W' - W|^2)."""
    squares = [weight_change(layer).square().sum().item() for layer in adapted_layers(model).values()]
    return float(sum(squares)) ** 0.5


@torch.no_grad()
def weight_change(layer: LoraLayer) -> Tensor:
    """Return W' - W of one layer, float32 (out, in): s BA, and for DoRA m (W + s BA) / |W + s BA| - W."""
    change = layer.get_delta_weight("default").float()
    if not layer.use_dora["default"]:
        return change
    weight = layer.get_base_layer().weight.float()
    magnitude = layer.lora_magnitude_vector["default"].weight.float()
    moved = weight + change
    return magnitude.unsqueeze(1) * moved / moved.norm(dim=1, keepdim=True) - weight


def set_strength_(model: PeftModel, strength: float) -> None:
    """Scale the adapter's whole effect: 0 is the base model, 1 is the adapter as it was trained.

    For DoRA the magnitudes move with it, from the base's row norms (0) to the trained ones (1).
    Calling it again replaces the strength; the trained values are remembered on the model.
    """
    trained: dict[str, Tensor] = model.__dict__.setdefault("_trained_magnitudes", {})
    with torch.no_grad():
        for name, layer in adapted_layers(model).items():
            layer.set_scale("default", strength)
            if layer.use_dora["default"]:
                magnitude = layer.lora_magnitude_vector["default"].weight
                full = trained.setdefault(name, magnitude.detach().clone())
                base = layer.get_base_layer().weight.norm(dim=1)
                magnitude.copy_(base + strength * (full - base))
    model.__dict__["_strength"] = strength


def strength_of(model: PeftModel) -> float:
    """Return what `set_strength_` last set; 1 for an adapter as it was trained."""
    return float(model.__dict__.get("_strength", 1.0))


def trainable_parameters(model: nn.Module) -> int:
    """Return the number of weights that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the trainable weights, on the CPU."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_state_(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Write a copy made by `trainable_state` back into the model."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """Switch the adapter off inside the block: the model is the base model."""
    with model.disable_adapter():
        yield


def save_adapter(
    model: PeftModel, bundle: Bundle, folder: Path, *, preprocess: PreprocessConfig, decode: DecodeSettings
) -> AdapterRecord:
    """Write the adapter in PEFT's format with its record, all or nothing.

    A strength other than 1 is saved as a scaled alpha, so that every loader applies it, plain PEFT too.
    """
    settings = model.peft_config["default"]
    trained_alpha = settings.lora_alpha
    settings.lora_alpha = trained_alpha * strength_of(model)
    try:
        record = _write_adapter(model, bundle, folder, preprocess, decode)
    finally:
        settings.lora_alpha = trained_alpha
    return record


def _write_adapter(
    model: PeftModel, bundle: Bundle, folder: Path, preprocess: PreprocessConfig, decode: DecodeSettings
) -> AdapterRecord:
    with staged_directory(folder) as stage:
        with _quiet_peft():
            save_pretrained(model, stage, save_embedding_layers=False)
        record = AdapterRecord(
            base_id=bundle.model_id,
            base_sha256=bundle.sha256,
            family=bundle.family.name,
            adapter_sha256=sha256_file(stage / WEIGHTS_NAME),
            config_sha256=sha256_file(stage / CONFIG_NAME),
            strength=strength_of(model),
            preprocess=preprocess,
            decode=decode,
        )
        write_json(stage / RECORD_NAME, {"schema_version": SCHEMA_VERSION} | asdict(record))
    return record


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Hide two warnings that are PEFT's own affair."""
    with warnings.catch_warnings():
        # PEFT asks the hub whether the vocabulary changed; the embeddings are never trained here.
        warnings.filterwarnings("ignore", message="Could not find a config file")
        # PEFT reads a name that Transformers 5.23 gave a successor.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _refuse_second(bundle: Bundle) -> None:
    """Refuse a model with adapter layers: PEFT would put a second adapter on top of the first."""
    if any(isinstance(module, LoraLayer) for module in bundle.core.modules()):
        raise AdapterError(f"{bundle.model_id}: the loaded model has an adapter already. Load the base model anew.")


def load_adapter(bundle: Bundle, folder: Path, *, name: str = "default") -> tuple[PeftModel, AdapterRecord]:
    """Inject a saved adapter into its own base model, ready for evaluation.

    Raises:
        AdapterError: the base has another hash than the adapter was trained on, the adapter's bytes
            changed since it was saved, or the model has an adapter already.
    """
    _refuse_second(bundle)
    record = _verified_record(bundle, folder)
    with _quiet_peft():
        model: Any = PeftModel.from_pretrained(bundle.core, str(folder), adapter_name=name, is_trainable=False)
    model.eval()
    return model, record


def load_further_adapter(model: PeftModel, bundle: Bundle, folder: Path, *, name: str) -> AdapterRecord:
    """Put another saved adapter beside those that the model has; `use_adapter` chooses the one that is heard.

    Raises:
        AdapterError: as `load_adapter`, or the name is taken.
    """
    if name in model.peft_config:
        raise AdapterError(f"{folder}: the model has an adapter named {name!r} already. Choose another name.")
    record = _verified_record(bundle, folder)
    with _quiet_peft():
        model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
    model.eval()
    return record


@contextmanager
def use_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Let one adapter be heard inside the block; `None` is the base model."""
    if name is None:
        with adapter_off(model):
            yield
        return
    model.set_adapter(name)
    yield


def _verified_record(bundle: Bundle, folder: Path) -> AdapterRecord:
    """Read a record and refuse another base model, changed bytes, and weights that do not fit into the model."""
    record = read_record(folder)
    if record.base_sha256 != bundle.sha256:
        raise AdapterError(
            f"{folder}: trained on {record.base_id} with weights {record.base_sha256}; got {bundle.model_id} with "
            f"weights {bundle.sha256}. Use the adapter's own base model."
        )
    check_unchanged(folder, record)
    config = read_adapter_config(folder)
    expected = _expected_shapes(bundle, config, folder)
    found = {name: tuple(tensor.shape) for name, tensor in read_adapter_weights(folder).items()}
    problems = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name:.200}: unknown" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name}: shape {found[name]}; expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise AdapterError(
            f"{folder / WEIGHTS_NAME}: not the tensors of the layers that {CONFIG_NAME} names. Restore or retrain",
            problems,
        )
    return record


def _expected_shapes(bundle: Bundle, config: JsonObject, folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that an adapter with PEFT's configuration `config` has on this model."""
    count = len(bundle.core.model.encoder.layers)
    pattern = config["target_modules"]
    # One of ours, never any pattern: some take a regular expression years.
    if pattern not in [target_pattern(targets, num_encoder_layers=count) for targets in TARGET_PRESETS]:
        raise AdapterError(
            f"{folder / CONFIG_NAME}: target_modules {pattern!r:.80} is no target preset of this project on "
            f"{bundle.model_id}. Train the adapter with one of {', '.join(TARGET_PRESETS)}."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in bundle.core.named_modules():
        # An adapted layer's own weights are one level below its name.
        layer = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
        if isinstance(layer, nn.Linear) and re.fullmatch(pattern, name):
            stem = f"base_model.model.{name}"
            shapes[f"{stem}.lora_A.weight"] = (config["r"], layer.in_features)
            shapes[f"{stem}.lora_B.weight"] = (layer.out_features, config["r"])
            if config.get("use_dora"):
                shapes[f"{stem}.lora_magnitude_vector"] = (layer.out_features,)
    return shapes
