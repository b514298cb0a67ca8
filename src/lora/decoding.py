"""Decoding: the only place where the project turns audio into text.

Greedy, batched, adapter-aware: whatever adapter is injected in the model and switched on is heard. An
utterance's text does not depend on its neighbours: encoding is exact under padding and the token limit
of each utterance comes from its own duration.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.batches import length_batches, pad_waves
from lora.data.waves import Audio, WavesAhead, num_samples_of
from lora.errors import AudioError, SetupError
from lora.memory import REMEDIES, attempt
from lora.model.families import EncoderStates, join_states
from lora.model.load import Bundle
from lora.units import Seconds, Wave, seconds_of

Result = TypeVar("Result")

CPU_ENCODER_SECONDS: Seconds = 25.0
"""Audio that a CPU encodes at once. Its frames fill the matrix products already, and what lies between the layers of
more leaves the processor's caches and stays with the process."""


@dataclass(frozen=True)
class Transcript:
    """The text of one utterance.

    Attributes:
        token_ids: without start and end tokens.
        ended: False where the token limit cut the text off.
        mean_log_prob: mean log probability of the emitted tokens, end token included.
    """

    text: str
    token_ids: tuple[int, ...]
    ended: bool
    mean_log_prob: float


class Recognizer:
    """Transcribes prepared waveforms with a bundle's model as it is now.

    Args:
        preprocess: the settings with which the waves were prepared; kept with the results.
        batch_seconds: most audio in one batch, padding included; lowered where memory runs out.
        batch_size: most utterances in one batch.
    """

    def __init__(
        self,
        bundle: Bundle,
        preprocess: PreprocessConfig,
        decode: DecodeSettings,
        *,
        batch_seconds: Seconds = 160.0,
        batch_size: int = 64,
    ) -> None:
        self.bundle = bundle
        self.preprocess = preprocess
        self.decode = decode
        self.batch_seconds = batch_seconds
        self.batch_size = batch_size

    def transcribe(self, waves: Sequence[Audio]) -> list[Transcript]:
        """Return one transcript a wave, in the order of `waves`."""
        results: dict[int, Transcript] = {}
        for indices, transcripts in self.stream(waves):
            results.update(zip(indices, transcripts, strict=True))
        return [results[index] for index in range(len(waves))]

    def stream(self, waves: Sequence[Audio]) -> Iterator[tuple[list[int], list[Transcript]]]:
        """Yield indices into `waves` with their transcripts, batch by batch, longest first.

        Waves that are not in memory are read by threads ahead of the model.
        """
        with WavesAhead(waves) as ahead:

            def transcribe(indices: list[int]) -> list[Transcript]:
                batch = [ahead[index] for index in indices]
                return self.generate(self.encode(batch), [seconds_of(len(wave)) for wave in batch])

            yield from self.map_batches([num_samples_of(wave) for wave in waves], transcribe)

    def map_batches(
        self, lengths: Sequence[int], work: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Yield batches of indices into `lengths`, longest first, with what `work` returns for each.

        Where memory runs out, `batch_seconds` becomes half of the batch's audio, and what is left is batched anew.

        Args:
            lengths: number of samples of each utterance at 16 kHz.

        Raises:
            SetupError: one utterance alone does not fit.
        """
        left = list(range(len(lengths)))
        while left:
            done: set[int] = set()
            sizes = [lengths[index] for index in left]
            for places in length_batches(sizes, batch_seconds=self.batch_seconds, batch_size=self.batch_size):
                indices = [left[place] for place in places]
                result = attempt(partial(work, indices), self.bundle.device)
                if result is None:
                    self._halve_batches(len(indices), seconds_of(lengths[indices[0]]))
                    break
                done.update(indices)
                yield indices, result
            left = [index for index in left if index not in done]

    def _halve_batches(self, size: int, longest: Seconds) -> None:
        if size == 1:
            raise SetupError(
                f"an utterance of {longest:.1f} s alone does not fit into the memory of {self.bundle.device}. "
                f"Cut it, or {REMEDIES}."
            )
        self.batch_seconds = size * longest / 2

    @torch.inference_mode()
    def encode(self, waves: Sequence[Wave], cut: int | None = None) -> EncoderStates:
        """Return the states of waves as one padded batch on the model's device; a CPU computes them in pieces.

        Args:
            cut: compute what is below this cut of the encoder alone, as `Family.encode` does; `None` is all of it.
        """
        family, device = self.bundle.family, self.bundle.device
        for wave in waves:
            if len(wave) < family.min_samples:
                raise AudioError(f"{len(wave)} samples of audio; {family.name} needs at least {family.min_samples}.")
        lengths = [len(wave) for wave in waves]
        longest, limit = int(family.num_frames(torch.tensor(lengths)).max()), family.max_frames(self.bundle.core)
        if limit is not None and longest > limit:
            raise AudioError(
                f"{seconds_of(max(lengths)):.1f} s of audio are {longest} frames; the model has positions "
                f"for {limit}. Cut it into utterances."
            )
        at_once = CPU_ENCODER_SECONDS if device.type == "cpu" else math.inf
        pieces = []
        for rows in length_batches(lengths, batch_seconds=at_once):
            audio, num_samples = pad_waves([waves[row] for row in rows])
            pieces.append((rows, family.encode(self.bundle.core, audio.to(device), num_samples.to(device), cut=cut)))
        return join_states(pieces)

    @torch.inference_mode()
    def generate(self, encoded: EncoderStates, seconds: Sequence[Seconds]) -> list[Transcript]:
        """Decode greedily.

        Args:
            encoded: states of a batch.
            seconds: each row's own duration, which sets its token limit.
        """
        limits = [self.decode.token_limit(value, self.bundle.max_tokens) for value in seconds]
        rows = _greedy_search(self.bundle, encoded, limits)
        texts = self.bundle.tokenizer.batch_decode([row.token_ids for row in rows], skip_special_tokens=True)
        return [
            Transcript(text.strip(), tuple(row.token_ids), row.ended, row.log_prob / max(row.num_scored, 1))
            for text, row in zip(texts, rows, strict=True)
        ]


class _Row:
    """The growing text of one utterance."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.token_ids: list[int] = []
        self.ended = False
        self.log_prob = 0.0
        self.num_scored = 0

    @property
    def done(self) -> bool:
        return self.ended or len(self.token_ids) >= self.limit + 1

    def push(self, token: int, log_prob: float, end_id: int) -> None:
        if self.done:
            return
        self.log_prob += log_prob
        self.num_scored += 1
        if token == end_id:
            self.ended = True
        else:
            self.token_ids.append(token)


def _greedy_search(bundle: Bundle, encoded: EncoderStates, limits: Sequence[int]) -> list[_Row]:
    """Return one finished row an utterance.

    A row may take `limit` tokens and one more step for its end token; what does not end there is cut
    to `limit`. Finished rows leave the batch once they are half of it, so that long texts do not pay for
    short ones.
    """
    core, device = bundle.core, encoded.states.device
    rows = [_Row(limit) for limit in limits]
    active = list(rows)
    memory, mask = bundle.family.decoder_memory(encoded), encoded.mask
    cache: Any = None
    tokens = torch.full((len(rows), 1), bundle.start_id, device=device)
    while True:
        output = core.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        scores = torch.log_softmax(core.proj_out(output.last_hidden_state[:, -1]).float(), dim=-1)
        best = scores.max(dim=-1)
        for row, token, log_prob in zip(active, best.indices.tolist(), best.values.tolist(), strict=True):
            row.push(token, log_prob, bundle.end_id)
        open_rows = [index for index, row in enumerate(active) if not row.done]
        if not open_rows:
            break
        tokens = best.indices.unsqueeze(1)
        if len(open_rows) <= len(active) // 2:
            keep: Tensor = torch.tensor(open_rows, device=device)
            active = [active[index] for index in open_rows]
            tokens, memory, mask = tokens[keep], memory[keep], mask[keep]
            cache.batch_select_indices(keep)
    for row in rows:
        del row.token_ids[row.limit :]
    return rows
