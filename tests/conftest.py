"""What every test shares: no hub, no network, one thread; tiny checkpoints of both families and a toy language."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lora.data.sources.base import Clip, write_clips
from lora.data.sources.fsdd import DIGIT_WORDS
from lora.units import SAMPLE_RATE_HZ, Wave

if TYPE_CHECKING:
    from keeping import Server

    from lora.model.load import Bundle

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

FAMILY_NAMES = ("moonshine", "moonshine_streaming")
TOY_WORDS = ("one", "two", "three", "four")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a test that would reach another machine; local sockets stay open."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in ("127.0.0.1", "::1"):  # type: ignore[index]
            raise AssertionError(f"a test tried to reach {address}; tests are offline")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _tones(frequencies: list[float], samples: int, rng: np.random.Generator) -> Wave:
    """One tone after the other over a little noise, at a usual level: float32 (samples,)."""
    parts = np.array_split(np.arange(samples) / SAMPLE_RATE_HZ, len(frequencies))
    phases = rng.uniform(0, 2 * np.pi, size=len(parts))
    tones = zip(frequencies, parts, phases, strict=True)
    wave = np.concatenate([np.sin(2 * np.pi * hz * part + phase) for hz, part, phase in tones])
    wave = wave + 0.05 * rng.standard_normal(samples)
    return (0.075 * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


def noise_wave(samples: int, seed: int) -> Wave:
    """A wave like no other seed's: five tones one after the other, with noise."""
    rng = np.random.default_rng(seed)
    return _tones(rng.uniform(150, 3000, size=5).tolist(), samples, rng)


def toy_clip(number: int, *, seed: int = 0) -> Clip:
    """A clip of the toy language: two to four tones, each a word, and each word followed by the next one.

    So the text follows from the first tone and the length, and a little training suffices to read it. No two are in
    tune to 3%, as no two takes of a speaker are, so that they are not taken for one recording.
    """
    rng = np.random.default_rng([seed, number])
    count, start = int(rng.integers(2, 5)), int(rng.integers(len(TOY_WORDS)))
    places = [(start + step) % len(TOY_WORDS) for step in range(count)]
    samples = round(count * float(rng.uniform(0.18, 0.22)) * SAMPLE_RATE_HZ)
    wave = _tones([400.0 * 1.6**place * rng.uniform(0.97, 1.03) for place in places], samples, rng)
    text = " ".join(TOY_WORDS[place] for place in places)
    return Clip(f"toy-{seed}-{number}", wave, SAMPLE_RATE_HZ, text, f"speaker{number % 3}")


@pytest.fixture(scope="session")
def make_wave() -> Callable[[int, int], Wave]:
    return noise_wave


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Clip]:
    return toy_clip


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random checkpoints of both families, with weights large enough that what they say depends on the audio."""
    return _random_checkpoints(tmp_path_factory.mktemp("checkpoints"), encoder_layers=2)


@pytest.fixture(scope="session")
def deep_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with four encoder layers: a lower half, and in the streaming family an upper one of other windows."""
    return _random_checkpoints(tmp_path_factory.mktemp("deep"), encoder_layers=4)


def _random_checkpoints(folder: Path, *, encoder_layers: int) -> dict[str, Path]:
    import torch

    from lora.model.scratch import build_model, build_processor, save_checkpoint

    processor = build_processor(DIGIT_WORDS)
    for name in FAMILY_NAMES:
        model = build_model(
            name,
            vocab_size=len(processor.tokenizer),
            width=64,
            encoder_layers=encoder_layers,
            decoder_layers=2,
            heads=4,
            seed=1,
        )
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if weight.ndim > 1 and "embed_tokens" not in key:
                    weight *= 6
        save_checkpoint(model, processor, folder / name)
    return {name: folder / name for name in FAMILY_NAMES}


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moonshine model that was trained on the toy language, just enough to know which word follows which."""
    return _trained_checkpoint("moonshine", tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def streaming_toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the streaming family."""
    return _trained_checkpoint("moonshine_streaming", tmp_path_factory.mktemp("streaming-toy") / "model")


def _trained_checkpoint(family: str, folder: Path) -> Path:
    import torch

    from lora.data.batches import pad_waves
    from lora.model.load import load_bundle
    from lora.model.scratch import build_model, build_processor, save_checkpoint
    from lora.model.text import build_token_batch, encode_text
    from lora.training.objective import aligned_objective

    processor = build_processor(DIGIT_WORDS)
    model = build_model(
        family,
        vocab_size=len(processor.tokenizer),
        width=64,
        encoder_layers=1,
        decoder_layers=1,
        heads=4,
        seed=2,
    )
    save_checkpoint(model, processor, folder)
    bundle = load_bundle(str(folder), torch.device("cpu"))
    core = bundle.core.requires_grad_(True)
    optimizer = torch.optim.AdamW(core.parameters(), lr=3e-3)
    for step in range(40):
        clips = [toy_clip(8 * step + row, seed=99) for row in range(8)]
        audio, num_samples = pad_waves([clip.wave for clip in clips])
        targets = build_token_batch(bundle, [encode_text(bundle, clip.text, place=clip.id) for clip in clips])
        encoded = bundle.family.encode(core, audio, num_samples)
        loss = aligned_objective(core, bundle.family, encoded, targets).sum() / targets.num_tokens
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_checkpoint(core, processor, folder)
    return folder


@pytest.fixture(params=FAMILY_NAMES)
def family_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def bundle(family_name: str, checkpoints: dict[str, Path]) -> "Bundle":
    """A fresh tiny random model; adapters may be injected into it."""
    import torch

    from lora.model.load import load_bundle

    return load_bundle(str(checkpoints[family_name]), torch.device("cpu"))


@pytest.fixture
def deep_bundle(family_name: str, deep_checkpoints: dict[str, Path]) -> "Bundle":
    import torch

    from lora.model.load import load_bundle

    return load_bundle(str(deep_checkpoints[family_name]), torch.device("cpu"))


@pytest.fixture
def toy_bundle(toy_checkpoint: Path) -> "Bundle":
    import torch

    from lora.model.load import load_bundle

    return load_bundle(str(toy_checkpoint), torch.device("cpu"))


@pytest.fixture(scope="session")
def write_toy_manifest() -> Callable[..., Path]:
    """Return a function that writes a manifest of toy clips with FLAC files beside it."""

    def write(path: Path, *, count: int, seed: int) -> Path:
        return write_clips((toy_clip(number, seed=seed) for number in range(count)), path, total=count)

    return write


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Clip]) -> Path:
    """A person's working folder, with recordings, notes and manifests: what no command may harm."""
    from scenarios import build_place

    folder = tmp_path_factory.mktemp("place")
    build_place(folder, make_clip)
    return folder


@pytest.fixture(scope="module")
def whole_place(place: Path, toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two finished runs."""
    from keeping import copy_place
    from scenarios import add_runs

    folder = copy_place(place, tmp_path_factory.mktemp("whole") / "place")
    with pytest.MonkeyPatch.context() as patch:
        add_runs(folder, toy_checkpoint, patch.chdir)
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A server of commands that load no torch."""
    from keeping import Server

    server = Server(tmp_path_factory.mktemp("light"), light=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A server of all commands."""
    from keeping import Server

    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()
