#!/usr/bin/env python3
"""Compare evaluation with Transformers' `generate`, one utterance at a time: speed, and the text of every utterance.

Both sides get the same prepared waves and the same token limits, in one process and in turn, several times. The real
comparison is `builtin:digits` on connected digits of the Free Spoken Digit Dataset. A random model of streaming-tiny
size shows the speed at that size; its texts are noise, so they are counted and not required to agree. Exit code 3
when a text differs or the ratio on real speech is below 10.

    python benchmarks/evaluation.py --fsdd ../shared/fsdd
    python benchmarks/evaluation.py --utterances 64 --random-utterances 0 --rounds 1
    python benchmarks/evaluation.py --device cuda
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from workload import FSDD, ROOT, Spread, fail, machine, make_checkpoint, require_folder

from lora.config import DecodeSettings, PreprocessConfig
from lora.data.audio import prepare_wave
from lora.data.sources.fsdd import read_fsdd
from lora.decoding import Recognizer
from lora.errors import LoraError
from lora.model.device import resolve_device
from lora.model.load import load_bundle
from lora.runners.progress import progress_bar
from lora.units import SAMPLE_RATE_HZ, Wave, seconds_of

MIN_RATIO = 10.0
COLUMNS = (
    "model",
    "utterances",
    "minutes",
    "`generate` singly, audio s/s",
    "ours, audio s/s",
    "ratio",
    "texts that differ",
)


def real_waves(fsdd: Path, count: int) -> list[Wave]:
    """Return prepared connected digits of the corpus's test recordings."""
    clips = read_fsdd(fsdd, split="test", samples=count, seed=0)
    return [prepare_wave(clip.wave, clip.sampling_rate, PreprocessConfig(), name=clip.id) for clip in clips]


@torch.inference_mode()
def transcribe_singly(recognizer: Recognizer, waves: Sequence[Wave], advance: Callable[[int], None]) -> list[str]:
    """Transcribe by Transformers alone: its processor, its `generate`, one utterance a call."""
    bundle, texts = recognizer.bundle, []
    for wave in waves:
        limit = recognizer.decode.token_limit(seconds_of(len(wave)), bundle.max_tokens)
        inputs = bundle.processor(wave, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").to(bundle.device)
        ids = bundle.core.generate(**inputs, max_new_tokens=limit, do_sample=False)
        texts.append(bundle.processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
        advance(1)
    return texts


def compare(name: str, recognizer: Recognizer, waves: Sequence[Wave], rounds: int) -> tuple[Spread, int]:
    """Run both in turn; print a table row and return the ratios and how many texts differ."""
    recognizer.transcribe(waves[:4])
    transcribe_singly(recognizer, waves[:4], lambda count: None)
    singly, batched, different = [], [], 0
    with progress_bar(name, rounds * len(waves)) as advance:
        for _ in range(rounds):
            started = time.perf_counter()
            ours = [transcript.text for transcript in recognizer.transcribe(waves)]
            batched.append(time.perf_counter() - started)
            started = time.perf_counter()
            theirs = transcribe_singly(recognizer, waves, advance)
            singly.append(time.perf_counter() - started)
            different = max(different, sum(a != b for a, b in zip(ours, theirs, strict=True)))
    audio = sum(seconds_of(len(wave)) for wave in waves)
    ratios = Spread(tuple(one / many for one, many in zip(singly, batched, strict=True)))
    one, many = Spread(tuple(audio / spent for spent in singly)), Spread(tuple(audio / spent for spent in batched))
    cells = [name, len(waves), f"{audio / 60:.1f}", one.text(0), many.text(0), ratios.text(1), different]
    print("| " + " | ".join(map(str, cells)) + " |")
    return ratios, different


def main() -> int:
    """Print a table and a JSON line; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, default=FSDD, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--utterances", type=int, default=500, help="of real speech (default: 500)")
    parser.add_argument("--random-utterances", type=int, default=32, help="for the random model; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3, help="both in turn, this many times (default: 3)")
    parser.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench-peer", help="the random model is kept here")
    options = parser.parse_args()
    try:
        require_folder(options.fsdd, "--fsdd")
        device = resolve_device(options.device)
        waves = real_waves(options.fsdd, max(options.utterances, options.random_utterances))
        print(f"{machine()}\n\n| " + " | ".join(COLUMNS) + " |")
        print("|" + len(COLUMNS) * "---|")
        recognizer = Recognizer(load_bundle("builtin:digits", device), PreprocessConfig(), DecodeSettings())
        ratios, different = compare("builtin:digits", recognizer, waves[: options.utterances], options.rounds)
        if options.random_utterances:
            model = make_checkpoint(options.folder / "model", librivox=None)
            recognizer = Recognizer(load_bundle(str(model), device), PreprocessConfig(), DecodeSettings())
            few = waves[: options.random_utterances]
            compare("random, streaming-tiny size", recognizer, few, options.rounds)
    except LoraError as error:
        return fail(error)
    met = not different and ratios.median >= MIN_RATIO
    print("\nthe bar is met" if met else "\nthe bar is missed", flush=True)
    result = {"ratio": ratios.median, "spread": [min(ratios.values), max(ratios.values)], "different": different}
    print(json.dumps(result))
    return 0 if met else 3


if __name__ == "__main__":
    sys.exit(main())
