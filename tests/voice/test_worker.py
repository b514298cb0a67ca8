"""The model process: adapters switched on one set of base weights, and the line between it and the app."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_cli.desk import Desk
from lora_cli.engine import ModelChoice, ProcessEngine
from lora_cli.protocol import receive, send
from voice_fakes import CountingVoices, Inbox, tone_pcm

from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.errors import AdapterError
from lora.model.adapters import (
    AdapterConfig,
    add_adapter,
    load_adapter,
    load_further_adapter,
    save_adapter,
    use_adapter,
)
from lora.model.load import load_bundle
from lora.model.scratch import build_model, build_processor, save_checkpoint
from lora.runners.progress import PROGRESS_VARIABLE, progress_bar
from lora.scripts import voice

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random base model with two adapters."""
    folder = tmp_path_factory.mktemp("voice")
    processor = build_processor(("one", "two"))
    model = build_model(
        "moonshine",
        vocab_size=len(processor.tokenizer),
        width=32,
        encoder_layers=1,
        decoder_layers=1,
        heads=2,
        seed=0,
    )
    save_checkpoint(model, processor, folder / "base")
    for seed, name in enumerate(("one", "two"), start=1):
        bundle = load_bundle(str(folder / "base"), CPU)
        adapted = add_adapter(bundle, AdapterConfig("lora", 4, 8.0, 0.0, "all-linear"), seed=seed)
        torch.manual_seed(seed)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.3)
        save_adapter(adapted, bundle, folder / name, preprocess=PreprocessConfig(), decode=DecodeSettings())
    return folder


def score(checkpoint: Path, bundle: object) -> float:
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())  # type: ignore[arg-type]
    wave = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    return recognizer.transcribe([wave])[0].mean_log_prob


def test_adapters_are_switched_without_loading_the_base_again(checkpoint: Path) -> None:
    alone = {}
    for name in ("one", "two"):
        bundle = load_bundle(str(checkpoint / "base"), CPU)
        load_adapter(bundle, checkpoint / name)
        alone[name] = score(checkpoint, bundle)
    base = score(checkpoint, load_bundle(str(checkpoint / "base"), CPU))
    assert len({base, *alone.values()}) == 3
    bundle = load_bundle(str(checkpoint / "base"), CPU)
    model, _ = load_adapter(bundle, checkpoint / "one", name="one")
    load_further_adapter(model, bundle, checkpoint / "two", name="two")
    for name in ("one", None, "two", "one", None):
        with use_adapter(model, name):
            assert score(checkpoint, bundle) == pytest.approx(base if name is None else alone[name], abs=1e-6)
    with pytest.raises(AdapterError, match="already"):
        load_further_adapter(model, bundle, checkpoint / "two", name="two")


def test_the_process_answers_for_every_voice_and_survives_a_bad_adapter(
    checkpoint: Path, tmp_path: Path, inbox: Inbox
) -> None:
    choice = ModelChoice(str(checkpoint / "base"), (("one", checkpoint / "one"), ("bad", tmp_path)))
    (tmp_path / "model.log").write_text("mine")
    engine = ProcessEngine(choice, tmp_path / "model.log", {"PYTHONPATH": os.pathsep.join(sys.path)})
    engine.start(inbox.put)
    try:
        engine.tell({"do": "begin", "take": "t", "rate": 16_000})
        engine.tell({"do": "feed", "take": "t"}, tone_pcm(1.0))
        engine.tell({"do": "finish", "take": "t"})
        assert "adapter_config.json is missing" in inbox.wait(dict, lambda m: m["is"] == "refused", 90)["message"]
        assert inbox.wait(dict, lambda m: m["is"] == "ready")["voices"] == ["base", "one"]
        finals = [inbox.wait(dict, lambda m: m["is"] == "words" and m["final"])["voice"] for _ in range(2)]
        assert finals == ["base", "one"]
        engine.tell({"do": "load", "dir": str(checkpoint / "two"), "name": "two"})
        assert inbox.wait(dict, lambda m: m["is"] == "ready")["voices"] == ["base", "one", "two"]
        assert engine.log.name == "model-2.log"
    finally:
        engine.stop()
    assert {path.name: path.read_text() for path in tmp_path.glob("*.log")} == {"model.log": "mine"}


def test_a_model_that_does_not_exist_is_named(tmp_path: Path, inbox: Inbox) -> None:
    engine = ProcessEngine(
        ModelChoice(str(tmp_path / "none")), tmp_path / "log", {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    engine.start(inbox.put)
    assert "no such folder" in inbox.wait(dict, lambda m: m["is"] == "error", 90)["message"]
    engine.stop()


def test_messages_and_audio_cross_the_line_as_they_are() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "feed", "take": "ü"}, b"\n\x00\n")
    send(stream, {"do": "quit"})
    stream.seek(0)
    assert receive(stream) == ({"do": "feed", "take": "ü"}, b"\n\x00\n")
    assert receive(stream) == ({"do": "quit"}, b"")
    assert receive(stream) is None


def test_a_line_that_breaks_off_is_the_end() -> None:
    assert receive(io.BytesIO(b'{"do": "fe')) is None
    assert receive(io.BytesIO(b'{"do": "feed", "bytes": 9}\nabc')) is None


def test_a_final_text_waits_for_no_further_partial_and_none_is_made_twice() -> None:
    told: list[dict[str, object]] = []
    desk, voices = Desk(told.append), CountingVoices()
    desk.command({"do": "show", "voices": ["base"]}, b"")
    desk.command({"do": "begin", "take": "t", "rate": 16_000}, b"")
    desk.command({"do": "feed", "take": "t"}, tone_pcm(1.0))
    desk._make_partials(voices)
    desk.command({"do": "finish", "take": "t"}, b"")
    desk._make_final(voices, desk._finals.popleft())
    assert [(row["is"], row.get("final")) for row in told] == [("words", False), ("words", True), ("done", None)]
    assert voices.calls == [("base", 32_000)]


def test_progress_is_written_as_json_lines_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, "json")
    with progress_bar("training", 3) as report:
        report(2, "training, loss 0.5")
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert rows[-1] == {"stage": "training", "done": 2, "total": 3, "detail": "training, loss 0.5"}


def test_the_umbrella_says_how_to_install_the_app_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(voice, "APP_PACKAGE", "no_such_package_at_all")
    assert voice.main(["--model-id", "x"]) == 1
    assert "packages/lora-cli" in capsys.readouterr().err
    assert voice.main(["--help"]) == 0
