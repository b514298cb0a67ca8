#!/usr/bin/env python3
"""Run the official trainer, `moonshine_voice.lora` of the installed package, and write what it did as JSON.

Started by `peer.py` with the peer's own Python. The trainer's command line runs as it is. Three of its functions are
observed and nothing is replaced: what they are called with and what they return is written down and passed on.

    collate              which rows make each step's batch, and when the step starts
    batch_loss           the loss of each step
    prepare_adaptation   the adapter's initial values
"""

import argparse
import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def main() -> int:
    """Train, observe, write `result.json`, `adapter.safetensors` and leave the peer's audio cache in `--work`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    import torch
    from moonshine_voice.lora import train
    from moonshine_voice.lora.__main__ import main as official_command_line
    from moonshine_voice.lora.adapter import adapter_state
    from safetensors.torch import save_file

    batches: list[list[int]] = []
    losses: list[float] = []
    started: list[float] = []
    peaks: list[float] = []
    collate, batch_loss, prepare = train.collate, train.batch_loss, train.prepare_adaptation

    def observed_collate(entries: Any, blob: Any, indices: list[int], device: str) -> Any:
        batches.append([int(index) for index in indices])
        started.append(time.perf_counter())
        return collate(entries, blob, indices, device)

    def observed_batch_loss(*arguments: Any) -> Any:
        loss = batch_loss(*arguments)
        losses.append(float(loss.detach()))
        # The peak after the step before: what is saved at the end does not count as training.
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        return loss

    def observed_prepare(model: Any, **arguments: Any) -> Any:
        sites, trainable = prepare(model, **arguments)
        save_file(adapter_state(sites), str(options.work / "adapter.safetensors"))
        return sites, trainable

    train.collate, train.batch_loss, train.prepare_adaptation = observed_collate, observed_batch_loss, observed_prepare
    options.work.mkdir(parents=True, exist_ok=True)
    steps = options.steps + 1  # the last step has no end that an observer sees
    words = ["--train-manifest", options.manifest, "--model", options.model, "--no-replay", "--dev-hours", 0]
    words += ["--max-steps", steps, "--eval-every", steps, "--device", options.device]
    words += ["--work-dir", options.work, "--output-dir", options.work / "output"]
    code = official_command_line([str(word) for word in words])
    if code:
        return code
    peak_mb = peaks[-1]
    if options.device == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 1e6
    result = {
        "batches": batches[: options.steps],
        "losses": losses[: options.steps],
        "step_seconds": [after - before for before, after in pairwise(started)],
        "peak_mb": peak_mb,
    }
    (options.work / "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
