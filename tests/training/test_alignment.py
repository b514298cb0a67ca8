"""The alignment check passes the right objective and stops a misaligned one (decision D3)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.sources.base import Clip
from lora.decoding import Recognizer
from lora.errors import CheckFailed
from lora.model.load import Bundle
from lora.model.text import encode_text
from lora.training.alignment import AlignmentCheck, check_alignment, require_alignment
from lora.training.examples import Example
from lora.training.objective import aligned_objective, misaligned_objective


def recognizer_of(bundle: Bundle) -> Recognizer:
    return Recognizer(bundle, PreprocessConfig(), DecodeSettings())


def examples_of(bundle: Bundle, make_clip: Callable[..., Clip], *, texts: list[str] | None = None) -> list[Example]:
    clips = [make_clip(number, seed=7) for number in range(8)]
    chosen = texts or [clip.text for clip in clips]
    return [
        Example(clip.id, clip.wave, tuple(encode_text(bundle, text, place=clip.id)), text, clip.speaker_id)
        for clip, text in zip(clips, chosen, strict=False)
    ]


def test_the_aligned_objective_passes_on_a_model_that_knows_the_language(
    toy_bundle: Bundle, make_clip: Callable[..., Clip]
) -> None:
    check = check_alignment(
        recognizer_of(toy_bundle), examples_of(toy_bundle, make_clip), aligned_objective, baseline_wer=0.3
    )
    assert check.passed, check.reason
    assert check.objective_loss == check.aligned_loss
    assert check.aligned_loss < 0.5 * check.misaligned_loss
    assert check.clips == 8
    require_alignment(check)


def test_the_misaligned_objective_is_stopped(toy_bundle: Bundle, make_clip: Callable[..., Clip]) -> None:
    check = check_alignment(
        recognizer_of(toy_bundle), examples_of(toy_bundle, make_clip), misaligned_objective, baseline_wer=0.3
    )
    assert not check.passed
    with pytest.raises(CheckFailed, match="not the aligned cross-entropy; it would teach the wrong token") as caught:
        require_alignment(check)
    assert caught.value.exit_code == 3


def test_a_model_that_cannot_tell_the_two_apart_is_stopped(bundle: Bundle, make_clip: Callable[..., Clip]) -> None:
    """A random model has no reason to prefer the next token to the one after it."""
    check = check_alignment(recognizer_of(bundle), examples_of(bundle, make_clip), aligned_objective, baseline_wer=1.0)
    assert "not clearly below the misaligned one" in check.reason


def test_texts_that_are_not_the_models_are_stopped(toy_bundle: Bundle, make_clip: Callable[..., Clip]) -> None:
    """Words in another order than the model was taught: the transcripts are not those of the audio."""
    texts = ["four one three", "three two four two", "two one four", "one three one"]
    check = check_alignment(
        recognizer_of(toy_bundle), examples_of(toy_bundle, make_clip, texts=texts), aligned_objective, baseline_wer=0.3
    )
    assert not check.passed


@pytest.mark.parametrize(
    ("aligned", "misaligned", "wer", "reason"),
    [
        (2.0, 6.0, 0.3, ""),
        (2.0, 2.4, 0.3, "not clearly below"),
        (float("nan"), 6.0, 0.3, "not finite"),
        (3.5, 9.0, 0.3, "do not go together"),  # over half of ln(365) = 5.9, from a model that reads 70%
        (3.5, 9.0, 0.9, ""),
        (3.5, 9.0, None, ""),
    ],
)
def test_each_fault_has_its_reason(
    toy_bundle: Bundle,
    make_clip: Callable[..., Clip],
    monkeypatch: pytest.MonkeyPatch,
    aligned: float,
    misaligned: float,
    wer: float | None,
    reason: str,
) -> None:
    def loss_of(per_token: float, *, fewer: int) -> Callable[..., Tensor]:
        def score(core: Any, family: Any, encoded: Any, targets: Any) -> Tensor:
            counts = (targets.labels >= 0).sum(dim=1) - fewer
            return per_token * counts.float()

        return score

    right, wrong = loss_of(aligned, fewer=0), loss_of(misaligned, fewer=1)
    monkeypatch.setattr("lora.training.alignment.aligned_objective", right)
    monkeypatch.setattr("lora.training.alignment.misaligned_objective", wrong)
    check = check_alignment(recognizer_of(toy_bundle), examples_of(toy_bundle, make_clip), right, baseline_wer=wer)
    assert reason in check.reason
    assert check.passed == (reason == "")


def test_the_check_changes_nothing_in_the_model(toy_bundle: Bundle, make_clip: Callable[..., Clip]) -> None:
    before = {name: value.clone() for name, value in toy_bundle.core.state_dict().items()}
    check: AlignmentCheck = check_alignment(
        recognizer_of(toy_bundle), examples_of(toy_bundle, make_clip), aligned_objective, baseline_wer=None
    )
    assert check.passed
    assert all(torch.equal(value, before[name]) for name, value in toy_bundle.core.state_dict().items())
