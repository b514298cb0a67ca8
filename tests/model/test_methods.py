"""Every method trains the target layers and ends as a plain PEFT adapter with the same function."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from lora.config import DecodeSettings, PreprocessConfig, TargetPreset
from lora.data.batches import pad_waves
from lora.errors import AdapterError
from lora.export.average import average_adapters
from lora.export.merge import merge_adapter
from lora.model.adapter_files import read_record
from lora.model.adapters import (
    AdapterConfig,
    adapted_layers,
    delta_norm,
    load_adapter,
    save_adapter,
    set_strength_,
    weight_change,
)
from lora.model.load import Bundle, load_bundle
from lora.model.methods import Adaptation, optimizer_groups, start_adaptation, target_layers
from lora.model.text import build_token_batch
from lora.training.objective import score_positions
from lora.training.perturbation import FlatPerturbation
from lora.units import Wave

CPU = torch.device("cpu")
METHODS = ("lora", "rslora", "dora", "pissa", "full")
SAVE = {"preprocess": PreprocessConfig(), "decode": DecodeSettings()}


def config_of(method: str) -> AdapterConfig:
    return AdapterConfig(method, rank=4, alpha=8.0, dropout=0.0, targets="all-linear")


def logits_of(bundle: Bundle, wave: Wave) -> Tensor:
    audio, num_samples = pad_waves([wave])
    with torch.no_grad():
        encoded = bundle.family.encode(bundle.core, audio, num_samples)
        return score_positions(bundle.core, bundle.family, encoded, build_token_batch(bundle, [[9, 20, 31]])).logits()


def pretend_training(module: nn.Module, seed: int = 0) -> None:
    """Move every trainable weight a little, as an optimizer would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def trained(folder: Path, method: str, seed: int = 0) -> tuple[Bundle, Adaptation]:
    bundle = load_bundle(str(folder), CPU)
    adaptation = start_adaptation(bundle, config_of(method), seed=seed)
    pretend_training(adaptation.module, seed)
    adaptation.module.eval()
    return bundle, adaptation


