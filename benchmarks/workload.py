"""What the benchmarks share: a checkpoint of the real size, real speech, peak memory, numbers with their spread.

No hub is needed: the checkpoint has the shape of `moonshine-streaming-tiny` and random weights (seed fixed), which
costs the same time and memory as the real one. The speech is real: connected digits of the Free Spoken Digit Dataset,
and sentences of a LibriVox reading where that folder is given.
"""

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    MoonshineStreamingProcessor,
)
from transformers.models.moonshine_streaming.configuration_moonshine_streaming import MoonshineStreamingEncoderConfig

from lora.data.audio import decode_audio
from lora.data.sources.base import Clip, write_clips
from lora.data.sources.fsdd import DIGIT_WORDS, read_fsdd
from lora.errors import LoraError, SetupError
from lora.files import staged_directory
from lora.model.scratch import build_processor, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FSDD = ROOT / "../shared/fsdd"
LIBRIVOX = ROOT / "../shared/librivox"

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 320, 6, 8, 32_768, 4096
BATCH_SIZE = 8
FRAME_SECONDS = 0.005
QUIET = 1e-4
MIN_DIGITS, MAX_DIGITS = 6, 18
"""Digits in an utterance: 3 to 13 s of audio, as in read-speech corpora; the builtin data has 3 to 7."""


def make_checkpoint(folder: Path, *, librivox: Path | None, seed: int = 0) -> Path:
    """Write a random checkpoint of streaming-tiny size (44 million parameters) unless `folder` has one.

    A digit's word is one to three tokens and a LibriVox word is one, so that all speech has about 3 tokens a second,
    which is what English at 150 words a minute and 1.3 tokens a word has.
    """
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(seed)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
    model = MoonshineStreamingForConditionalGeneration(
        MoonshineStreamingConfig(
            encoder_config=MoonshineStreamingEncoderConfig(
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
            ),
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=POSITIONS,
            **tokens,
        )
    )
    model.generation_config = GenerationConfig(**tokens)
    with staged_directory(folder) as stage:
        sentences = [] if librivox is None else [row["text"] for row in _librivox_rows(librivox)]
        words = sorted({word for text in sentences for word in text.split()} - set(DIGIT_WORDS))
        parts = build_processor([*(word[:3] for word in DIGIT_WORDS), *words])
        processor = MoonshineStreamingProcessor(parts.feature_extractor, parts.tokenizer)
        save_checkpoint(model.eval(), processor, stage)
    return folder


def make_speech(manifest: Path, *, fsdd: Path, librivox: Path | None, clips: int, seed: int = 0) -> Path:
    """Write `clips` clips of real speech as 16 kHz files with their manifest, unless it is there already.

    Eight clips of similar length get quiet at their end until they are equally long, to a whole encoder frame: peers'
    encoders are not exact under padding, and a comparison of losses must not show that.

    Raises:
        LoraError: the folder of the corpus is missing or not laid out as the corpus is.
    """
    if manifest.is_file():
        return manifest
    sentences = [] if librivox is None else list(_librivox_clips(librivox))[:clips]
    digits = read_fsdd(
        fsdd,
        split="train",
        samples=max(clips - len(sentences), 1),
        seed=seed,
        min_digits=MIN_DIGITS,
        max_digits=MAX_DIGITS,
    )
    made = sorted(chain(sentences, digits), key=lambda clip: len(clip.wave) / clip.sampling_rate)[:clips]
    groups = (made[start : start + BATCH_SIZE] for start in range(0, len(made), BATCH_SIZE))
    return write_clips((clip for group in groups for clip in _equally_long(group)), manifest, total=clips)


def _equally_long(clips: Sequence[Clip]) -> Iterator[Clip]:
    frames = max(math.ceil(len(clip.wave) / clip.sampling_rate / FRAME_SECONDS) for clip in clips)
    for clip in clips:
        missing = round(frames * FRAME_SECONDS * clip.sampling_rate) - len(clip.wave)
        quiet = QUIET * np.random.default_rng(0).standard_normal(missing)
        yield replace(clip, wave=np.concatenate([clip.wave, quiet.astype(np.float32)]))


def _librivox_rows(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()]


def _librivox_clips(folder: Path) -> Iterator[Clip]:
    for row in _librivox_rows(folder):
        wave, rate = decode_audio(folder / row["audio"], name=row["audio"])
        yield Clip(Path(row["audio"]).stem, wave, rate, row["text"], "librivox")


@dataclass(frozen=True)
class Spread:
    """A number measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def text(self, digits: int = 2) -> str:
        """Return `median (lowest to highest)`."""
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


def machine() -> str:
    """Name the processor, the number of usable cores and PyTorch's version."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} core(s)"
    return f"{name}, {device}, PyTorch {torch.__version__}"


def fail(error: LoraError) -> int:
    """Print an error as the commands do and return its exit code."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def require_folder(path: Path, option: str) -> None:
    """Raise where a folder that the benchmark needs is missing.

    Raises:
        SetupError: it is not there.
    """
    if not path.is_dir():
        raise SetupError(f"{path}: no such folder. Give it with {option}.")


def read_json(path: Path) -> Any:
    """Read a worker's result."""
    return json.loads(path.read_text(encoding="utf-8"))
