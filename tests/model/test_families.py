"""Padding changes nothing (decision D2), and nothing differs from Transformers where there is no padding."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.batches import pad_waves
from lora.decoding import Recognizer
from lora.model.families import FAMILIES, EncoderStates
from lora.model.load import Bundle
from lora.model.text import build_token_batch
from lora.training.objective import aligned_objective
from lora.units import Wave

MIXED_LENGTHS = (1_600, 40_000, 7_283, 16_000, 23_999, 3_217, 64_000)
# Whole 5 ms frames: the streaming family drops a part of a frame, Transformers pads it.
WHOLE_FRAMES = (1_600, 8_000, 24_080)
SHORTEST = {"moonshine": 895, "moonshine_streaming": 80}


@torch.inference_mode()
@pytest.mark.parametrize("samples", WHOLE_FRAMES)
def test_states_at_a_cut_are_those_of_plain_transformers(
    deep_bundle: Bundle, make_wave: Callable[[int, int], Wave], samples: int
) -> None:
    encoder, wave = deep_bundle.core.model.encoder, make_wave(samples, samples)
    seen: list[Tensor] = []
    encoder.layers[2].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    encode_plainly(deep_bundle, wave)
    lower = deep_bundle.family.encode(deep_bundle.core, *pad_waves([wave]), cut=2)
    torch.testing.assert_close(lower.states, seen[0], rtol=0, atol=1e-5)


def encode_alone(bundle: Bundle, wave: Wave) -> Tensor:
    audio, num_samples = pad_waves([wave])
    encoded = bundle.family.encode(bundle.core, audio, num_samples)
    assert bool(encoded.mask.all())
    return encoded.states[0]


def encode_plainly(bundle: Bundle, wave: Wave) -> Tensor:
    """Encode with Transformers' own forward, which needs a mask before it applies sliding windows."""
    audio = torch.from_numpy(wave).unsqueeze(0)
    states: Tensor = bundle.core.model.encoder(audio, attention_mask=torch.ones_like(audio, dtype=torch.long))[0][0]
    return states


