"""Texts as decoder inputs and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora.errors import ManifestError
from lora.model.load import Bundle

IGNORED = -100


@dataclass(frozen=True)
class TokenBatch:
    """Teacher-forcing inputs.

    `labels[b, t]` is the token that follows `decoder_input_ids[b, : t + 1]`: the shift is made here,
    once and explicitly (decision D3).

    Attributes:
        decoder_input_ids: int64 (batch, tokens): start token, then the text.
        labels: int64 (batch, tokens): the text, then the end token; `IGNORED` on padding.
    """

    decoder_input_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """Return the batch on `device`."""
        return TokenBatch(self.decoder_input_ids.to(device), self.labels.to(device))

    @property
    def num_tokens(self) -> int:
        """Number of labels that count."""
        return int((self.labels != IGNORED).sum())


def encode_text(bundle: Bundle, text: str, *, place: str) -> list[int]:
    """Return a text's token ids without start and end tokens.

    Raises:
        ManifestError: the text has no tokens, unknown or start and end ones, or more than the decoder can emit.
    """
    [ids] = encode_texts(bundle, [(text, place)])
    if isinstance(ids, ManifestError):
        raise ids
    return ids


def encode_texts(bundle: Bundle, texts: Sequence[tuple[str, str]]) -> list[list[int] | ManifestError]:
    """Return each text's token ids, or the error of `encode_text`; all at once takes a tenth of the time.

    Args:
        texts: (text, place).
    """
    if not texts:
        return []
    rows: list[list[int]] = bundle.tokenizer([text for text, _ in texts], add_special_tokens=False).input_ids
    encoded: list[list[int] | ManifestError] = []
    for (text, place), ids in zip(texts, rows, strict=True):
        try:
            _check_ids(bundle, text, ids, place)
            encoded.append(ids)
        except ManifestError as error:
            encoded.append(error)
    return encoded


def _check_ids(bundle: Bundle, text: str, ids: Sequence[int], place: str) -> None:
    if not ids:
        raise ManifestError(f"{place}: text {text!r:.60} has no tokens. Fix the row or remove it.")
    if bundle.tokenizer.unk_token_id is not None and bundle.tokenizer.unk_token_id in ids:
        raise ManifestError(f"{place}: text {text!r:.60} has characters that the tokenizer does not know.")
    if bundle.start_id in ids or bundle.end_id in ids:
        raise ManifestError(f"{place}: text {text!r:.60} spells the model's start or end token. Fix the row.")
    if len(ids) + 1 > bundle.max_tokens:
        raise ManifestError(
            f"{place}: text has {len(ids)} tokens; the model emits at most {bundle.max_tokens - 1}. Cut the clip."
        )


def build_token_batch(bundle: Bundle, token_ids: Sequence[Sequence[int]]) -> TokenBatch:
    """Shift and pad texts for teacher forcing, on the CPU."""
    longest = max(len(ids) for ids in token_ids) + 1
    inputs = torch.full((len(token_ids), longest), bundle.end_id)
    labels = torch.full((len(token_ids), longest), IGNORED)
    for row, ids in enumerate(token_ids):
        inputs[row, : len(ids) + 1] = torch.tensor([bundle.start_id, *ids])
        labels[row, : len(ids) + 1] = torch.tensor([*ids, bundle.end_id])
    return TokenBatch(inputs, labels)
