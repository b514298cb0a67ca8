"""Adapters: plain PEFT folders, tied to their base model by content."""

import json
import re
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig, TargetPreset
from lora.errors import AdapterError
from lora.files import sha256_file
from lora.model.adapter_files import CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME
from lora.model.adapters import (
    TARGET_PRESETS,
    AdapterConfig,
    adapted_layers,
    adapter_off,
    add_adapter,
    delta_norm,
    load_adapter,
    restore_state_,
    save_adapter,
    set_strength_,
    target_pattern,
    trainable_parameters,
    trainable_state,
)
from lora.model.load import Bundle, load_bundle
from lora.units import Wave

CPU = torch.device("cpu")
PRESETS = typing.get_args(TargetPreset)
# Two encoder and two decoder layers: q, k, v, o of one attention in the encoder, of two in the decoder; two
# linear layers in each feed-forward part.
LAYERS_OF_PRESET = {
    "decoder-attention": 2 * 3,
    "attention": 2 * 4 + 2 * 8,
    "decoder": 2 * (8 + 2),
    "encoder": 2 * (4 + 2),
    "upper": 2 * (8 + 2) + (4 + 2),
    "all-linear": 2 * (8 + 2) + 2 * (4 + 2),
}
PREPROCESS = PreprocessConfig(target_rms=0.06)
DECODE = DecodeSettings(tokens_per_second=9.0)


def config_of(targets: TargetPreset = "all-linear") -> AdapterConfig:
    return AdapterConfig("lora", rank=4, alpha=8.0, dropout=0.1, targets=targets)


def fill(model: PeftModel, seed: int = 0) -> PeftModel:
    """Give every trainable weight a random value, as if the adapter had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(model: PeftModel, bundle: Bundle, folder: Path) -> Path:
    save_adapter(model, bundle, folder, preprocess=PREPROCESS, decode=DECODE)
    return folder


@torch.inference_mode()
def logits_of(core: torch.nn.Module, wave: Wave) -> Tensor:
    """Run Transformers' own forward of the whole model."""
    audio = torch.from_numpy(wave).unsqueeze(0)
    mask = torch.ones_like(audio, dtype=torch.long)
    ids = torch.tensor([[1, 270, 271, 272]])
    logits: Tensor = core(input_values=audio, attention_mask=mask, decoder_input_ids=ids).logits
    return logits


@pytest.mark.parametrize("targets", PRESETS)
def test_every_preset_adapts_its_layers_on_both_families(bundle: Bundle, targets: TargetPreset) -> None:
    model = add_adapter(bundle, config_of(targets), seed=0)
    names = adapted_layers(model)
    assert len(names) == LAYERS_OF_PRESET[targets]
    assert all(bundle.core.get_submodule(name) is layer for name, layer in names.items())
    sizes = [4 * (layer.in_features + layer.out_features) for layer in names.values()]
    assert trainable_parameters(model) == sum(sizes)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)


@pytest.mark.parametrize(
    ("num_layers", "upper"), [(1, [0]), (2, [1]), (3, [2]), (5, [3, 4]), (6, [3, 4, 5]), (12, [6, 7, 8, 9, 10, 11])]
)
def test_the_upper_preset_is_the_decoder_and_the_upper_half_of_the_encoder(num_layers: int, upper: list[int]) -> None:
    pattern = re.compile(target_pattern("upper", num_encoder_layers=num_layers))
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.fc1", "mlp.fc2"):
        places = [
            place for place in range(num_layers + 10) if pattern.fullmatch(f"model.encoder.layers.{place}.{name}")
        ]
        assert places == upper
        assert pattern.fullmatch(f"model.decoder.layers.0.{name}")
    assert pattern.fullmatch("model.decoder.layers.11.encoder_attn.v_proj")
    assert not pattern.fullmatch("model.encoder.embedder.linear")


def test_every_preset_has_a_pattern() -> None:
    assert set(PRESETS) == set(TARGET_PRESETS) == set(LAYERS_OF_PRESET)


@pytest.mark.parametrize("targets", PRESETS)
def test_plain_peft_loads_the_folder_and_gives_the_same_logits(
    bundle: Bundle,
    family_name: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    make_wave: Callable[[int, int], Wave],
    targets: TargetPreset,
) -> None:
    wave = make_wave(16_000, 1)
    model = fill(add_adapter(bundle, config_of(targets), seed=0))
    folder = saved(model, bundle, tmp_path / "lora_adapter")
    expected = logits_of(bundle.core, wave)
    base = load_bundle(str(checkpoints[family_name]), CPU).core
    before = logits_of(base, wave)
    plain = PeftModel.from_pretrained(base, str(folder)).eval()
    assert torch.equal(logits_of(plain, wave), expected)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_a_loaded_adapter_brings_its_settings_and_acts_as_when_it_was_saved(
    bundle: Bundle,
    family_name: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    make_wave: Callable[[int, int], Wave],
) -> None:
    wave = make_wave(16_000, 1)
    folder = saved(fill(add_adapter(bundle, config_of(), seed=0)), bundle, tmp_path / "lora_adapter")
    fresh = load_bundle(str(checkpoints[family_name]), CPU)
    model, record = load_adapter(fresh, folder)
    assert (record.preprocess, record.decode) == (PREPROCESS, DECODE)
    assert (record.family, record.base_sha256) == (family_name, fresh.sha256)
    assert record.adapter_sha256 == sha256_file(folder / WEIGHTS_NAME)
    assert torch.equal(logits_of(fresh.core, wave), logits_of(bundle.core, wave))
    assert trainable_parameters(model) == 0
    assert not model.training


