"""Encoder states from the cache are those of the encoder."""

from collections.abc import Callable, Sequence

import torch

from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.model.families import EncoderStates
from lora.model.feature_cache import EncoderCache
from lora.model.load import Bundle
from lora.units import Wave


def test_cached_states_equal_those_computed_directly(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    cache = EncoderCache(recognizer.encode)
    waves = [make_wave(samples, seed) for seed, samples in enumerate((12_000, 30_000, 5_000))]
    cache.encode([waves[1], waves[2]])
    batch, direct = cache.encode(waves), recognizer.encode(waves)
    assert torch.equal(batch.mask, direct.mask)
    torch.testing.assert_close(batch.states[batch.mask], direct.states[direct.mask], rtol=0, atol=1e-4)
    assert not batch.states[~batch.mask].any()


def test_each_wave_is_encoded_once_and_known_by_its_content(make_wave: Callable[[int, int], Wave]) -> None:
    encoded: list[int] = []

    def encode(waves: Sequence[Wave]) -> EncoderStates:
        encoded.extend(len(wave) for wave in waves)
        return EncoderStates(torch.ones(len(waves), 2, 3), torch.ones(len(waves), 2, dtype=torch.bool))

    cache, first, second = EncoderCache(encode), make_wave(2_000, 1), make_wave(3_000, 2)
    cache.encode([first])
    cache.encode([second, first.copy()])
    cache.encode([first, second])
    assert encoded == [2_000, 3_000]


def test_cached_states_can_be_trained_on(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    """They are made in inference mode, whose own tensors autograd refuses."""
    cache = EncoderCache(Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode)
    states = cache.encode([make_wave(8_000, 1)]).states
    weight = torch.nn.Parameter(torch.ones(states.shape[-1]))
    (states * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, states.sum(dim=(0, 1)))
