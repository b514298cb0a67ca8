"""The loss is ours (decision D3): checked against hand computation and against Transformers where it is right."""

from collections.abc import Callable

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from torch.nn import functional as F

from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.model.families import EncoderStates
from lora.model.load import Bundle
from lora.model.text import build_token_batch
from lora.training.objective import aligned_objective, misaligned_objective
from lora.units import Wave

TEXTS = [[270, 275, 280, 290], [300]]


@pytest.fixture
def encoded(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> EncoderStates:
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings())
    return recognizer.encode([make_wave(16_000, 1), make_wave(9_600, 2)])


def log_probs(bundle: Bundle, encoded: EncoderStates, row: int, prefix: list[int]) -> Tensor:
    """Return the log probabilities of the token after `prefix`, from a decoder run on that prefix alone."""
    states = EncoderStates(encoded.states[row : row + 1], encoded.mask[row : row + 1])
    with torch.inference_mode():
        hidden = bundle.core.model.decoder(
            input_ids=torch.tensor([prefix]),
            encoder_hidden_states=bundle.family.decoder_memory(states),
            encoder_attention_mask=states.mask,
        ).last_hidden_state[0, -1]
        return torch.log_softmax(bundle.core.proj_out(hidden), dim=-1)


def test_each_token_is_scored_after_the_tokens_before_it(bundle: Bundle, encoded: EncoderStates) -> None:
    losses = aligned_objective(bundle.core, bundle.family, encoded, build_token_batch(bundle, TEXTS))
    for row, ids in enumerate(TEXTS):
        target, expected = [*ids, bundle.end_id], 0.0
        for place, token in enumerate(target):
            prefix = [bundle.start_id, *target[:place]]
            expected -= log_probs(bundle, encoded, row, prefix)[token].item()
        assert losses[row].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.15"), reason="labels= shifts twice before 5.15")
def test_the_loss_is_that_of_transformers_labels(bundle: Bundle, make_wave: Callable[[int, int], Wave]) -> None:
    audio = torch.from_numpy(make_wave(16_000, 1)).unsqueeze(0)
    targets = build_token_batch(bundle, TEXTS[:1])
    with torch.inference_mode():
        encoded = bundle.family.encode(bundle.core, audio, torch.tensor([16_000]))
        ours = aligned_objective(bundle.core, bundle.family, encoded, targets)[0] / targets.num_tokens
        theirs = bundle.core(
            input_values=audio, attention_mask=torch.ones_like(audio, dtype=torch.long), labels=targets.labels
        ).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_misaligned_objective_scores_the_label_after_the_next(bundle: Bundle, encoded: EncoderStates) -> None:
    targets = build_token_batch(bundle, TEXTS)
    losses = misaligned_objective(bundle.core, bundle.family, encoded, targets)
    inputs = [bundle.start_id, *TEXTS[0]]
    skipped = [*TEXTS[0][1:], bundle.end_id]
    expected = -sum(
        log_probs(bundle, encoded, 0, inputs[: place + 1])[token].item() for place, token in enumerate(skipped)
    )
    assert losses[0].item() == pytest.approx(expected, rel=1e-4)
    aligned = aligned_objective(bundle.core, bundle.family, encoded, targets)
    assert not torch.allclose(losses, aligned, rtol=0.01)


def test_padding_of_texts_and_audio_does_not_change_an_utterances_loss(
    bundle: Bundle, encoded: EncoderStates, make_wave: Callable[[int, int], Wave]
) -> None:
    together = aligned_objective(bundle.core, bundle.family, encoded, build_token_batch(bundle, TEXTS))
    alone = Recognizer(bundle, PreprocessConfig(), DecodeSettings()).encode([make_wave(9_600, 2)])
    [single] = aligned_objective(bundle.core, bundle.family, alone, build_token_batch(bundle, TEXTS[1:]))
    assert together[1].item() == pytest.approx(single.item(), rel=1e-4)


def test_a_model_that_guesses_loses_the_logarithm_of_the_vocabulary(bundle: Bundle, encoded: EncoderStates) -> None:
    with torch.no_grad():
        bundle.core.proj_out.weight.zero_()
    targets = build_token_batch(bundle, TEXTS)
    losses = aligned_objective(bundle.core, bundle.family, encoded, targets)
    uniform = F.cross_entropy(torch.zeros(1, bundle.core.config.vocab_size), torch.tensor([5])).item()
    assert losses.tolist() == pytest.approx([5 * uniform, 2 * uniform], rel=1e-5)
