"""The two Moonshine families behind one interface; every difference between them is named here.

The encoder can be cut: what is below the cut, the frontend and the lowest layers, is computed apart from what is above
it, the other layers and the final norm. A cut is the number of layers below it; above a cut after the last layer there
is nothing, the norm is below it.

`encode` is exact under padding (decision D2): a row of a padded batch gets the states that it would get
alone. Transformers' own encoders do not have this property: Moonshine's GroupNorm averages over padded
time, and both families' frame masks admit frames that touch padding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora.errors import ModelError
from lora.model.attention import window_mask


@dataclass(frozen=True)
class EncoderStates:
    """What the decoder attends to, or what goes into the encoder's layers above a cut.

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


class Family(ABC):
    """What the project needs to know about a kind of Moonshine model.

    Attributes:
        final_norm: the name of the norm after the encoder's last layer.
    """

    name: str
    min_samples: int
    final_norm: str

    @abstractmethod
    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return the number of encoder frames of waveforms of `num_samples`, int64 of the same shape."""

    @abstractmethod
    def max_frames(self, core: Any) -> int | None:
        """Return the most encoder frames that the decoder can place, `None` where there is no such limit."""

    @abstractmethod
    def decoder_memory(self, encoded: EncoderStates) -> Tensor:
        """Return the states in a form that the decoder may consume, float (batch, frames, width)."""

    def encode(self, core: Any, audio: Tensor, num_samples: Tensor, *, cut: int | None = None) -> EncoderStates:
        """Encode a zero-padded batch exactly.

        Args:
            core: the Transformers model, with or without injected adapter layers.
            audio: float (batch, samples), zeros beyond each row's own length.
            num_samples: int64 (batch,), the real length of each row.
            cut: compute what is below this cut alone; `None` is after the last layer.
        """
        stop = len(core.model.encoder.layers) if cut is None else cut
        return self._go_on(core, self._embed(core.model.encoder, audio, num_samples), 0, stop)

    def encode_above(self, core: Any, lower: EncoderStates, cut: int) -> EncoderStates:
        """Go on from the states that `encode` gave at `cut` to those after the last layer."""
        return self._go_on(core, lower, cut, len(core.model.encoder.layers))

    def _go_on(self, core: Any, encoded: EncoderStates, start: int, stop: int) -> EncoderStates:
        """Return what the layers from `start` up to `stop`, and the norm after the last, make of their input."""
        if start == stop:
            return encoded
        encoder = core.model.encoder
        hidden = self._run_layers(encoder, encoded, slice(start, stop))
        if stop == len(encoder.layers):
            hidden = getattr(encoder, self.final_norm)(hidden)
        return EncoderStates(hidden, encoded.mask)

    @abstractmethod
    def _embed(self, encoder: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
        """Return what the frontend gives to the first layer."""

    @abstractmethod
    def _run_layers(self, encoder: Any, encoded: EncoderStates, chosen: slice) -> Tensor:
        """Return what the chosen layers make of their input, float (batch, frames, width)."""


class MoonshineFamily(Family):
    """`moonshine` (tiny, base): convolutional frontend with a GroupNorm over all of time."""

    name = "moonshine"
    # Kernels 127, 7, 3 with strides 64, 3, 2: the shortest waveform that gives one frame.
    min_samples = 895
    final_norm = "layer_norm"

    def num_frames(self, num_samples: Tensor) -> Tensor:
        return (self._conv2_frames(self._conv1_frames(num_samples)) - 3) // 2 + 1

    def max_frames(self, core: Any) -> int | None:
        return None

    def _embed(self, encoder: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
        hidden = torch.tanh(encoder.conv1(audio.unsqueeze(1)))
        hidden = _masked_group_norm(hidden, self._conv1_frames(num_samples), encoder.groupnorm)
        hidden = F.gelu(encoder.conv2(hidden))
        hidden = F.gelu(encoder.conv3(hidden)).transpose(1, 2)
        return EncoderStates(hidden, _frame_mask(self.num_frames(num_samples), hidden.shape[1]))

    def _run_layers(self, encoder: Any, encoded: EncoderStates, chosen: slice) -> Tensor:
        hidden, mask = encoded.states, encoded.mask
        positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rotary = encoder.rotary_emb(hidden, position_ids=positions)
        attention_mask = None if bool(mask.all()) else mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        for layer in encoder.layers[chosen]:
            hidden = layer(hidden, attention_mask=attention_mask, position_ids=positions, position_embeddings=rotary)
        return hidden

    def decoder_memory(self, encoded: EncoderStates) -> Tensor:
        return encoded.states

    @staticmethod
    def _conv1_frames(num_samples: Tensor) -> Tensor:
        return (num_samples - 127) // 64 + 1

    @staticmethod
    def _conv2_frames(conv1_frames: Tensor) -> Tensor:
        return (conv1_frames - 7) // 3 + 1


class MoonshineStreamingFamily(Family):
    """`moonshine_streaming` (tiny, small, medium): 5 ms frames, causal convolutions, sliding windows.

    A waveform is cut to whole frames: at most 79 samples (5 ms) at its end are not heard, as in
    Transformers, whose frame mask drops a partial frame too.
    """

    name = "moonshine_streaming"
    min_samples = 80
    final_norm = "final_norm"

    def num_frames(self, num_samples: Tensor) -> Tensor:
        return self._halve(self._halve(num_samples // self.min_samples))

    def max_frames(self, core: Any) -> int | None:
        # The decoder looks up a learned position for every encoder frame.
        frames: int = core.model.decoder.pos_emb.num_embeddings
        return frames

    def _embed(self, encoder: Any, audio: Tensor, num_samples: Tensor) -> EncoderStates:
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
        return EncoderStates(hidden, _frame_mask(self._halve(frames), hidden.shape[1]))

    def _run_layers(self, encoder: Any, encoded: EncoderStates, chosen: slice) -> Tensor:
        hidden = encoded.states
        windows = [tuple(window) for window in encoder.config.sliding_windows[chosen]]
        masks = {window: window_mask(encoded.mask, window) for window in dict.fromkeys(windows)}
        for layer, window in zip(encoder.layers[chosen], windows, strict=True):
            hidden = layer(hidden, attention_mask=masks[window])
        return hidden

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
