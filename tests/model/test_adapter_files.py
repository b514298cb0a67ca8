"""Adapter folders whose files are not what they must be: refused with what is wrong, before PEFT sees them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig
from lora.errors import AdapterError
from lora.export.average import average_adapters
from lora.files import sha256_file
from lora.model.adapter_files import CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME
from lora.model.adapters import AdapterConfig, add_adapter, load_adapter, load_further_adapter, save_adapter
from lora.model.load import Bundle, load_bundle
from lora.scripts.umbrella import main

CPU = torch.device("cpu")
STEM = "base_model.model.model.decoder.layers.0.self_attn.q_proj"
FACTOR = f"{STEM}.lora_A.weight"


@pytest.fixture
def base(checkpoints: dict[str, Path]) -> Bundle:
    return load_bundle(str(checkpoints["moonshine"]), CPU)


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A sound adapter of the decoder's attention, of rank 4, that a test may damage."""
    bundle = load_bundle(str(checkpoints["moonshine"]), CPU)
    model = add_adapter(bundle, AdapterConfig("lora", 4, 8.0, 0.0, "decoder-attention"), seed=0)
    save_adapter(model, bundle, tmp_path / "lora_adapter", preprocess=PreprocessConfig(), decode=DecodeSettings())
    return tmp_path / "lora_adapter"


def change_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sign(folder: Path) -> Path:
    """Write the record that says that the files are as they were saved: the hashes alone do not make them sound."""
    hashes = {"adapter_sha256": WEIGHTS_NAME, "config_sha256": CONFIG_NAME}
    change_json(folder / RECORD_NAME, {key: sha256_file(folder / name) for key, name in hashes.items()})
    return folder


def with_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    weights = load_file(folder / WEIGHTS_NAME)
    change(weights)
    save_file(weights, folder / WEIGHTS_NAME)
    return sign(folder)


def with_config(folder: Path, **changes: object) -> Path:
    change_json(folder / CONFIG_NAME, changes)
    return sign(folder)


