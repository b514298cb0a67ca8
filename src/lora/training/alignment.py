"""The alignment check: before training, prove that the objective teaches the right token (decision D3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora.decoding import Recognizer
from lora.errors import CheckFailed
from lora.model.text import build_token_batch
from lora.training.examples import Example
from lora.training.objective import Objective, aligned_objective, misaligned_objective
from lora.training.shares import count_tokens

CLIPS = 8
CLEARLY_LOWER = 0.8
LOW_WER = 0.5


@dataclass(frozen=True)
class AlignmentCheck:
    """Losses in nats a token of the base model on a few training clips."""

    objective_loss: float
    aligned_loss: float
    misaligned_loss: float
    uniform_loss: float
    clips: int
    passed: bool
    reason: str


def check_alignment(
    recognizer: Recognizer, examples: Sequence[Example], objective: Objective, *, baseline_wer: float | None
) -> AlignmentCheck:
    """Score the base model teacher-forced, with the objective, aligned and misaligned.

    It passes when the objective is the aligned one, the aligned loss is below `CLEARLY_LOWER` of the
    misaligned one, and a model that reads most of the domain right (WER under 50%) is not at a loss of
    half a uniform guess or more.

    Raises:
        SetupError: one clip alone does not fit into memory.
    """
    bundle = recognizer.bundle
    chosen = list(examples[:CLIPS])
    waves = [example.wave for example in chosen]
    scores = (objective, aligned_objective, misaligned_objective)

    @torch.inference_mode()
    def add_up(indices: list[int]) -> list[float]:
        encoded = recognizer.encode([waves[index] for index in indices])
        targets = build_token_batch(bundle, [chosen[index].token_ids for index in indices]).to(bundle.device)
        return [float(score(bundle.core, bundle.family, encoded, targets).sum()) for score in scores]

    batches = [losses for _, losses in recognizer.map_batches([len(wave) for wave in waves], add_up)]
    tokens = count_tokens(chosen)
    counts = (tokens, tokens, tokens - len(chosen))
    objective_loss, aligned, misaligned = (
        sum(losses) / count for losses, count in zip(zip(*batches, strict=True), counts, strict=True)
    )
    uniform = math.log(bundle.core.config.vocab_size)
    reason = _fault(objective_loss, aligned, misaligned, uniform, baseline_wer)
    return AlignmentCheck(objective_loss, aligned, misaligned, uniform, len(chosen), not reason, reason)


def require_alignment(check: AlignmentCheck) -> None:
    """Stop the run if the check did not pass.

    Raises:
        CheckFailed: with the losses and the reason.
    """
    if not check.passed:
        raise CheckFailed(
            f"alignment check: {check.reason} (objective {check.objective_loss:.3f}, aligned {check.aligned_loss:.3f}, "
            f"misaligned {check.misaligned_loss:.3f} nats a token on {check.clips} clips)"
        )


def _fault(objective_loss: float, aligned: float, misaligned: float, uniform: float, baseline_wer: float | None) -> str:
    if not math.isfinite(objective_loss + aligned + misaligned):
        return "a loss is not finite; check the audio and the base model"
    if abs(objective_loss - aligned) > 1e-3 + 0.01 * aligned:
        return "the training objective is not the aligned cross-entropy; it would teach the wrong token"
    if aligned > CLEARLY_LOWER * misaligned:
        return (
            "the aligned loss is not clearly below the misaligned one; the transcripts may not belong to the audio, "
            "or the base model does not read this language at all"
        )
    if baseline_wer is not None and baseline_wer < LOW_WER and aligned > uniform / 2:
        return (
            f"a baseline WER of {baseline_wer:.1%} and this loss do not go together; check casing, punctuation and "
            "language of the transcripts against what the model writes"
        )
    return ""
