"""`--dry-run`: everything that a run reads and checks, a few steps and one evaluation, and what they foretell.

Nothing is written. The model of the probe is thrown away, so its steps change no run.
"""

import dataclasses
import time
from contextlib import closing
from dataclasses import dataclass, replace

import yaml

from lora import processes
from lora.config import ExperimentConfig
from lora.files import scratch_folder
from lora.model.methods import start_adaptation
from lora.runners import inputs, output, stages
from lora.runners.features import count_views
from lora.runners.pace import PROBE_STEPS, Estimate, count_work, peak_mb, take_seconds, time_evaluation, total_seconds
from lora.runners.provenance import config_values
from lora.runners.trackers import build_accelerator
from lora.training.examples import Example
from lora.training.loop import Trainer, TrainingData
from lora.units import Seconds


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    Attributes:
        config: with every default written out.
        runs: number of seeds.
        estimate: of one run.
    """

    config: ExperimentConfig
    runs: int
    estimate: Estimate

    def text(self) -> str:
        """Return the resolved configuration as YAML, then the estimate."""
        lines = [yaml.safe_dump(config_values(self.config), sort_keys=False).rstrip(), self.estimate.text()]
        if self.runs > 1:
            lines.append(f"{self.runs} seeds: {self.runs} runs, one after another")
        return "\n".join(lines)


def estimate_experiment(config: ExperimentConfig) -> DryRun:
    """Check an experiment as `run_experiment` does before it starts, and time a probe.

    Raises:
        InputError, CheckFailed: as `run_experiment`.
    """
    config.check()
    with processes.one_fate(config.device):
        return _estimate(config)


def _estimate(config: ExperimentConfig) -> DryRun:
    if processes.is_main():
        output.check_output(config)
    # What a run learns it keeps in its cache folder; a dry run keeps nothing.
    with scratch_folder("dry-run") as folder:
        return _probe(config, replace(config, seeds=None, cache_dir=folder))


def _probe(config: ExperimentConfig, single: ExperimentConfig) -> DryRun:
    manifests = inputs.read_manifests(single)
    run = inputs.open_run(single)
    data = inputs.load_data(run, manifests)
    rate, score = time_evaluation(run, data)
    stages.check_objective(run, data, {"domain_dev": score})
    work = count_work(run, data)
    step_seconds, fill_rate = _time_steps(run, data.training)
    estimate = Estimate(
        work=work,
        step_seconds=step_seconds,
        fill_seconds=fill_rate * count_views(single).seconds(data.training),
        evaluation_seconds=rate * work.evaluated_seconds,
        peak_mb=peak_mb(run.bundle.device),
    )
    resolved = dataclasses.replace(config, dry_run=False)
    return DryRun(resolved, len(config.seeds or [config.seed]), estimate)


def _time_steps(run: inputs.Run, training: TrainingData) -> tuple[Seconds, float]:
    """Return seconds a step, and seconds that its encoder states take once for a second of audio.

    The same batches are trained on twice: the first time computes the states, where they are kept.
    """
    config = run.config
    share = PROBE_STEPS * config.batch_seconds
    few = TrainingData(
        take_seconds(training.domain, share, seed=config.seed), take_seconds(training.replay, share, seed=config.seed)
    )
    few = stages.teach_replay(run, few)
    adaptation = start_adaptation(run.bundle, stages.adapter_of(config), seed=config.seed)
    trainer = stages.build_trainer(run, build_accelerator(run), adaptation, few)
    trainer.teachers = few.teachers
    with closing(trainer.batches(few)) as batches:
        chosen = [next(batches) for _ in range(PROBE_STEPS)]
    first, again = _time_pass(trainer, chosen), _time_pass(trainer, chosen)
    if trainer.encoder_cache is None:
        return again / PROBE_STEPS, 0.0
    trainer.encoder_cache.close()
    heard = total_seconds([example for batch in chosen for part in batch for example in part])
    return again / PROBE_STEPS, max(first - again, 0.0) / heard


def _time_pass(trainer: Trainer, batches: list[tuple[list[Example], list[Example]]]) -> Seconds:
    started = time.perf_counter()
    for step, (domain, replay) in enumerate(batches, start=1):
        trainer.step(step, domain, replay)
    return time.perf_counter() - started