def refusal(base: Bundle, folder: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        load_adapter(base, folder)
    assert caught.value.exit_code == 2
    assert str(folder) in caught.value.message
    return str(caught.value)


def test_a_sound_adapter_loads(base: Bundle, folder: Path) -> None:
    load_adapter(base, sign(folder))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_with_a_bad_number_is_named(base: Bundle, folder: Path, number: float) -> None:
    told = refusal(base, with_weights(folder, lambda weights: weights[FACTOR][1, 2:4].fill_(number)))
    assert f"{FACTOR}: 2 of 256 numbers are NaN or infinite" in told


def test_whole_numbers_are_no_weights(base: Bundle, folder: Path) -> None:
    integers = {FACTOR: torch.ones(4, 64, dtype=torch.int32)}
    told = refusal(base, with_weights(folder, lambda weights: weights.update(integers)))
    assert f"{FACTOR}: numbers of type int32; expected floats" in told


def test_missing_and_foreign_tensors_are_listed(base: Bundle, folder: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["base_model.model.proj_out.lora_A.weight"] = weights.pop(FACTOR)

    told = refusal(base, with_weights(folder, change))
    assert f"{FACTOR}: missing" in told
    assert "base_model.model.proj_out.lora_A.weight: unknown" in told


def test_tensors_of_another_shape_are_listed(base: Bundle, folder: Path) -> None:
    told = refusal(base, with_weights(folder, lambda weights: weights.update({FACTOR: torch.ones(4, 63)})))
    assert f"{FACTOR}: shape (4, 63); expected (4, 64)" in told


def test_a_rank_that_the_weights_do_not_have_allocates_nothing(base: Bundle, folder: Path) -> None:
    assert "r: got 10000000, expected an integer from 1 to 1048576" in refusal(base, with_config(folder, r=10_000_000))
    assert f"{FACTOR}: shape (4, 64); expected (1000000, 64)" in refusal(base, with_config(folder, r=1_000_000))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"peft_type": "MIRACLE"}, "peft_type 'MIRACLE'; expected 'LORA'"),
        ({"peft_type": ["LORA"]}, "peft_type ['LORA']; expected 'LORA'"),
        ({"peft_type": "XLORA"}, "peft_type 'XLORA'; expected 'LORA'"),
        ({"r": True}, "r: got True, expected an integer"),
        ({"r": 4.5}, "r: got 4.5, expected an integer"),
        ({"lora_alpha": "8"}, "lora_alpha: got '8', expected a number"),
        ({"lora_alpha": -8.0}, "lora_alpha: got -8.0, expected a number from 0"),
        ({"lora_alpha": 10**39}, "lora_alpha: got 1"),
        ({"use_dora": 1}, "use_dora: got 1, expected true or false"),
        ({"use_dora": True}, f"{STEM}.lora_magnitude_vector: missing"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: got 'pissa'"),
        ({"target_modules": "(a+)+$"}, "target_modules '(a+)+$' is no target preset"),
        ({"target_modules": ["q_proj"]}, "target_modules ['q_proj'] is no target preset"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_core: got 'os'"),
        ({"layer_replication": [[0, 10_000_000]]}, "layer_replication: got [[0, 10000000]]"),
        ({"rank_pattern": {"q_proj": 10_000_000}}, "rank_pattern: got"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save: got ['proj_out']"),
        ({"bias": "all"}, "bias: got 'all'"),
    ],
)
def test_a_configuration_that_this_project_does_not_write_is_refused(
    base: Bundle, folder: Path, changes: dict[str, Any], fault: str
) -> None:
    assert fault in refusal(base, with_config(folder, **changes))


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"r": ' + "9" * 6000 + "}", "null"])
@pytest.mark.parametrize("name", [CONFIG_NAME, RECORD_NAME])
def test_a_file_that_is_no_json_object_is_refused(base: Bundle, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    if name == CONFIG_NAME:
        sign(folder)
    assert name in refusal(base, folder)


@pytest.mark.parametrize(
    ("part", "changes", "fault"),
    [
        ("preprocess", {"target_rms": 0}, "preprocess.target_rms: got 0, expected a number from 0.0001 to 1.0"),
        ("preprocess", {"target_rms": 1e999}, "the number Infinity is not allowed"),
        ("preprocess", {"peak_limit": -1}, "preprocess.peak_limit: got -1, expected a number from 0.01 to 1.0"),
        ("preprocess", {"min_seconds": "1"}, "preprocess.min_seconds: got '1', expected a number"),
        ("preprocess", {"min_seconds": None}, "preprocess.min_seconds: got None, expected a number"),
        ("preprocess", {"gain": 3}, "preprocess.gain: unknown"),
        ("decode", {"tokens_per_second": -3.0}, "decode.tokens_per_second: got -3.0, expected a number from 0.1"),
        ("decode", {"tokens_per_second": True}, "decode.tokens_per_second: got True"),
        ("decode", {"min_token_limit": 2.5}, "decode.min_token_limit: got 2.5, expected an integer from 1 to 10000"),
        ("", {"decode": [1]}, "decode: got [1], expected an object"),
        ("", {"strength": -1}, "strength: got -1, expected a number from 0.0 to 100.0"),
        ("", {"adapter_sha256": 5}, "adapter_sha256: got 5, expected text"),
        ("", {"schema_version": 2}, "schema_version: expected 1"),
    ],
)
def test_a_record_with_a_wrong_value_is_refused_with_key_and_value(
    base: Bundle, folder: Path, part: str, changes: dict[str, Any], fault: str
) -> None:
    record = json.loads((folder / RECORD_NAME).read_text())
    (record[part] if part else record).update(changes)
    (folder / RECORD_NAME).write_text(json.dumps(record))
    assert fault in refusal(base, folder)


def test_every_fault_of_a_record_is_listed_at_once(base: Bundle, folder: Path) -> None:
    change_json(folder / RECORD_NAME, {"preprocess": {"target_rms": 0, "peak_limit": 9}, "decode": {}, "strength": "x"})
    told = refusal(base, folder)
    # target_rms and peak_limit out of range, min_seconds missing; both keys of decode missing; strength.
    assert told.count("missing") == 3
    assert told.count("got ") == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05",
        (2**62).to_bytes(8, "little") + b"{}",
        (2**24 + 1).to_bytes(8, "little") + b"{" + b" " * 2**24,
        (20).to_bytes(8, "little") + b"no JSON at all, none",
        (20).to_bytes(8, "little") + b"{" * 20,
    ],
    ids=["empty", "a byte", "endless header", "large header", "no JSON", "brackets"],
)
def test_a_weights_file_that_is_no_safetensors_is_refused(base: Bundle, folder: Path, data: bytes) -> None:
    (folder / WEIGHTS_NAME).write_bytes(data)
    assert WEIGHTS_NAME in refusal(base, sign(folder))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_weights_file_cut_short_is_refused(base: Bundle, folder: Path, part: float) -> None:
    data = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(data[: int(part * len(data))])
    assert "damaged safetensors" in (told := refusal(base, sign(folder))) or "cut short" in told


