"""Folders of base models that bring code, are pickled, damaged or boundless: refused, and nothing of them is run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.errors import ModelError
from lora.model.load import load_bundle
from lora.scripts.umbrella import main

CPU = torch.device("cpu")
MARK = "ran"
MODULE = f"""
from pathlib import Path
from transformers import MoonshineConfig, Wav2Vec2Processor

Path(__file__).with_name({MARK!r}).touch()
Path({{folder!r}}, {MARK!r}).touch()


class Config(MoonshineConfig):
    pass


class Processor(Wav2Vec2Processor):
    pass
"""


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A sound checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoints["moonshine"], tmp_path / "model"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def put_code(folder: Path, name: str, entry: dict[str, str], **changes: Any) -> None:
    """Put a module into `folder` that leaves a mark when it runs, and name it in one of the folder's JSON files."""
    (folder / "theirs.py").write_text(MODULE.format(folder=str(folder)))
    change_json(folder / name, auto_map=entry, **changes)


def refusal(folder: Path, processor_dir: Path | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        load_bundle(str(folder), CPU, processor_dir=processor_dir)
    assert caught.value.exit_code == 2
    return str(caught.value)


def answer_yes(question: str = "") -> str:
    return "y"


@pytest.mark.parametrize(
    ("name", "entry", "changes"),
    [
        ("config.json", {"AutoConfig": "theirs.Config"}, {"model_type": "theirs"}),
        ("config.json", {"AutoConfig": "theirs.Config"}, {}),
        ("processor_config.json", {"AutoProcessor": "theirs.Processor"}, {"processor_class": "Processor"}),
        ("tokenizer_config.json", {"AutoTokenizer": "theirs.Tokenizer"}, {"tokenizer_class": "Tokenizer"}),
    ],
)
def test_code_of_a_model_folder_is_never_run_or_asked_about(
    folder: Path,
    name: str,
    entry: dict[str, str],
    changes: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("builtins.input", answer_yes)
    put_code(folder, name, entry, **changes)
    assert f"{name}: auto_map names code, which is never run" in refusal(folder)
    (folder / "a.wav").write_bytes(b"not reached")
    assert main(["transcribe", "--model-id", str(folder), str(folder / "a.wav")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list(folder.rglob(MARK))


def test_code_of_a_processor_folder_is_never_run(
    folder: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", answer_yes)
    put_code(folder, "processor_config.json", {"AutoProcessor": "theirs.Processor"}, processor_class="Processor")
    assert "processor_config.json: auto_map names code" in refusal(checkpoints["moonshine"], folder)
    assert not list(folder.rglob(MARK))


def test_transformers_is_told_to_trust_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the look at the folder sees nothing, as with a model of the hub, Transformers' own refusal is passed on."""
    monkeypatch.setattr("builtins.input", answer_yes)
    monkeypatch.setattr("lora.model.load.check_model_folder", lambda folder: None)
    put_code(folder, "config.json", {"AutoConfig": "theirs.Config"}, model_type="theirs")
    assert "names code, which is never run" in refusal(folder)
    put_code(folder, "config.json", {"AutoConfig": "theirs.Config"}, model_type="moonshine")
    assert "names code, which is never run" in refusal(folder)
    assert not list(folder.rglob(MARK))


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_of_the_hub_is_not_loaded(folder: Path, key: str) -> None:
    change_json(folder / "config.json", **{key: "someone/kernel"})
    assert f"config.json: {key} names code" in refusal(folder)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pytorch_model.bin: pickled, which is never read. Save the model as safetensors" in refusal(folder)


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../other/model.safetensors", 5])
def test_an_index_names_safetensors_of_the_folder_alone(folder: Path, shard: object) -> None:
    index = {"metadata": {}, "weight_map": {"model.decoder.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"an index names '{shard}'; expected a safetensors file of the folder" in refusal(folder)


def test_an_adapters_configuration_does_not_lead_to_another_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/other"}')
    assert "adapter_config.json: an adapter" in refusal(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_tensor_with_a_bad_number_is_named(folder: Path, number: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.norm.weight"][3] = number
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.decoder.norm.weight: 1 of 64 numbers are NaN or infinite" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("encoder_num_hidden_layers", 10**7, "encoder_num_hidden_layers is 10000000; expected 1 to 1000"),
        ("decoder_num_attention_heads", 0, "decoder_num_attention_heads is 0; expected 1 to 1000"),
        ("encoder_num_hidden_layers", 1, "unexpected_keys: model.encoder.layers.1."),
        ("num_labels", 10**7, "num_labels is 10000000"),
        ("intermediate_size", 10**6, "weights, and"),
        ("vocab_size", 10**6, "weights, and"),
        ("vocab_size", -5, "cannot be loaded"),
        ("hidden_size", 0, "cannot be loaded"),
        ("hidden_size", "wide", "cannot be loaded"),
        ("rope_parameters", 5, "cannot be loaded"),
        ("dtype", "evil", "cannot be loaded"),
        ("model_type", ["moonshine"], "cannot be loaded"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(
    folder: Path, name: str, value: object, fault: str
) -> None:
    change_json(folder / "config.json", **{name: value})
    assert fault in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"hidden_size": ' + "9" * 6000 + "}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json", "generation_config.json"])
def test_a_damaged_json_file_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert "cannot be loaded" in refusal(folder)


def test_a_processor_of_another_class_is_refused(folder: Path) -> None:
    change_json(folder / "processor_config.json", processor_class="Nothing")
    assert "no feature extractor or no tokenizer" in refusal(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: (2**60).to_bytes(8, "little") + data[8:],
    ],
    ids=["empty", "a byte short", "half", "endless header"],
)
def test_a_damaged_weights_file_is_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert "cannot be loaded" in refusal(folder)
