"""Encoder states computed once, for runs whose adapter leaves the lowest encoder layers alone (decision D7).

The states of an utterance are those at the cut (`lora.model.families`) below the lowest adapted layer: what the decoder
reads, or what goes into the encoder's layers above. They are named by content, so every run on the same weights below
the cut, audio and format shares them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from lora.config import PreprocessConfig, StateFormat
from lora.errors import SetupError
from lora.files import to_json, write_json
from lora.model.families import EncoderStates
from lora.model.feature_store import FeatureStore
from lora.model.load import Bundle, weights_sha256
from lora.units import JsonObject, Wave

FEATURE_VERSION = 1
READINGS = 3
DTYPES: dict[StateFormat, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EncoderCache:
    """Gives a batch's encoder states, each utterance's at its own length, from disk where they are known.

    What was just computed is read back as well, so a first run trains on the same numbers as a second.

    Args:
        encode: (waves, cut) -> states of one batch, as `Recognizer.encode`.
        cut: the number of encoder layers below the lowest one that is trained.
        root: holds one folder for each kind of states; shared between runs.
        limit_bytes: see `FeatureStore`.
    """

    def __init__(
        self,
        bundle: Bundle,
        encode: Callable[[Sequence[Wave], int], EncoderStates],
        root: Path,
        *,
        cut: int,
        preprocess: PreprocessConfig,
        state_format: StateFormat,
        limit_bytes: int,
    ) -> None:
        self.cut = cut
        self._encode = encode
        self._dtype = DTYPES[state_format]
        self._device_type = bundle.device.type
        self._width: int = bundle.core.model.encoder.config.hidden_size
        kind = _describe_kind(bundle, cut, preprocess, state_format)
        folder = root / hashlib.sha256(to_json(kind, indent=None).encode()).hexdigest()[:24]
        self.store = FeatureStore(folder, limit_bytes=limit_bytes)
        if not (folder / "kind.json").exists():
            write_json(folder / "kind.json", kind)

    @property
    def frame_bytes(self) -> int:
        """Size of one stored frame."""
        return self._width * self._dtype.itemsize

    def has(self, wave_hash: str) -> bool:
        """Tell whether the states of the wave with this `wave_sha256` are stored."""
        return self.store.size_of(bytes.fromhex(wave_hash)) is not None

    def close(self) -> None:
        """Let the stored states go, so that other runs may evict them."""
        self.store.close()

    def encode(self, hashes: Sequence[str], load: Callable[[int], Wave]) -> EncoderStates:
        """Return a batch's states on the CPU in the format of storage, computing only those that are not stored.

        They are computed in fp32 whatever the precision of training: once, and used in every epoch.

        Args:
            hashes: `wave_sha256` of each row.
            load: row -> its wave; called for missing rows alone.
        """
        for _ in range(READINGS):
            self._complete(hashes, load)
            states = self._read([bytes.fromhex(wave_hash) for wave_hash in hashes])
            if states is not None:
                return states
        raise SetupError(
            f"{self.store.folder}: what is read there is not what was just written. Check the disk, or set "
            "--feature-cache-gib to 0."
        )

    def _complete(self, hashes: Sequence[str], load: Callable[[int], Wave]) -> None:
        """Compute and store the states that are missing."""
        if not all(map(self.has, hashes)):
            self.store.refresh()
        missing = {wave_hash: row for row, wave_hash in enumerate(hashes) if not self.has(wave_hash)}
        if missing:
            with torch.autocast(self._device_type, enabled=False):
                encoded = self._encode([load(row) for row in missing.values()], self.cut)
            rows = zip(encoded.states, encoded.mask, strict=True)
            kept = [states[mask].to("cpu", self._dtype).contiguous() for states, mask in rows]
            self.store.add(
                [(bytes.fromhex(name), _bytes_of(states)) for name, states in zip(missing, kept, strict=True)]
            )

    def _read(self, keys: Sequence[bytes]) -> EncoderStates | None:
        """Return stored states; `None` where one of them was damaged, which the store then has no more."""
        frames = [(self.store.size_of(key) or 0) // self.frame_bytes for key in keys]
        states = torch.zeros(len(keys), max(frames), self._width, dtype=self._dtype)
        # All are read, so that all that is damaged is computed again at once.
        sound = [self.store.read_into(key, _bytes_of(states[row, : frames[row]])) for row, key in enumerate(keys)]
        if not all(sound):
            return None
        return EncoderStates(states, torch.arange(max(frames)).unsqueeze(0) < torch.tensor(frames).unsqueeze(1))


def _describe_kind(bundle: Bundle, cut: int, preprocess: PreprocessConfig, state_format: StateFormat) -> JsonObject:
    """Return all that states depend on beside the audio: what is below the cut, and what computed them."""
    encoder, norm = bundle.core.model.encoder, bundle.family.final_norm
    layers_above = range(cut, len(encoder.layers))
    # Of the whole encoder nothing is above, and its description says nothing of a cut.
    above = (f"{norm}.", *(f"layers.{number}." for number in layers_above)) if layers_above else ()
    below = {name: weight for name, weight in encoder.state_dict().items() if not name.startswith(above)}
    return {
        "version": FEATURE_VERSION,
        "family": bundle.family.name,
        "encoder_sha256": weights_sha256(below),
        "encoder_config": _plain(encoder.config.to_dict()),
        **({"layers": cut} if above else {}),
        "preprocess": asdict(preprocess),
        "format": state_format,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": bundle.device.type,
    }


def _plain(config: dict[str, Any]) -> JsonObject:
    """Drop what says where a configuration was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _bytes_of(states: Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor."""
    values: Any = states.view(torch.uint8).numpy()
    return memoryview(values).cast("B")
