#!/usr/bin/env python3
"""Train with Transformers' Seq2SeqTrainer and PEFT, and write what it did as JSON.

Started by `seq2seq_trainer.py` with the peers' own Python. The trainer is used as its documentation shows: a collator
pads audio and labels, the model's own `labels=` makes the loss. Batches are rows of similar length, in a fixed order.
"""

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

BATCH_SIZE, PAD_TO_SAMPLES, IGNORED = 8, 80, -100


class Clock(TrainerCallback):
    """Notes each step's time, loss and memory."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self.losses: list[float] = []
        self.peak_mb = 0.0
        self.started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.step_seconds.append(now - self.started)
        self.started = now
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        if torch.cuda.is_available():
            self.peak_mb = torch.cuda.max_memory_allocated() / 1e6

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad a batch's audio with zeros and its labels with what the loss ignores."""
    longest = max(len(row["wave"]) for row in rows)
    width = -(-longest // PAD_TO_SAMPLES) * PAD_TO_SAMPLES
    tokens = max(len(row["labels"]) for row in rows)
    audio, mask = torch.zeros(len(rows), width), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), tokens), IGNORED)
    for number, row in enumerate(rows):
        audio[number, : len(row["wave"])] = torch.from_numpy(row["wave"])
        mask[number, : len(row["wave"])] = 1
        labels[number, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_values": audio, "attention_mask": mask, "labels": labels}


def main() -> int:
    """Train and write `result.json` and `adapter.safetensors` into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pattern", required=True, help="of the layers with an adapter")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(options.model, trust_remote_code=False)
    model = get_peft_model(
        AutoModelForSpeechSeq2Seq.from_pretrained(options.model, trust_remote_code=False),
        LoraConfig(r=8, lora_alpha=8, lora_dropout=0.0, target_modules=options.pattern),
    )
    initial = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    save_file(initial, str(options.work / "adapter.safetensors"))
    rows = []
    for line in options.manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        wave, _ = soundfile.read(options.manifest.parent / row["audio"], dtype="float32")
        ids = processor.tokenizer(row["text"], add_special_tokens=False).input_ids
        rows.append({"wave": wave, "labels": [*ids, model.config.eos_token_id]})
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["wave"]))
    groups = [order[start : start + BATCH_SIZE] for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE)]
    shuffle = random.Random(0)
    batches: list[list[int]] = []
    while len(batches) < options.steps:
        batches += shuffle.sample(groups, len(groups))
    batches = batches[: options.steps]
    clock = Clock()
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(options.work / "output"),
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=options.steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            train_sampling_strategy="sequential",
            use_cpu=options.device == "cpu",
        ),
        data_collator=pad,
        train_dataset=[rows[index] for batch in batches for index in batch],
        callbacks=[clock],
    )
    trainer.train()
    result = {
        "batches": batches,
        "losses": clock.losses,
        "step_seconds": clock.step_seconds,
        "peak_mb": clock.peak_mb,
    }
    (options.work / "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
