"""Encoder states from the cache are those of the encoder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from lora.config import DecodeSettings, PreprocessConfig, StateFormat
from lora.data.audio import wave_sha256
from lora.data.batches import pad_waves
from lora.decoding import Recognizer
from lora.model.adapters import AdapterConfig
from lora.model.families import EncoderStates
from lora.model.feature_cache import DTYPES, EncoderCache
from lora.model.load import Bundle
from lora.model.methods import start_adaptation
from lora.units import Wave

OPENED: list[EncoderCache] = []


@pytest.fixture(autouse=True)
def close_caches() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def open_cache(
    bundle: Bundle,
    root: Path,
    state_format: StateFormat = "fp32",
    *,
    cut: int | None = None,
    preprocess: PreprocessConfig | None = None,
) -> EncoderCache:
    preprocess = preprocess or PreprocessConfig()
    recognizer = Recognizer(bundle, preprocess, DecodeSettings())
    cache = EncoderCache(
        bundle,
        recognizer.encode,
        root,
        cut=len(bundle.core.model.encoder.layers) if cut is None else cut,
        preprocess=preprocess,
        state_format=state_format,
        limit_bytes=2**30,
    )
    OPENED.append(cache)
    return cache


def states_of(cache: EncoderCache, waves: Sequence[Wave]) -> EncoderStates:
    return cache.encode([wave_sha256(wave) for wave in waves], lambda row: waves[row])


@pytest.mark.parametrize(("state_format", "tolerance"), [("fp32", 0.0), ("bf16", 2**-8), ("fp16", 2**-10)])
def test_cached_states_equal_those_computed_directly(
    bundle: Bundle,
    make_wave: Callable[[int, int], Wave],
    tmp_path: Path,
    state_format: StateFormat,
    tolerance: float,
) -> None:
    cache = open_cache(bundle, tmp_path, state_format)
    waves = [make_wave(samples, seed) for seed, samples in enumerate((12_000, 30_000, 5_000))]
    states_of(cache, [waves[1], waves[2]])
    batch = states_of(cache, waves)
    direct = Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode(waves)
    assert torch.equal(batch.mask, direct.mask)
    assert batch.states.dtype == DTYPES[state_format]
    torch.testing.assert_close(batch.states[batch.mask].float(), direct.states[direct.mask], rtol=tolerance, atol=1e-4)
    assert not batch.states[~batch.mask].any()


def test_each_wave_is_encoded_once_in_all_runs_and_known_by_its_content(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = Recognizer.encode

    def counted(self: Recognizer, waves: Sequence[Wave], cut: int | None = None) -> EncoderStates:
        encoded.extend(len(wave) for wave in waves)
        return encode(self, waves, cut)

    monkeypatch.setattr(Recognizer, "encode", counted)
    cache, first, second = open_cache(bundle, tmp_path), make_wave(2_000, 1), make_wave(3_000, 2)
    states_of(cache, [first])
    states_of(cache, [second, first.copy(), second])
    once = states_of(cache, [first, second])
    again = states_of(open_cache(bundle, tmp_path), [first, second])
    assert encoded == [2_000, 3_000]
    assert torch.equal(once.states, again.states)


def test_another_base_or_format_has_states_of_its_own(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    wave = make_wave(8_000, 1)
    before = states_of(open_cache(bundle, tmp_path), [wave]).states
    states_of(open_cache(bundle, tmp_path, "bf16"), [wave])
    with torch.no_grad():
        next(bundle.core.model.encoder.parameters()).mul_(1.5)
    after = states_of(open_cache(bundle, tmp_path), [wave]).states
    assert not torch.allclose(before, after, atol=1e-3)
    assert len(list(tmp_path.glob("*/kind.json"))) == 3


@pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)
@pytest.mark.parametrize(
    "name", ["torch.__version__", "transformers.__version__", "lora.model.feature_cache.FEATURE_VERSION"]
)
def test_other_versions_have_states_of_their_own(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = open_cache(bundle, tmp_path).store.folder
    assert open_cache(bundle, tmp_path).store.folder == first
    monkeypatch.setattr(name, "0.0.1")
    assert open_cache(bundle, tmp_path).store.folder != first


@pytest.mark.parametrize("family_name", ["moonshine"], indirect=True)
@pytest.mark.parametrize("changes", [{"target_rms": 0.05}, {"peak_limit": 0.5}])
def test_other_preprocessing_has_states_of_its_own(bundle: Bundle, tmp_path: Path, changes: dict[str, float]) -> None:
    first = open_cache(bundle, tmp_path).store.folder
    other = open_cache(bundle, tmp_path, preprocess=PreprocessConfig(**changes))
    assert other.store.folder != first


def test_another_decoder_shares_the_states(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    states_of(open_cache(bundle, tmp_path), [make_wave(8_000, 1)])
    with torch.no_grad():
        next(bundle.core.model.decoder.parameters()).mul_(1.5)
    assert open_cache(bundle, tmp_path).has(wave_sha256(make_wave(8_000, 1)))


@pytest.mark.parametrize("seconds_at_once", [25.0, 0.5])
def test_states_of_a_cut_are_those_before_the_layer_above_it(
    deep_bundle: Bundle,
    make_wave: Callable[[int, int], Wave],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds_at_once: float,
) -> None:
    monkeypatch.setattr("lora.decoding.CPU_ENCODER_SECONDS", seconds_at_once)
    waves = [make_wave(samples, seed) for seed, samples in enumerate((12_000, 30_000, 5_000))]
    audio, num_samples = pad_waves(waves)
    with torch.no_grad():
        direct = deep_bundle.family.encode(deep_bundle.core, audio, num_samples, cut=2)
        whole = deep_bundle.family.encode(deep_bundle.core, audio, num_samples)
    batch = states_of(open_cache(deep_bundle, tmp_path, cut=2), waves)
    torch.testing.assert_close(batch.states[batch.mask].float(), direct.states[direct.mask], rtol=0, atol=1e-4)
    above = deep_bundle.family.encode_above(deep_bundle.core, batch, 2).states
    torch.testing.assert_close(above[batch.mask], whole.states[whole.mask], rtol=0, atol=1e-4)


def test_every_cut_has_states_of_its_own_in_one_root(
    deep_bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    wave = make_wave(8_000, 1)
    states = []
    for cut in (1, 2, 3, 4):
        cache = open_cache(deep_bundle, tmp_path, cut=cut)
        assert not cache.has(wave_sha256(wave))
        states.append(states_of(cache, [wave]).states)
    assert all(not torch.allclose(states[0], other, atol=1e-2) for other in states[1:])
    for cut, expected in zip((1, 2, 3, 4), states, strict=True):
        assert torch.equal(states_of(open_cache(deep_bundle, tmp_path, cut=cut), [wave]).states, expected)
    assert len(list(tmp_path.glob("*/kind.json"))) == 4


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ("layers.1.mlp.fc1.weight", False),
        ("layers.2.mlp.fc1.weight", True),
        ("layers.3.self_attn.q_proj.weight", True),
        ("final norm", True),
        ("frontend", False),
    ],
)
def test_states_of_a_cut_are_shared_by_all_that_differ_above_it(
    deep_bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path, changed: str, shared: bool
) -> None:
    states_of(open_cache(deep_bundle, tmp_path, cut=2), [make_wave(8_000, 1)])
    weights = dict(deep_bundle.core.model.encoder.named_parameters())
    norm = next(weight for name, weight in weights.items() if name.startswith(deep_bundle.family.final_norm))
    named = {"frontend": next(iter(weights.values())), "final norm": norm}
    with torch.no_grad():
        (named | weights)[changed].mul_(1.5)
    assert open_cache(deep_bundle, tmp_path, cut=2).has(wave_sha256(make_wave(8_000, 1))) == shared
    assert not open_cache(deep_bundle, tmp_path, cut=4).has(wave_sha256(make_wave(8_000, 1)))


def test_an_adapter_above_the_cut_does_not_change_the_name_of_the_states(
    deep_bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    states_of(open_cache(deep_bundle, tmp_path, cut=2), [make_wave(8_000, 1)])
    start_adaptation(deep_bundle, AdapterConfig("pissa", 4, 8.0, 0.0, "upper"), seed=0)
    assert open_cache(deep_bundle, tmp_path, cut=2).has(wave_sha256(make_wave(8_000, 1)))


def test_states_are_computed_in_fp32_whatever_the_precision_of_training(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path
) -> None:
    wave = make_wave(8_000, 1)
    with torch.autocast("cpu", torch.bfloat16):
        cached = states_of(open_cache(bundle, tmp_path), [wave]).states
    direct = Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode([wave]).states
    torch.testing.assert_close(cached, direct, rtol=0, atol=1e-5)


def test_cached_states_can_be_trained_on(bundle: Bundle, make_wave: Callable[[int, int], Wave], tmp_path: Path) -> None:
    """They are made in inference mode, whose own tensors autograd refuses."""
    states = states_of(open_cache(bundle, tmp_path), [make_wave(8_000, 1)]).states
    weight = torch.nn.Parameter(torch.ones(states.shape[-1]))
    (states * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, states.sum(dim=(0, 1)))
