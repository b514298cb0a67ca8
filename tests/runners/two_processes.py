"""What each process does in `test_several_processes.py`, which launches this file with torchrun.

Usage: two_processes.py FOLDER. FOLDER/job.json has the command lines; each process writes FOLDER/process-N.json.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from lora import processes
from lora.config import DecodeSettings, PreprocessConfig
from lora.decoding import Recognizer
from lora.errors import LoraError, ManifestError
from lora.model.adapters import AdapterConfig
from lora.model.families import EncoderStates
from lora.model.load import load_bundle
from lora.model.methods import start_adaptation
from lora.model.text import TokenBatch, encode_text
from lora.runners.experiment import run_experiment
from lora.scripts import experiment, run_stt
from lora.scripts.cli import parse_options
from lora.training.examples import Example
from lora.training.loop import Trainer, TrainingConfig
from lora.training.objective import aligned_objective
from lora.training.teacher import teach
from lora.units import Wave

ADAPTER = AdapterConfig("lora", 4, 8.0, 0.0, "all-linear")


def step_of(words: list[str], num_clips: int, *, short_of_memory: bool) -> dict[str, Any]:
    """Take one step on `num_clips` clips; return its history row and the gradients it ended with.

    Args:
        short_of_memory: on the second process no two clips fit into memory.
    """

    def objective(core: Any, family: Any, encoded: EncoderStates, targets: TokenBatch) -> Tensor:
        if short_of_memory and not processes.is_main() and len(targets.labels) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return aligned_objective(core, family, encoded, targets)

    options = parse_options(experiment.COMMAND, words)
    config = TrainingConfig(**{name: getattr(options, name) for name in TrainingConfig.__dataclass_fields__})
    bundle = load_bundle(options.model_id, torch.device("cpu"))
    adaptation = start_adaptation(bundle, ADAPTER, seed=1)
    trainer = Trainer(adaptation, objective, replace(config, flat_sigma=0.0), Accelerator(cpu=True), None)
    kept: dict[str, list[float]] = {}

    def keep() -> None:
        for name, weight in trainer.model.named_parameters():
            if weight.grad is not None:
                kept[name] = weight.grad.flatten().tolist()

    trainer.optimizer.step = keep
    rng = np.random.default_rng(3)
    examples = []
    for number in range(num_clips):
        wave = (0.075 * rng.standard_normal(6000 + 900 * number)).astype(np.float32)
        ids = tuple(encode_text(bundle, "one two three"[: 3 + 5 * (number % 3)].strip(), place="clip"))
        examples.append(Example(f"clip-{number}", wave, ids, "", None))
    return {"row": trainer.step(1, examples, []), "gradients": kept}


def taught_by(words: list[str], num_clips: int) -> dict[str, Any]:
    """Have the base model teach `num_clips` clips its own texts; return what came of it, and what was done here."""
    bundle = load_bundle(parse_options(experiment.COMMAND, words).model_id, torch.device("cpu"))
    recognizer = Recognizer(bundle, PreprocessConfig(), DecodeSettings(), batch_size=2)
    encode = recognizer.encode
    encoded: list[int] = []
    advanced: list[int] = []

    def counted(waves: Sequence[Wave]) -> EncoderStates:
        encoded.append(len(waves))
        return encode(waves)

    recognizer.encode = counted  # type: ignore[method-assign]
    rng = np.random.default_rng(5)
    examples = []
    for number in range(num_clips):
        wave = (0.075 * rng.standard_normal(16_000 - 700 * (3 * number % 5))).astype(np.float32)
        examples.append(Example(f"clip-{number}", wave, (5,), "given", number))
    taught, outputs = teach(recognizer, examples, own_texts=True, advance=advanced.append)
    return {
        "encoded": sum(encoded),
        "advanced": sum(advanced),
        "examples": [[row.id, list(row.token_ids), row.text, row.speaker_id, row.num_samples] for row in taught],
        "own_audio": all(row.audio is example.audio for row, example in zip(taught, examples, strict=True)),
        "tokens": [outputs[row.id].token_ids.tolist() for row in taught],
        "log_probs": [outputs[row.id].log_probs.flatten().tolist() for row in taught],
        "stored": [
            tensor.untyped_storage().nbytes() - tensor.nbytes
            for output in outputs.values()
            for tensor in (output.token_ids, output.log_probs)
        ],
    }


def outcome_of(work: Callable[[], object]) -> list[Any]:
    """Return the error that `work` ends with on this process: its type, text and exit code."""
    told: list[Any] = ["none", "", 0]
    try:
        with processes.one_fate("cpu"):
            work()
    except LoraError as error:
        told = [type(error).__name__, str(error), error.exit_code]
    except ZeroDivisionError as error:
        told = [type(error).__name__, str(error), 1]
    processes._group.failed = False
    return told


def fail_alone() -> None:
    """The second process meets an error while the first waits for its value."""
    if not processes.is_main():
        raise ManifestError("row 7 is empty")
    processes.gather(1)


def fail_writing() -> None:
    """The main process meets an error in what it does alone."""

    def write() -> None:
        raise ManifestError("cannot be written")

    processes.from_main(write)


def fail_last() -> None:
    """The main process meets an error when the other has nothing left to do."""
    if processes.is_main():
        raise ManifestError("too late")


def have_a_defect() -> None:
    if not processes.is_main():
        _ = 1 / 0
    processes.gather(1)


def differ() -> None:
    processes.require_equal("the shares", processes.share_of([10, 11, 12, 13, 14]))


def main(folder: Path) -> int:
    """Run every job and scenario; the last one ends the process with the exit code of a refused output folder."""
    job = json.loads((folder / "job.json").read_text())
    processes.join("cpu")
    metrics = run_experiment(parse_options(experiment.COMMAND, job["experiment"]))
    run_stt.run(parse_options(run_stt.COMMAND, job["run_stt"]))
    run_stt.run(parse_options(run_stt.COMMAND, job["run_stt_files"]))
    scenarios = (fail_alone, fail_writing, fail_last, have_a_defect, differ)
    results = {
        "tuned_wer": metrics["tuned_wer"],
        "errors": {work.__name__: outcome_of(work) for work in scenarios},
        "alone": step_of(job["experiment"], 1, short_of_memory=False),
        "short": step_of(job["experiment"], 8, short_of_memory=True),
        "taught": {num_clips: taught_by(job["experiment"], num_clips) for num_clips in (1, 5)},
    }
    (folder / f"process-{0 if processes.is_main() else 1}.json").write_text(json.dumps(results))
    return experiment.main(job["refused"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