@torch.inference_mode()
def test_a_row_of_a_padded_batch_has_the_states_that_it_has_alone(
    bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate(MIXED_LENGTHS)]
    audio, num_samples = pad_waves(waves)
    batch = bundle.family.encode(bundle.core, audio, num_samples)
    for row, wave in enumerate(waves):
        alone = encode_alone(bundle, wave)
        assert batch.mask[row].sum() == len(alone)
        torch.testing.assert_close(batch.states[row, batch.mask[row]], alone, rtol=0, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_the_encoder_in_two_parts_is_the_encoder(
    deep_bundle: Bundle, make_wave: Callable[[int, int], Wave], cut: int
) -> None:
    """Whatever the rows of the lower part are padded with, and in whatever batch they were computed."""
    core, family = deep_bundle.core, deep_bundle.family
    for gain in getattr(core.model.encoder, family.final_norm).parameters():
        gain.add_(torch.linspace(0, 1, len(gain)))  # so that the norm twice is not the norm once
    waves = [make_wave(samples, seed) for seed, samples in enumerate(MIXED_LENGTHS)]
    audio, num_samples = pad_waves(waves)
    whole, lower = family.encode(core, audio, num_samples), family.encode(core, audio, num_samples, cut=cut)
    apart = torch.zeros_like(lower.states)
    for row, wave in enumerate(waves):
        states = family.encode(core, *pad_waves([wave]), cut=cut).states[0]
        apart[row, : len(states)] = states
    if cut < 4:
        assert (lower.states[lower.mask] - whole.states[lower.mask]).abs().max() > 0.1
    for states in (lower.states, apart):
        joined = family.encode_above(core, EncoderStates(states, lower.mask), cut)
        assert torch.equal(joined.mask, whole.mask)
        torch.testing.assert_close(joined.states[whole.mask], whole.states[whole.mask], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_transformers_own_encoder_is_changed_by_padding(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    wave = make_wave(16_000, 1)
    audio, _ = pad_waves([wave, make_wave(64_000, 2)])
    mask = torch.ones_like(audio, dtype=torch.long)
    mask[0, 16_000:] = 0
    padded = bundle.core.model.encoder(audio, attention_mask=mask)[0][0]
    alone = encode_alone(bundle, wave)
    assert (padded[: len(alone)] - alone).abs().max() > 1e-3


@torch.inference_mode()
def test_text_is_the_same_batched_and_one_by_one(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate(MIXED_LENGTHS)]
    batched = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    single = Recognizer(bundle, PreprocessConfig(), DecodeSettings(), batch_size=1)
    expected = [row.token_ids for row in single.transcribe(waves)]
    assert [row.token_ids for row in batched.transcribe(waves)] == expected
    assert len(set(expected)) == len(waves)  # the model hears the difference, so the comparison can fail


@torch.inference_mode()
@pytest.mark.parametrize("samples", WHOLE_FRAMES)
def test_states_equal_those_of_plain_transformers_without_padding(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], samples: int
) -> None:
    wave = make_wave(samples, samples)
    torch.testing.assert_close(encode_alone(bundle, wave), encode_plainly(bundle, wave), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_shortest_wave_gives_one_exact_frame_in_any_batch(
    bundle: Bundle, family_name: str, make_wave: Callable[[int, int], Wave]
) -> None:
    assert bundle.family.min_samples == SHORTEST[family_name]
    wave = make_wave(bundle.family.min_samples, 3)
    alone = encode_alone(bundle, wave)
    torch.testing.assert_close(alone, encode_plainly(bundle, wave), rtol=0, atol=1e-5)
    audio, num_samples = pad_waves([wave, make_wave(20_000, 4)])
    batch = bundle.family.encode(bundle.core, audio, num_samples)
    assert batch.mask.sum(dim=1)[0] == len(alone) == 1
    torch.testing.assert_close(batch.states[0, :1], alone, rtol=0, atol=1e-4)


def test_gradients_are_the_same_batched_and_one_by_one(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate((4_000, 12_345, 20_000))]
    texts = [[270, 271], [272, 273, 274, 275], [276]]
    weight = bundle.core.model.encoder.layers[0].self_attn.q_proj.weight.requires_grad_(True)

    def gradient(rows: list[int]) -> Tensor:
        audio, num_samples = pad_waves([waves[row] for row in rows])
        targets = build_token_batch(bundle, [texts[row] for row in rows])
        encoded = bundle.family.encode(bundle.core, audio, num_samples)
        loss = aligned_objective(bundle.core, bundle.family, encoded, targets).sum()
        return torch.autograd.grad(loss, weight)[0]

    together, apart = gradient([0, 1, 2]), sum(gradient([row]) for row in range(3))
    assert together.abs().max() > 1e-3
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3 * float(together.abs().max()))


@torch.inference_mode()
def test_the_decoder_leaves_the_encoder_states_as_they_are(
    bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    """Transformers' streaming decoder adds position embeddings to its argument in place."""
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    encoded = recognizer.encode([make_wave(16_000, 1), make_wave(9_000, 2)])
    before = encoded.states.clone()
    first = recognizer.generate(encoded, [1.0, 0.5625])
    losses = [
        aligned_objective(bundle.core, bundle.family, encoded, build_token_batch(bundle, [[270], [271]]))
        for _ in range(2)
    ]
    assert torch.equal(encoded.states, before)
    assert recognizer.generate(encoded, [1.0, 0.5625]) == first
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize(
    ("family", "samples", "frames"),
    [
        ("moonshine", 895, 1),
        ("moonshine", 1_278, 1),
        ("moonshine", 1_279, 2),
        ("moonshine", 16_000, 40),
        ("moonshine_streaming", 80, 1),
        ("moonshine_streaming", 399, 1),
        ("moonshine_streaming", 400, 2),
        ("moonshine_streaming", 16_000, 50),
    ],
)
def test_the_number_of_frames_follows_from_the_strides(family: str, samples: int, frames: int) -> None:
    assert FAMILIES[family].num_frames(torch.tensor([samples])).tolist() == [frames]


def test_the_tiny_checkpoints_are_of_both_families(checkpoints: dict[str, Path]) -> None:
    assert set(checkpoints) == set(FAMILIES)
