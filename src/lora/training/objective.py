"""The training objective: cross-entropy of the next token, with the shift made explicitly.

Transformers' own `labels=` is never used: until 5.15 the Moonshine classes shifted labels twice
(Hugging Face pull request 46784), so training taught the model to skip a token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lora.model.families import EncoderStates, Family
from lora.model.text import IGNORED, TokenBatch
from lora.training.head_loss import head_loss
from lora.training.precision import autocast_weight

Objective = Callable[[Any, Family, EncoderStates, TokenBatch], Tensor]
"""(core, family, encoded, targets) -> loss of each utterance, summed over its tokens, float32 (batch,)."""


def aligned_objective(core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
    """Return each utterance's summed cross-entropy, float32 (batch,).

    The state after reading `decoder_input_ids[: t + 1]` is scored against `labels[t]`. Only positions
    with a label are projected onto the vocabulary.
    """
    return score_positions(core, family, encoded, targets).cross_entropy()


def misaligned_objective(core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
    """Return the loss of the double shift: each state is scored against the label after its own.

    Exists to be refused by the alignment check and to be measured against the right objective.
    """
    shifted = torch.full_like(targets.labels, IGNORED)
    shifted[:, :-1] = targets.labels[:, 1:]
    return score_positions(core, family, encoded, targets, shifted).cross_entropy()


OBJECTIVES: dict[str, Objective] = {"aligned": aligned_objective, "misaligned": misaligned_objective}


@dataclass(frozen=True)
class Positions:
    """What the decoder says at the positions that have a label, row after row.

    Attributes:
        hidden: float (positions, width), the decoder's last states.
        head: the output layer, linear without bias.
        labels: int64 (positions,).
        rows: int64 (positions,), the utterance of each.
        num_rows: number of utterances.
    """

    hidden: Tensor
    head: Any
    labels: Tensor
    rows: Tensor
    num_rows: int

    def logits(self) -> Tensor:
        """Return the scores of every token, float32 (positions, vocabulary)."""
        scores: Tensor = self.head(self.hidden)
        return scores.float()

    def cross_entropy(self) -> Tensor:
        """Return each utterance's summed cross-entropy, float32 (batch,)."""
        if self.head.weight.requires_grad:  # training from scratch
            return self.sum_rows(F.cross_entropy(self.logits(), self.labels, reduction="none"))
        return self.sum_rows(head_loss(self.hidden, autocast_weight(self.head), self.labels))

    def sum_rows(self, values: Tensor) -> Tensor:
        """Sum values of positions within each utterance, float32 (batch,)."""
        return torch.zeros(self.num_rows, device=values.device).index_add(0, self.rows, values)


def score_positions(
    core: Any, family: Family, encoded: EncoderStates, targets: TokenBatch, labels: Tensor | None = None
) -> Positions:
    """Run the decoder teacher-forced and keep only the positions that have a label.

    Args:
        labels: other labels than the targets' own, for the misaligned objective.
    """
    labels = targets.labels if labels is None else labels
    hidden = core.model.decoder(
        input_ids=targets.decoder_input_ids,
        encoder_hidden_states=family.decoder_memory(encoded),
        encoder_attention_mask=encoded.mask,
        use_cache=False,
    ).last_hidden_state
    counted = labels != IGNORED
    return Positions(hidden[counted], core.proj_out, labels[counted], counted.nonzero()[:, 0], len(labels))
