"""One experiment, end to end: baseline, training, tuned, verdict.

Importing this module loads no torch, so that `python -m lora.runners.experiment --help` is quick.
"""

import sys
from collections.abc import Callable

from lora import processes
from lora.config import ExperimentConfig
from lora.errors import ConfigError
from lora.units import JsonObject


def run_experiment(config: ExperimentConfig, on_evaluation: Callable[[int, float], None] | None = None) -> JsonObject:
    """Run one experiment and return its metrics; several processes run it together (`lora.processes`).

    Everything is read and checked before `config.output_dir` is touched; the folder appears, or is
    replaced, as a whole when the run has succeeded.

    Args:
        on_evaluation: told each step's selection score on the development sets (lower is better); what it
            raises ends the run, which then leaves nothing behind.

    Raises:
        InputError: a manifest, an option, the model or the device is wrong; all faults of a kind at once.
        SetupError: the package of a tracker is missing.
        CheckFailed: the alignment check did not pass, or a loss was not finite.
    """
    if config.seeds is not None:
        raise ConfigError("run_experiment: got several seeds, expected one. Use lora.runners.seeds.run_seeds.")
    if config.dry_run:
        raise ConfigError("run_experiment: got dry_run. Use lora.runners.dry_run.estimate_experiment, or --no-dry-run.")
    config.check()
    with processes.one_fate(config.device):
        return _run(config, on_evaluation)


def _run(config: ExperimentConfig, on_evaluation: Callable[[int, float], None] | None) -> JsonObject:
    from lora.runners import outcome, output, stages, trackers

    trackers.check_trackers(config)
    if processes.is_main():
        output.check_output(config)
    start = stages.start(config)
    run, data, baseline = start.run, start.data, start.baseline
    with output.staged_output(config) as folder, trackers.track(run, folder) as tracking:
        training = stages.train(run, data, baseline, folder, tracking, on_evaluation)
        tuned = stages.score_tuned(run, data, baseline, folder)
        metrics = processes.from_main(
            lambda: outcome.conclude(run, data, baseline, start.alignment, training, tuned, folder)
        )
        tracking.log_result(metrics)
    if processes.is_main():
        outcome.announce(run, metrics)
    return metrics


if __name__ == "__main__":
    from lora.scripts.experiment import main

    sys.exit(main())
