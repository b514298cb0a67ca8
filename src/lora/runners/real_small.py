"""The small real run: real human speech in about a minute, as a check of a machine and an installation."""

import sys
from dataclasses import dataclass
from pathlib import Path

from lora.config import DeviceName, ExperimentConfig, option
from lora.data.sources.base import write_clips
from lora.data.sources.fsdd import read_fsdd
from lora.units import JsonObject

US_SPEAKERS, ACCENTS = ("jackson", "theo"), ("nicolas", "yweweler")


@dataclass(frozen=True)
class RealSmallOptions:
    """Options of `real-small`."""

    output_dir: Path = option(Path("outputs/real_small"), help="where the results go")
    fsdd: Path = option(Path("../shared/fsdd"), help="folder of the Free Spoken Digit Dataset")
    model_id: str = option("builtin:digits", help="hub id, local folder or builtin:digits")
    max_steps: int = option(60, help="optimizer steps")
    seed: int = option(42, help="seed of data and training")
    device: DeviceName = option("auto", help="auto takes CUDA, then MPS, then the CPU")
    resume: bool = option(False, help="go on where the same command was stopped")
    restart: bool = option(False, help="discard the unfinished training and train anew")


def _plan(options: RealSmallOptions, data: Path) -> ExperimentConfig:
    return ExperimentConfig(
        output_dir=options.output_dir,
        dataset_path=data / "train.jsonl",
        manifest_path=data / "domain.jsonl",
        guardrail_manifest=[data / "guardrail.jsonl"],
        replay_manifest=data / "replay.jsonl",
        validation_manifest=data / "validation.jsonl",
        guardrail_validation_manifest=data / "guardrail_validation.jsonl",
        model_id=options.model_id,
        max_steps=options.max_steps,
        eval_interval=max(options.max_steps // 2, 1),
        seed=options.seed,
        device=options.device,
        resume=options.resume,
        restart=options.restart,
    )


def run_real_small(options: RealSmallOptions) -> JsonObject:
    """Build small manifests of real speech and run one experiment on them.

    Writes `real_metrics.json`, `lora_adapter/` and `processor/` to the output folder, and everything
    else that an experiment writes.
    """
    from lora.outputs import write_output_json
    from lora.runners.experiment import run_experiment
    from lora.runners.output import check_output

    data = options.output_dir.with_name(options.output_dir.name + "-data")
    config = _plan(options, data)
    check_output(config)
    plans = {
        "train": ("train", ACCENTS, 160, range(10, 50)),
        "replay": ("train", US_SPEAKERS, 160, range(10, 50)),
        "validation": ("train", ACCENTS, 24, range(5, 10)),
        "guardrail_validation": ("train", US_SPEAKERS, 24, range(5, 10)),
        "domain": ("test", ACCENTS, 40, None),
        "guardrail": ("test", US_SPEAKERS, 40, None),
    }
    for name, (split, speakers, samples, indices) in plans.items():
        clips = read_fsdd(
            options.fsdd,
            split=split,  # type: ignore[arg-type]
            speakers=speakers,
            samples=samples,
            seed=options.seed,
            indices=indices,
        )
        write_clips(clips, data / f"{name}.jsonl", total=samples)
    metrics = run_experiment(config)
    write_output_json(options.output_dir / "real_metrics.json", metrics, root=options.output_dir)
    print(options.output_dir / "real_metrics.json")
    return metrics


if __name__ == "__main__":
    from lora.scripts.real_small import main

    sys.exit(main())
