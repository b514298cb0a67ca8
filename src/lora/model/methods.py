"""Adaptation methods. Whatever is trained, what comes out is a plain PEFT adapter on the unchanged base.

| method | what is trained | paper |
|---|---|---|
| `lora` | B and A of W + alpha/r BA | Hu et al., 2021, arXiv 2106.09685 |
| `rslora` | the same with alpha/sqrt(r) | Kalajdzievski, 2023, arXiv 2312.03732 |
| `dora` | direction (LoRA) and magnitude of each output row apart | Liu et al., 2024, arXiv 2402.09353 |
| `pissa` | LoRA that starts from the r principal components of W | Meng et al., 2024, arXiv 2404.02948 |
| `full` | the target layers' weights themselves: the ceiling | - |

PiSSA moves part of the base weights into the adapter, and `full` has no adapter at all, so both are turned
into plain LoRA at the end: the change W_trained - W_base is factored by SVD, at rank 2r for PiSSA (B A - B0 A0
has no more) and at full rank for `full`, which is exact to rounding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora.errors import AdapterError
from lora.model.adapters import AdapterConfig, add_adapter, target_pattern
from lora.model.load import Bundle

CONVERTED_METHODS = ("pissa", "full")


@dataclass(frozen=True)
class Adaptation:
    """What the training loop trains.

    Attributes:
        module: holds the trainable parameters; `train()` and `eval()` act on the whole model.
        layers: LoRA layers, empty for `full`.
        frozen_encoder_layers: the number of encoder layers below the lowest one that is trained; all of them where the
            encoder is left alone.
        base_weights: the target layers' weights before training, for the methods that change them.
    """

    bundle: Bundle
    config: AdapterConfig
    module: nn.Module
    layers: dict[str, LoraLayer]
    frozen_encoder_layers: int
    base_weights: dict[str, Tensor]

    def moved_weights(self) -> dict[str, Tensor]:
        """Return the base weights that the method changed before training, as they are now: PiSSA's remainder."""
        if self.config.method != "pissa":
            return {}
        return {name: layer.get_base_layer().weight for name, layer in self.layers.items()}

    def finish(self) -> PeftModel:
        """Return the trained change as a plain PEFT model on the unchanged base, ready for evaluation."""
        if self.config.method not in CONVERTED_METHODS:
            self.module.eval()
            return self.module
        if isinstance(self.module, PeftModel):
            self.bundle.core.requires_grad_(False)
            self.module.base_model.merge_and_unload()
        changes: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, base in self.base_weights.items():
                weight = self.bundle.core.get_submodule(name).weight
                changes[name] = weight.detach().float() - base
                weight.copy_(base)
        self.bundle.core.requires_grad_(False)
        rank = 2 * self.config.rank if self.config.method == "pissa" else max(min(c.shape) for c in changes.values())
        return inject_changes(self.bundle, self.config, changes, rank)


def start_adaptation(bundle: Bundle, config: AdapterConfig, *, seed: int) -> Adaptation:
    """Make the bundle's model trainable by `config.method`.

    Raises:
        AdapterError: the target pattern matches no layer of this model, or it has an adapter already.
    """
    names = target_layers(bundle, config)
    kept = {}
    if config.method in CONVERTED_METHODS:
        kept = {name: bundle.core.get_submodule(name).weight.detach().float().clone() for name in names}
    module: nn.Module = bundle.core
    if config.method == "full":
        for name in names:
            bundle.core.get_submodule(name).weight.requires_grad_(True)
    else:
        module = add_adapter(bundle, config, seed=seed)
    layers = {name: layer for name, layer in bundle.core.named_modules() if isinstance(layer, LoraLayer)}
    return Adaptation(bundle, config, module, layers, _frozen_encoder_layers(bundle, names), kept)


def target_layers(bundle: Bundle, config: AdapterConfig) -> list[str]:
    """Return the names of the linear layers that a preset means in this model."""
    num_layers = len(bundle.core.model.encoder.layers)
    pattern = re.compile(target_pattern(config.targets, num_encoder_layers=num_layers))
    names = [
        name
        for name, module in bundle.core.named_modules()
        if isinstance(module, nn.Linear) and pattern.fullmatch(name)
    ]
    if not names:
        raise AdapterError(f"{bundle.model_id}: targets {config.targets!r} match no layer.")
    return names


def _frozen_encoder_layers(bundle: Bundle, names: Sequence[str]) -> int:
    """Return the number of encoder layers below the lowest of the layers with these names."""
    places = [re.match(r"model\.encoder\.layers\.(\d+)\.", name) for name in names]
    return min((int(place[1]) for place in places if place), default=len(bundle.core.model.encoder.layers))


def inject_changes(bundle: Bundle, config: AdapterConfig, changes: dict[str, Tensor], rank: int) -> PeftModel:
    """Inject plain LoRA whose B A equals `changes` up to `rank`, by singular value decomposition."""
    plain = replace(config, method="lora", rank=rank, alpha=float(rank), dropout=0.0)
    model = add_adapter(bundle, plain, seed=0)
    modules: dict[str, Any] = dict(bundle.core.named_modules())
    with torch.no_grad():
        for name, change in changes.items():
            left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
            size = min(rank, len(values))
            root = values[:size].sqrt()
            layer = modules[name]
            for factor, value in (
                (layer.lora_A["default"].weight, root.unsqueeze(1) * right[:size]),
                (layer.lora_B["default"].weight, left[:, :size] * root),
            ):
                factor.zero_()
                factor[: value.shape[0], : value.shape[1]] = value.to(factor)
    model.eval()
    return model


def optimizer_groups(module: nn.Module, *, learning_rate: float, b_ratio: float) -> list[dict[str, Any]]:
    """Return parameter groups in which B learns `b_ratio` times as fast as A.

    LoRA+ (Hayou et al., 2024, arXiv 2402.12354): with one rate for both, A and B do not learn features
    efficiently at large width; its recommended ratio is around 16, for small models less.
    """
    fast = [p for name, p in module.named_parameters() if p.requires_grad and ".lora_B." in name]
    slow = [p for name, p in module.named_parameters() if p.requires_grad and ".lora_B." not in name]
    if b_ratio != 1 and not fast:
        raise AdapterError("LoRA+ needs an adapter with factors A and B; --method full has none. Use --lora-plus 1.")
    groups = [(slow, learning_rate), (fast, learning_rate * b_ratio)]
    return [{"params": params, "lr": rate, "peak": rate} for params, rate in groups if params]
