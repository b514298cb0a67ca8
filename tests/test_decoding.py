"""Decoding: Transformers' greedy text, a limit for each utterance, rows dropped when they are done."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lora import decoding
from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.errors import AudioError
from lora.model.families import EncoderStates
from lora.model.load import Bundle
from lora.units import Wave

DECODE = DecodeSettings()


def build_recognizer(bundle: Bundle, decode: DecodeSettings = DECODE, **options: int) -> Recognizer:
    return Recognizer(bundle, PreprocessConfig(), decode, **options)


@pytest.mark.parametrize("seed", range(4))
def test_the_text_is_that_of_transformers_generate(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], seed: int
) -> None:
    wave = make_wave(16_000 + 1_600 * seed, seed)
    limit = DECODE.token_limit(len(wave) / 16_000, bundle.max_tokens)
    [ours] = build_recognizer(bundle).transcribe([wave])
    audio = torch.from_numpy(wave).unsqueeze(0)
    mask = torch.ones_like(audio, dtype=torch.long)
    ids = bundle.core.generate(audio, attention_mask=mask, max_new_tokens=limit, do_sample=False)[0].tolist()
    assert ids[0] == bundle.start_id
    assert list(ours.token_ids) == [token for token in ids[1:] if token != bundle.end_id]
    assert ours.text == bundle.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_each_utterance_has_the_limit_of_its_own_duration(
    bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    waves = [make_wave(8_000, 1), make_wave(32_000, 2), make_wave(1_600, 3)]
    texts = build_recognizer(bundle).transcribe(waves)
    limits = [4, 13, 4]  # ceil(0.5 s x 6.5), ceil(2 s x 6.5), and the least, for 0.1 s
    assert [DECODE.token_limit(len(wave) / 16_000, 193) for wave in waves] == limits
    for text, limit in zip(texts, limits, strict=True):
        assert len(text.token_ids) == limit if not text.ended else len(text.token_ids) <= limit


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [(0.1, 4), (0.61, 4), (0.62, 5), (1.0, 7), (1.39, 10), (2.0, 13), (2.01, 14), (29.4, 192), (100.0, 192)],
)
def test_a_part_of_a_token_is_one_more_and_the_decoder_keeps_room_for_the_end(seconds: float, limit: int) -> None:
    """6.5 tokens a second: 0.61 s are 3.97, one second is 6.5, 2.01 s are 13.07, and 29.4 s are 191.1."""
    assert DECODE.token_limit(seconds, 193) == limit


def test_a_text_that_ends_at_its_limit_is_whole_and_a_longer_one_is_cut(
    bundle: Bundle, make_wave: Callable[[int, int], Wave]
) -> None:
    wave = make_wave(16_000, 5)
    bundle, length = ending_after(bundle, wave)
    exact = build_recognizer(bundle, DecodeSettings(tokens_per_second=float(length), min_token_limit=1))
    short = build_recognizer(bundle, DecodeSettings(tokens_per_second=float(length - 1), min_token_limit=1))
    [whole], [cut] = exact.transcribe([wave]), short.transcribe([wave])
    assert whole.ended
    assert len(whole.token_ids) == length
    assert not cut.ended
    assert cut.token_ids == whole.token_ids[:-1]


def ending_after(bundle: Bundle, wave: Wave) -> tuple[Bundle, int]:
    """Return the bundle with an end token chosen so that the model's own text for `wave` ends."""
    [free] = build_recognizer(bundle, DecodeSettings(tokens_per_second=12.0)).transcribe([wave])
    for place in range(2, len(free.token_ids)):
        if free.token_ids[place] not in free.token_ids[:place]:
            return replace(bundle, end_id=free.token_ids[place]), place
    raise AssertionError(f"the tiny model repeats itself: {free.token_ids}")


def test_rows_that_end_leave_the_batch_and_the_others_keep_their_text(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate((1_600, 1_600, 1_600, 48_000))]
    expected = [build_recognizer(bundle).transcribe([wave])[0].token_ids for wave in waves]
    sizes: list[int] = []
    forward = bundle.core.model.decoder.forward

    def count_rows(*args: object, **kwargs: torch.Tensor) -> object:
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(bundle.core.model.decoder, "forward", count_rows)
    texts = build_recognizer(bundle).transcribe(waves)
    assert [text.token_ids for text in texts] == expected
    assert sizes[0] == 4
    assert sizes[-1] == 1
    assert len(sizes) == len(expected[3]) + 1


def test_transcripts_come_in_the_order_of_the_waves(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate((3_000, 30_000, 9_000))]
    forwards = build_recognizer(bundle, batch_size=2).transcribe(waves)
    backwards = build_recognizer(bundle, batch_size=2).transcribe(waves[::-1])
    assert [row.token_ids for row in forwards] == [row.token_ids for row in backwards[::-1]]


def test_a_batch_encoded_in_pieces_has_the_states_of_each_wave_alone(
    bundle: Bundle, make_wave: Callable[[int, int], Wave], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [make_wave(samples, seed) for seed, samples in enumerate((3_000, 30_000, 9_000, 28_000, 4_000))]
    recognizer = build_recognizer(bundle)
    alone = [recognizer.encode([wave]).states[0] for wave in waves]
    sizes = []
    encode = bundle.family.encode

    def noted(core: Any, audio: Tensor, num_samples: Tensor, **options: Any) -> EncoderStates:
        sizes.append(len(audio))
        return encode(core, audio, num_samples, **options)

    monkeypatch.setattr(type(bundle.family), "encode", staticmethod(noted))
    monkeypatch.setattr(decoding, "CPU_ENCODER_SECONDS", 2.0)
    batch = recognizer.encode(waves)
    assert sizes == [1, 1, 3]
    assert batch.states.shape[:2] == batch.mask.shape == (5, len(alone[1]))
    for row, states in enumerate(alone):
        assert int(batch.mask[row].sum()) == len(states)
        torch.testing.assert_close(batch.states[row, : len(states)], states, rtol=1e-4, atol=1e-5)


def test_mean_log_prob_is_that_of_the_emitted_tokens(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    [text] = build_recognizer(bundle).transcribe([make_wave(16_000, 1)])
    assert not text.ended
    recognizer = build_recognizer(bundle)
    encoded = recognizer.encode([make_wave(16_000, 1)])
    # The state after the last kept token was scored too: one more token was tried before the text was cut.
    with torch.inference_mode():
        hidden = bundle.core.model.decoder(
            input_ids=torch.tensor([[bundle.start_id, *text.token_ids]]),
            encoder_hidden_states=bundle.family.decoder_memory(encoded),
            encoder_attention_mask=encoded.mask,
        ).last_hidden_state
        best = torch.log_softmax(bundle.core.proj_out(hidden[0]), dim=-1).max(dim=-1)
    assert best.indices.tolist()[:-1] == list(text.token_ids)
    assert text.mean_log_prob == pytest.approx(best.values.mean().item(), abs=1e-4)


def test_audio_below_the_familys_shortest_is_refused(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    with pytest.raises(AudioError, match=f"needs at least {bundle.family.min_samples}"):
        build_recognizer(bundle).transcribe([make_wave(bundle.family.min_samples - 1, 1)])


@pytest.mark.parametrize("family_name", ["moonshine_streaming"], indirect=True)
def test_audio_beyond_the_decoders_positions_is_refused(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    positions = bundle.family.max_frames(bundle.core)
    assert positions == 1024
    with pytest.raises(AudioError, match="1025 frames; the model has positions for 1024"):
        build_recognizer(bundle).transcribe([make_wave((1024 * 4 + 1) * 80, 1)])