def test_another_base_is_refused_with_both_hashes(
    bundle: Bundle, family_name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = saved(add_adapter(bundle, config_of(), seed=0), bundle, tmp_path / "lora_adapter")
    other = load_bundle(str(checkpoints[family_name]), CPU)
    other = replace(other, sha256="f" * 64)
    with pytest.raises(AdapterError) as caught:
        load_adapter(other, folder)
    assert bundle.sha256 in str(caught.value)
    assert "f" * 64 in str(caught.value)


def test_one_changed_weight_makes_another_base(family_name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    bundle = load_bundle(str(checkpoints[family_name]), CPU)
    with torch.no_grad():
        bundle.core.model.decoder.norm.weight[0] += 1e-3
    bundle.core.save_pretrained(tmp_path / "base")
    bundle.processor.save_pretrained(tmp_path / "base")
    assert load_bundle(str(tmp_path / "base"), CPU).sha256 != bundle.sha256


@pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)
@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
def test_a_changed_file_is_refused(bundle: Bundle, checkpoints: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = saved(fill(add_adapter(bundle, config_of(), seed=0)), bundle, tmp_path / "lora_adapter")
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(AdapterError, match=f"{name}: content .* differs from the record"):
        load_adapter(load_bundle(str(checkpoints["moonshine"]), CPU), folder)


@pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)
def test_a_folder_that_is_no_adapter_of_this_project_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such adapter folder"):
        load_adapter(bundle, tmp_path / "missing")
    folder = saved(add_adapter(bundle, config_of(), seed=0), bundle, tmp_path / "lora_adapter")
    record = json.loads((folder / RECORD_NAME).read_text())
    fresh = replace(bundle, core=torch.nn.Linear(1, 1))
    (folder / RECORD_NAME).write_text(json.dumps(record | {"surprise": 1}))
    with pytest.raises(AdapterError, match="damaged record"):
        load_adapter(fresh, folder)
    (folder / RECORD_NAME).write_text("{")
    with pytest.raises(AdapterError, match="not valid JSON"):
        load_adapter(fresh, folder)
    (folder / RECORD_NAME).unlink()
    with pytest.raises(AdapterError, match=f"{RECORD_NAME} is missing"):
        load_adapter(fresh, folder)


def test_a_second_adapter_on_the_same_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = saved(add_adapter(bundle, config_of(), seed=0), bundle, tmp_path / "lora_adapter")
    with pytest.raises(AdapterError, match="has an adapter already"):
        add_adapter(bundle, config_of(), seed=0)
    with pytest.raises(AdapterError, match="has an adapter already"):
        load_adapter(bundle, folder)


def test_a_preset_that_matches_no_layer_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGET_PRESETS, "encoder", r"model\.nothing")
    with pytest.raises(AdapterError, match="'encoder' match no layer"):
        add_adapter(bundle, config_of("encoder"), seed=0)


def test_the_same_seed_gives_the_same_files(family_name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    contents = []
    for run, seed in enumerate((5, 5, 6)):
        bundle = load_bundle(str(checkpoints[family_name]), CPU)
        folder = saved(add_adapter(bundle, config_of(), seed=seed), bundle, tmp_path / str(run))
        contents.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert contents[0] == contents[1]
    assert contents[0][WEIGHTS_NAME] != contents[2][WEIGHTS_NAME]


def test_a_fresh_adapter_and_one_switched_off_are_the_base_model(
    bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    wave = make_wave(16_000, 1)
    base = logits_of(bundle.core, wave)
    model = add_adapter(bundle, config_of(), seed=0).eval()
    assert torch.equal(logits_of(bundle.core, wave), base)
    assert delta_norm(model) == 0.0
    fill(model)
    with adapter_off(model):
        assert torch.equal(logits_of(bundle.core, wave), base)
    assert not torch.allclose(logits_of(bundle.core, wave), base, atol=1e-3)


def test_a_strength_is_saved_as_alpha_once_however_often_it_is_saved(bundle: Bundle, tmp_path: Path) -> None:
    model = fill(add_adapter(bundle, config_of(), seed=0))
    set_strength_(model, 0.75)
    folders = [saved(model, bundle, tmp_path / name) for name in ("first", "second")]
    alphas = [json.loads((folder / CONFIG_NAME).read_text())["lora_alpha"] for folder in folders]
    assert alphas == [6.0, 6.0]  # 0.75 x 8
    assert (folders[0] / RECORD_NAME).read_bytes() == (folders[1] / RECORD_NAME).read_bytes()
    set_strength_(model, 1.0)
    folder = saved(model, bundle, tmp_path / "whole")
    assert json.loads((folder / CONFIG_NAME).read_text())["lora_alpha"] == 8.0


def test_the_delta_norm_is_that_of_the_merged_change(bundle: Bundle) -> None:
    """alpha/rank is 2; with A all ones and B all threes an entry of the change is 2 x 4 x 3 = 24."""
    model = add_adapter(bundle, config_of("decoder-attention"), seed=0)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_A["default"].weight.fill_(1.0)
            layer.lora_B["default"].weight.fill_(3.0)
    # Six layers of 64 x 64 entries.
    assert delta_norm(model) == pytest.approx(24.0 * (6 * 64 * 64) ** 0.5, rel=1e-6)


def test_a_kept_state_comes_back_whole_and_is_a_copy(bundle: Bundle) -> None:
    model = fill(add_adapter(bundle, config_of(), seed=0), seed=1)
    kept = trainable_state(model)
    expected = {name: value.clone() for name, value in kept.items()}
    fill(model, seed=2)
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    restore_state_(model, kept)
    assert all(torch.equal(value, expected[name]) for name, value in trainable_state(model).items())
    assert len(kept) == 2 * LAYERS_OF_PRESET["all-linear"]