def test_pickled_weights_are_never_read(base: Bundle, folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS_NAME), folder / "adapter_model.bin")
    (folder / WEIGHTS_NAME).unlink()
    assert "adapter_model.bin is pickled, which is never read. Save it as safetensors" in refusal(base, folder)


def test_a_further_adapter_is_checked_like_the_first(base: Bundle, folder: Path) -> None:
    model, _ = load_adapter(base, folder, name="first")
    load_further_adapter(model, base, folder, name="second")
    with_weights(folder, lambda weights: weights.pop(FACTOR))
    with pytest.raises(AdapterError, match="missing"):
        load_further_adapter(model, base, folder, name="third")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda weights: weights[FACTOR].fill_(float("nan")), "NaN or infinite"),
        (lambda weights: weights.pop(FACTOR), "adapts other layers"),
        (lambda weights: weights.update({FACTOR: torch.ones(4, 63)}), "adapts other layers"),
        (lambda weights: weights.update({FACTOR: torch.ones(5, 64)}), "is no factor of rank 4"),
        (lambda weights: weights.update({"bias": torch.ones(4)}), "bias is no factor of rank 4"),
    ],
)
def test_an_average_of_unsound_adapters_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], fault: str
) -> None:
    sound = folder.rename(tmp_path / "sound")
    unsound = tmp_path / "unsound"
    unsound.mkdir()
    for path in sound.iterdir():
        (unsound / path.name).write_bytes(path.read_bytes())
    with_weights(unsound, change)
    with pytest.raises(AdapterError, match=fault):
        average_adapters([sound, unsound], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_changed_bytes_of_any_of_the_adapters_are_not_averaged(folder: Path, tmp_path: Path, place: int) -> None:
    folders = [Path(shutil.copytree(folder, tmp_path / f"part-{number}")) for number in range(3)]
    weights = load_file(folders[place] / WEIGHTS_NAME)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folders[place] / WEIGHTS_NAME)
    with pytest.raises(AdapterError, match=rf"part-{place}.*differs from the record's"):
        average_adapters(folders, tmp_path / "out")


def test_the_command_line_ends_with_2_and_one_message(
    folder: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_config(folder, peft_type="MIRACLE")
    (tmp_path / "a.wav").write_bytes(b"not reached")
    words = ["--model-id", str(checkpoints["moonshine"]), "--adapter-dir", str(folder)]
    assert main(["transcribe", *words, str(tmp_path / "a.wav")]) == 2
    told = capsys.readouterr().err
    assert "peft_type 'MIRACLE'" in told
    assert "Traceback" not in told