@pytest.fixture(params=["moonshine", "moonshine_streaming"])
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_starts_as_the_base_model(
    checkpoint: Path, method: str, make_wave: Callable[[int, int], Wave]
) -> None:
    bundle, wave = load_bundle(str(checkpoint), CPU), make_wave(9000, 1)
    before = logits_of(bundle, wave)
    adaptation = start_adaptation(bundle, config_of(method), seed=0)
    adaptation.module.eval()
    torch.testing.assert_close(logits_of(bundle, wave), before, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_method_keeps_its_function_when_finished_saved_and_loaded(
    checkpoint: Path, method: str, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    bundle, adaptation = trained(checkpoint, method)
    wave = make_wave(9000, 2)
    wanted = logits_of(bundle, wave)
    base = logits_of(load_bundle(str(checkpoint), CPU), wave)
    assert (wanted - base).abs().max() > 0.01
    save_adapter(adaptation.finish(), bundle, tmp_path / "adapter", **SAVE)
    torch.testing.assert_close(logits_of(bundle, wave), wanted, atol=2e-3, rtol=1e-3)

    ours = load_bundle(str(checkpoint), CPU)
    load_adapter(ours, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(ours, wave), wanted, atol=2e-3, rtol=1e-3)

    plain = load_bundle(str(checkpoint), CPU)
    PeftModel.from_pretrained(plain.core, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits_of(plain, wave), logits_of(ours, wave))

    difference = merge_adapter(str(checkpoint), tmp_path / "adapter", tmp_path / "merged")
    assert difference < 1e-3
    merged = load_bundle(str(tmp_path / "merged"), CPU)
    torch.testing.assert_close(logits_of(merged, wave), logits_of(ours, wave), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_strength_zero_is_the_base_model_and_a_saved_strength_is_loaded_by_everyone(
    checkpoint: Path, method: str, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    bundle, adaptation = trained(checkpoint, method)
    wave = make_wave(9000, 3)
    base = logits_of(load_bundle(str(checkpoint), CPU), wave)
    model = adaptation.finish()
    full = logits_of(bundle, wave)
    set_strength_(model, 0.0)
    torch.testing.assert_close(logits_of(bundle, wave), base, atol=1e-4, rtol=1e-4)
    set_strength_(model, 0.5)
    half = logits_of(bundle, wave)
    record = save_adapter(model, bundle, tmp_path / "half", **SAVE)
    assert record.strength == 0.5
    set_strength_(model, 1.0)
    torch.testing.assert_close(logits_of(bundle, wave), full, atol=1e-4, rtol=1e-4)
    assert (half - full).abs().max() > 1e-3

    plain = load_bundle(str(checkpoint), CPU)
    PeftModel.from_pretrained(plain.core, str(tmp_path / "half")).eval()
    torch.testing.assert_close(logits_of(plain, wave), half, atol=1e-4, rtol=1e-4)


def test_full_training_touches_the_target_layers_only(checkpoints: dict[str, Path]) -> None:
    bundle = load_bundle(str(checkpoints["moonshine"]), CPU)
    adaptation = start_adaptation(bundle, config_of("full"), seed=0)
    trainable = {name.removesuffix(".weight") for name, p in adaptation.module.named_parameters() if p.requires_grad}
    assert trainable == set(target_layers(bundle, config_of("full")))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("targets", "frozen"),
    [("decoder", 4), ("decoder-attention", 4), ("upper", 2), ("encoder", 0), ("attention", 0), ("all-linear", 0)],
)
def test_the_encoder_layers_below_the_lowest_adapted_one_are_counted(
    deep_bundle: Bundle, method: str, targets: TargetPreset, frozen: int
) -> None:
    adaptation = start_adaptation(deep_bundle, replace(config_of(method), targets=targets), seed=0)
    assert adaptation.frozen_encoder_layers == frozen
    lower = deep_bundle.core.model.encoder.layers[:frozen]
    assert not any(parameter.requires_grad for parameter in lower.parameters())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_adapter_of_the_upper_layers_is_a_plain_peft_adapter(
    deep_bundle: Bundle,
    family_name: str,
    deep_checkpoints: dict[str, Path],
    method: str,
    make_wave: Callable[[int, int], Wave],
    tmp_path: Path,
) -> None:
    adaptation = start_adaptation(deep_bundle, replace(config_of(method), targets="upper"), seed=0)
    pretend_training(adaptation.module)
    adaptation.module.eval()
    save_adapter(adaptation.finish(), deep_bundle, tmp_path / "adapter", **SAVE)
    wave = make_wave(9000, 4)
    base, ours, plain = (load_bundle(str(deep_checkpoints[family_name]), CPU) for _ in range(3))
    model, _ = load_adapter(ours, tmp_path / "adapter")
    PeftModel.from_pretrained(plain.core, str(tmp_path / "adapter")).eval()
    wanted = logits_of(deep_bundle, wave)
    assert (wanted - logits_of(base, wave)).abs().max() > 0.01
    torch.testing.assert_close(logits_of(ours, wave), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits_of(plain, wave), wanted, atol=1e-4, rtol=1e-4)
    in_encoder = {int(name.split(".")[3]) for name in adapted_layers(model) if ".encoder." in name}
    assert in_encoder == {2, 3}


def test_an_average_is_the_mean_of_the_weight_changes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    changes = []
    for seed in (1, 2):
        bundle, adaptation = trained(checkpoints["moonshine"], "lora", seed)
        model = adaptation.finish()
        if seed == 2:
            set_strength_(model, 0.5)
        changes.append({name: weight_change(layer) for name, layer in adapted_layers(model).items()})
        save_adapter(model, bundle, tmp_path / f"seed{seed}", **SAVE)
    average_adapters([tmp_path / "seed1", tmp_path / "seed2"], tmp_path / "mean", weights=[0.25, 0.75])
    loaded, _ = load_adapter(load_bundle(str(checkpoints["moonshine"]), CPU), tmp_path / "mean")
    for name, layer in adapted_layers(loaded).items():
        torch.testing.assert_close(weight_change(layer), 0.25 * changes[0][name] + 0.75 * changes[1][name])


def test_adapters_of_dora_or_of_other_settings_are_not_averaged_and_each_is_named(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    others: dict[str, tuple[str, dict[str, Any]]] = {
        "first": ("lora", {}),
        "dora": ("dora", {}),
        "level": ("lora", {"preprocess": PreprocessConfig(target_rms=0.05)}),
        "limit": ("lora", {"decode": DecodeSettings(tokens_per_second=9.0)}),
    }
    for name, (method, changes) in others.items():
        bundle, adaptation = trained(checkpoints["moonshine"], method)
        save_adapter(adaptation.finish(), bundle, tmp_path / name, **(SAVE | changes))
    with pytest.raises(AdapterError) as caught:
        average_adapters([tmp_path / name for name in others], tmp_path / "mean")
    assert caught.value.problems == (
        f"{tmp_path / 'dora'}: a DoRA adapter rescales weights and cannot be averaged as low-rank sums",
        f"{tmp_path / 'level'}: other preprocess or decode settings than {tmp_path / 'first'}",
        f"{tmp_path / 'limit'}: other preprocess or decode settings than {tmp_path / 'first'}",
    )
    assert not (tmp_path / "mean").exists()


def test_adapters_of_different_bases_are_not_averaged(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for family in checkpoints:
        bundle, adaptation = trained(checkpoints[family], "lora")
        save_adapter(adaptation.finish(), bundle, tmp_path / family, **SAVE)
    with pytest.raises(AdapterError, match=read_record(tmp_path / "moonshine_streaming").base_sha256):
        average_adapters([tmp_path / name for name in checkpoints], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_lora_plus_gives_b_a_higher_rate(checkpoints: dict[str, Path]) -> None:
    bundle = load_bundle(str(checkpoints["moonshine"]), CPU)
    adaptation = start_adaptation(bundle, config_of("lora"), seed=0)
    slow, fast = optimizer_groups(adaptation.module, learning_rate=0.001, b_ratio=8.0)
    assert (slow["peak"], fast["peak"]) == (0.001, 0.008)
    # B starts at zero and A does not.
    assert all(float(parameter.detach().abs().sum()) == 0 for parameter in fast["params"])
    assert all(float(parameter.detach().abs().sum()) > 0 for parameter in slow["params"])


def test_a_perturbation_has_the_papers_size_and_leaves_no_trace(checkpoints: dict[str, Path]) -> None:
    _, adaptation = trained(checkpoints["moonshine"], "lora")
    layer = next(iter(adaptation.layers.values()))
    before = layer.get_base_layer().weight.clone()
    perturbation = FlatPerturbation(list(adaptation.layers.values()), sigma=0.1, max_steps=10, seed=3)
    with perturbation.applied(10):
        noise = layer.get_base_layer().weight - before
    assert torch.equal(layer.get_base_layer().weight, before)
    merged = before + layer.get_delta_weight("default").detach()
    # At the last step sigma is sigma_max, and the noise of a row has the norm sigma |row|.
    ratio = noise.norm(dim=1) / merged.norm(dim=1)
    assert 0.09 < float(ratio.mean()) < 0.11
    with perturbation.applied(10):
        assert torch.equal(layer.get_base_layer().weight - before, noise)


def test_the_norm_of_a_dora_change_counts_the_magnitudes(checkpoints: dict[str, Path]) -> None:
    bundle = load_bundle(str(checkpoints["moonshine"]), CPU)
    model = start_adaptation(bundle, config_of("dora"), seed=0).finish()
    layers = adapted_layers(model)
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_magnitude_vector["default"].weight *= 1.1
    weights = [layer.get_base_layer().weight for layer in layers.values()]
    wanted = 0.1 * sum(float(weight.square().sum()) for weight in weights) ** 0.5
    assert delta_norm(model) == pytest.approx(wanted, rel=1e-4)
