"""Encoder states computed once, for runs whose adapter leaves the encoder alone (decision D7)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lora.files import sha256_bytes
from lora.model.families import EncoderStates
from lora.units import Wave


class EncoderCache:
    """Keeps each utterance's encoder states in memory on the CPU, at its own length.

    The key is the wave's content: ids are unique within one manifest only, and training mixes two.

    Args:
        encode: waves -> states of one batch, as `Recognizer.encode`.
    """

    def __init__(self, encode: Callable[[Sequence[Wave]], EncoderStates]) -> None:
        self._encode = encode
        self._states: dict[str, Tensor] = {}

    def encode(self, waves: Sequence[Wave]) -> EncoderStates:
        """Return the batch's states on the CPU, computing those of waves not seen before."""
        keys = [sha256_bytes(wave.tobytes()) for wave in waves]
        missing = [row for row, key in enumerate(keys) if key not in self._states]
        if missing:
            encoded = self._encode([waves[row] for row in missing])
            for position, row in enumerate(missing):
                kept = encoded.states[position, encoded.mask[position]]
                self._states[keys[row]] = kept.detach().to("cpu", copy=True)
        states = [self._states[key] for key in keys]
        frames = torch.tensor([len(state) for state in states])
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        return EncoderStates(padded, torch.arange(padded.shape[1]).unsqueeze(0) < frames.unsqueeze(1))
