"""The two Moonshine families behind one interface; every difference between them is named here.

`encode` is exact under padding (decision D2): a row of a padded batch gets the states that it would get
alone. Transformers' own encoders do not have this property: Moonshine's GroupNorm averages over padded
time, and both families' frame masks admit frames that touch padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora.errors import ModelError
from lora.model.attention import window_mask


@dataclass(frozen=True)
class EncoderStates:
    """What the decoder attends to.

    Attributes:
        states: float (batch, frames, width).
        mask: bool (batch, frames), True on real frames.
    """

    states: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> "EncoderStates":
        """Keep `rows` (int64, or bool per row) of the batch."""
        return EncoderStates(self.states[rows], self.mask[rows])


def join_states(pieces: Sequence[tuple[Sequence[int], EncoderStates]]) -> EncoderStates:
    """Return one padded batch of the rows of several: row `rows[i]` is row i of its piece.

    Args:
        pieces: the rows of each and their states; together 0 to the number of rows less one, each once.
    """
    if len(pieces) == 1 and list(pieces[0][0]) == list(range(len(pieces[0][0]))):
        return pieces[0][1]
    count = sum(len(rows) for rows, _ in pieces)
    first = pieces[0][1].states
    length = max(piece.mask.shape[1] for _, piece in pieces)
    states = first.new_zeros(count, length, first.shape[2])
    mask = torch.zeros(count, length, dtype=torch.bool, device=first.device)
    for rows, piece in pieces:
        states[rows, : piece.mask.shape[1]] = piece.states
        mask[rows, : piece.mask.shape[1]] = piece.mask
    return EncoderStates(states, mask)


class Family(Protocol):
    """What the project needs to know about a kind of Moonshine model."""

    name: str
    min_samples: int

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the number of encoder frames of waveforms of `num_samples`, int64 of the same shape."""
        ...

    def max_frames(self, core: Any) -> int | None:
        """Return the most encoder frames that the decoder can place, `None` where there is no such limit."""
        ...

    def encode(self, core: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
        """Encode a zero-padded batch exactly.

        Args:
            core: the Transformers model, with or without injected adapter layers.
            audio: float (batch, samples), zeros beyond each row's own length.
            num_samples: int64 (batch,), the real length of each row.
        """
        ...

    def decoder_memory(self, encoded: EncoderStates) -> Tensor:
        """Return the states in a form that the decoder may consume, float (batch, frames, width)."""
        ...


class MoonshineFamily:
    """`moonshine` (tiny, base): convolutional frontend with a GroupNorm over all of time."""

    name = "moonshine"
    # Kernels 127, 7, 3 with strides 64, 3, 2: the shortest waveform that gives one frame.
    min_samples = 895

    def num_frames(self, num_samples: Tensor) -> Tensor:
        return (self._conv2_frames(self._conv1_frames(num_samples)) - 3) // 2 + 1

    def max_frames(self, core: Any) -> int | None:
        return None

    def encode(self, core: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
        encoder = core.model.encoder
        hidden = torch.tanh(encoder.conv1(audio.unsqueeze(1)))
        hidden = _masked_group_norm(hidden, self._conv1_frames(num_samples), encoder.groupnorm)
        hidden = F.gelu(encoder.conv2(hidden))
        hidden = F.gelu(encoder.conv3(hidden)).transpose(1, 2)
        mask = _frame_mask(self.num_frames(num_samples), hidden.shape[1])
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rotary = encoder.rotary_emb(hidden, position_ids=positions)
        attention_mask = None if bool(mask.all()) else mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask=attention_mask, position_ids=positions, position_embeddings=rotary)
        return EncoderStates(encoder.layer_norm(hidden), mask)

    def decoder_memory(self, encoded: EncoderStates) -> Tensor:
        return encoded.states

    @staticmethod
    def _conv1_frames(num_samples: Tensor) -> Tensor:
        return (num_samples - 127) // 64 + 1

    @staticmethod
    def _conv2_frames(conv1_frames: Tensor) -> Tensor:
        return (conv1_frames - 7) // 3 + 1


class MoonshineStreamingFamily:
    """`moonshine_streaming` (tiny, small, medium): 5 ms frames, causal convolutions, sliding windows.

    A waveform is cut to whole frames: at most 79 samples (5 ms) at its end are not heard, as in
    Transformers, whose frame mask drops a partial frame too.
    """

    name = "moonshine_streaming"
    min_samples = 80

    def num_frames(self, num_samples: Tensor) -> Tensor:
        return self._halve(self._halve(num_samples // self.min_samples))

    def max_frames(self, core: Any) -> int | None:
        # The decoder looks up a learned position for every encoder frame.
        frames: int = core.model.decoder.pos_emb.num_embeddings
        return frames

    def encode(self, core: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
        encoder = core.model.encoder
        embedder = encoder.embedder
        if embedder.frame_len != self.min_samples:
            raise ModelError(f"a frame of {embedder.frame_len} samples; expected {self.min_samples} (5 ms at 16 kHz).")
        frames = num_samples // self.min_samples
        audio = audio[:, : int(frames.max()) * self.min_samples]
        hidden = embedder.cmvn(audio.reshape(audio.shape[0], -1, self.min_samples))
        hidden = F.silu(embedder.linear(embedder.comp(hidden)))
        hidden = self._silence(hidden, frames).transpose(1, 2)
        hidden, _ = embedder.conv1(hidden)
        frames = self._halve(frames)
        hidden = self._silence(F.silu(hidden).transpose(1, 2), frames).transpose(1, 2)
        hidden, _ = embedder.conv2(hidden)
        hidden = hidden.transpose(1, 2)
        mask = _frame_mask(self._halve(frames), hidden.shape[1])
        windows = [tuple(window) for window in encoder.config.sliding_windows]
        masks = {window: window_mask(mask, window) for window in dict.fromkeys(windows)}
        for layer, window in zip(encoder.layers, windows, strict=True):
            hidden = layer(hidden, attention_mask=masks[window])
        return EncoderStates(encoder.final_norm(hidden), mask)

    def decoder_memory(self, encoded: EncoderStates) -> Tensor:
        # Transformers' streaming decoder adds its position embeddings to this tensor in place.
        return encoded.states.clone()

    @staticmethod
    def _halve(frames: Tensor) -> Tensor:
        return (frames - 1) // 2 + 1

    @staticmethod
    def _silence(hidden: Tensor, frames: Tensor) -> Tensor:
        return hidden * _frame_mask(frames, hidden.shape[1]).unsqueeze(-1)


FAMILIES: dict[str, Family] = {family.name: family for family in (MoonshineFamily(), MoonshineStreamingFamily())}


def _frame_mask(frames: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=frames.device).unsqueeze(0) < frames.unsqueeze(1)


def _masked_group_norm(hidden: Tensor, frames: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Apply a one-group GroupNorm with its statistics taken over real frames only.

    Args:
        hidden: float (batch, channels, time).
        frames: int64 (batch,), the number of real frames of each row.
    """
    mask = _frame_mask(frames, hidden.shape[2]).unsqueeze(1)
    values = hidden.float()
    count = (frames * hidden.shape[1]).view(-1, 1, 1)
    mean = (values * mask).sum(dim=(1, 2), keepdim=True) / count
    centred = (values - mean) * mask
    variance = centred.square().sum(dim=(1, 2), keepdim=True) / count
    normed = centred * torch.rsqrt(variance + norm.eps)
    return (normed * norm.weight.view(1, -1, 1) + norm.bias.view(1, -1, 1) * mask).to(hidden.dtype)
