"""Base models: loaded with everything that belongs to them, or refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.errors import ModelError, SetupError
from lora.model.load import load_bundle, locate_model, weights_sha256
from lora.units import Wave

CPU = torch.device("cpu")


@pytest.fixture
def copied(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A moonshine checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoints["moonshine"], tmp_path / "model"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_both_families_load_through_one_interface(family_name: str, checkpoints: dict[str, Path]) -> None:
    bundle = load_bundle(str(checkpoints[family_name]), CPU)
    assert bundle.family.name == family_name
    assert (bundle.start_id, bundle.end_id) == (1, 2)
    assert bundle.max_tokens == {"moonshine": 193, "moonshine_streaming": 1023}[family_name]
    assert bundle.device == CPU
    assert not bundle.core.training
    assert not any(parameter.requires_grad for parameter in bundle.core.parameters())


def test_heads_are_not_padded_on_a_cpu_and_the_texts_are_the_same(
    copied: Path, make_wave: Callable[[int, int], Wave]
) -> None:
    change_json(copied / "config.json", pad_head_dim_to_multiple_of=24)
    bundle = load_bundle(str(copied), CPU)
    attention = [module for module in bundle.core.modules() if hasattr(module, "head_dim_padding")]
    assert {module.head_dim_padding for module in attention} == {0}
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    waves = [make_wave(samples, seed) for seed, samples in enumerate((8_000, 16_000, 24_000))]
    states, texts = recognizer.encode(waves).states, recognizer.transcribe(waves)
    for module in attention:
        module.head_dim_padding = 8
    torch.testing.assert_close(recognizer.encode(waves).states, states, rtol=0, atol=1e-4)
    assert [row.token_ids for row in recognizer.transcribe(waves)] == [row.token_ids for row in texts]


def test_the_hash_is_of_the_weights_and_not_of_the_files(
    family_name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    bundle = load_bundle(str(checkpoints[family_name]), CPU)
    bundle.core.save_pretrained(tmp_path / "split", max_shard_size="300KB")
    bundle.processor.save_pretrained(tmp_path / "split")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert load_bundle(str(tmp_path / "split"), CPU).sha256 == bundle.sha256
    assert weights_sha256(bundle.core.state_dict()) == bundle.sha256


def test_weights_that_are_not_in_the_file_are_listed_and_never_made_up(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    gone = ["model.decoder.norm.weight", "model.encoder.conv1.weight"]
    save_file({key: value for key, value in weights.items() if key not in gone}, copied / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load_bundle(str(copied), CPU)
    assert caught.value.problems == tuple(f"missing_keys: {name}" for name in gone)


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.decoder.norm.weight"] = torch.ones(7)
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_bundle(str(copied), CPU)


def test_a_damaged_weights_file_is_a_model_error(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_bundle(str(copied), CPU)


def test_another_kind_of_model_is_refused(copied: Path) -> None:
    change_json(copied / "config.json", model_type="whisper")
    with pytest.raises(ModelError, match="model type 'whisper'; expected one of moonshine, moonshine_streaming"):
        load_bundle(str(copied), CPU)


def test_a_processor_that_does_not_fit_is_refused(copied: Path) -> None:
    path = next(path for path in copied.glob("*processor*.json") if "sampling_rate" in path.read_text())
    before = path.read_text()
    path.write_text(before.replace("16000", "8000"))
    with pytest.raises(ModelError, match="processor for 8000 Hz; expected 16000 Hz"):
        load_bundle(str(copied), CPU)
    path.write_text(before.replace('"do_normalize": false', '"do_normalize": true'))
    with pytest.raises(ModelError, match="Moonshine takes raw samples"):
        load_bundle(str(copied), CPU)


def test_a_processor_folder_that_is_missing_is_named(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such processor folder"):
        load_bundle(str(copied), CPU, processor_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("model_id", ["./nowhere", "/nowhere", "nowhere", "a/b/c"])
def test_a_path_without_a_model_is_refused(model_id: str) -> None:
    with pytest.raises(ModelError, match=r"no such folder\. Expected a local folder, a hub id such as"):
        locate_model(model_id)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(str(tmp_path))


def test_an_unknown_builtin_model_is_refused() -> None:
    with pytest.raises(ModelError, match="builtin:poems: no such builtin model"):
        locate_model("builtin:poems")


def test_a_hub_that_cannot_be_reached_is_an_environment_error() -> None:
    with pytest.raises(SetupError, match="someone/no-such-moonshine: cannot be loaded from the hub") as caught:
        load_bundle("someone/no-such-moonshine", CPU)
    assert caught.value.exit_code == 1


def test_the_hash_of_a_base_is_of_every_weight_with_its_name_and_shape(
    family_name: str, checkpoints: dict[str, Path]
) -> None:
    """Computed here from the file: what is saved with adapters must mean the same in every version."""
    bundle = load_bundle(str(checkpoints[family_name]), CPU)
    weights = load_file(checkpoints[family_name] / "model.safetensors")
    assert set(weights) <= set(bundle.core.state_dict())
    for name in bundle.core.state_dict().keys() - weights.keys():  # the output layer is the embedding
        weights[name] = weights["model.decoder.embed_tokens.weight"]
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{tuple(weights[name].shape)}".encode())
        digest.update(weights[name].numpy().astype("<f4").tobytes())
    assert bundle.sha256 == digest.hexdigest()


@pytest.mark.parametrize("part", ["model.encoder.layers.0.self_attn.q_proj", "model.decoder.layers.1.mlp.fc1"])
def test_one_changed_weight_of_encoder_or_decoder_makes_another_base(copied: Path, part: str) -> None:
    before = load_bundle(str(copied), CPU).sha256
    weights = load_file(copied / "model.safetensors")
    weights[f"{part}.weight"][0, 0] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_bundle(str(copied), CPU).sha256 != before
