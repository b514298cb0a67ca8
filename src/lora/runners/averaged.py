"""The average of finished runs' adapters, measured and judged as a run of its own; it costs no training.

Importing this module loads no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora.config import ExperimentConfig
from lora.files import read_object, write_jsonl
from lora.runners.output import RUN_MARK
from lora.units import JsonObject

if TYPE_CHECKING:
    from lora.runners.stages import Training

ADAPTER_FOLDER, ADAPTER_RECORD = "lora_adapter", "moonshine_lora.json"


def parts_of(folders: Mapping[str, Path]) -> list[JsonObject]:
    """Return what an average of these runs is made of: each run's id and its adapter's hash."""
    return [{"run": name, "adapter_sha256": _hash_of(folder)} for name, folder in folders.items()]


def _hash_of(folder: Path) -> str:
    return str(read_object(folder / ADAPTER_FOLDER / ADAPTER_RECORD, "adapter_sha256")["adapter_sha256"])


def run_average(config: ExperimentConfig, folders: Mapping[str, Path]) -> JsonObject:
    """Average the adapters of finished runs, measure the result on the reported sets, and return its metrics.

    Steps, seconds and audio of the training are those of the parts added up, losses their means.

    Args:
        config: what the parts have in common: base model and manifests.
        folders: output folder of each finished run, by its id.

    Raises:
        InputError: a manifest or adapter is wrong, or the adapters cannot be averaged.
        CheckFailed: as `run_experiment`.
    """
    from lora.export.average import average_adapters
    from lora.model.saving import save_pretrained
    from lora.outputs import output_folder
    from lora.runners import outcome, output, stages

    config.check()
    output.check_output(config)
    start = stages.start(output.plain(config))
    run, data, baseline = start.run, start.data, start.baseline
    records = [read_object(folder / RUN_MARK, "train") for folder in folders.values()]
    results = config.output_dir
    with output_folder(results, kind=output.RUN_KIND, overwrite=config.overwrite) as folder:
        (folder / ADAPTER_FOLDER).mkdir()
        average_adapters([part / ADAPTER_FOLDER for part in folders.values()], folder / ADAPTER_FOLDER)
        save_pretrained(run.bundle.processor, folder / "processor")
        write_jsonl(folder / "history.jsonl", [{"step": 0, "average_of": list(folders)}])
    tuned = stages.score_tuned(run, data, baseline, results)
    training = _add_up(records, parts_of(folders), float(tuned.efficacy["delta_norm"]))
    metrics = outcome.conclude(run, data, baseline, start.alignment, training, tuned, results)
    outcome.announce(results, metrics)
    outcome.require_passed(metrics)
    return metrics


def _add_up(records: Sequence[JsonObject], parts: list[JsonObject], norm: float) -> "Training":
    from lora.runners.stages import Training
    from lora.training.loop import TrainingResult

    def total(name: str) -> float:
        return sum(record["train"][name] for record in records)

    result = TrainingResult(
        steps=int(total("steps")),
        audio_seconds=total("audio_seconds"),
        first_loss=total("first_loss") / len(records),
        final_loss=total("final_loss") / len(records),
        best_step=int(total("best_step")),
        stopped_by="average",
        seconds=total("seconds"),
        cpu_seconds=total("cpu_seconds"),
    )
    rank = sum(record["adapter"]["rank"] for record in records)
    # The parts' strengths are in their weights; the average is used as it is.
    changed = {"rank": rank, "alpha": float(rank), "delta_norm": norm, "strength": 1.0, "average_of": parts}
    return Training(result, records[0]["adapter"] | changed, [])
