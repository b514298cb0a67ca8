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
        CheckFailed: the alignment check did not pass, or a loss was not finite.
    """
    if config.seeds is not None:
        raise ConfigError("run_experiment: got several seeds, expected one. Use lora.runners.seeds.run_seeds.")
    config.check()
    with processes.one_fate(config.device):
        return _run(config, on_evaluation)


def _run(config: ExperimentConfig, on_evaluation: Callable[[int, float], None] | None) -> JsonObject:
    from lora.runners import inputs, outcome, output, stages

    if processes.is_main():
        output.check_output(config)
    manifests = inputs.read_manifests(config)
    run = inputs.open_run(config)
    data = inputs.load_data(run, manifests)
    baseline = stages.score_baselines(run, data)
    alignment = stages.check_objective(run, data, baseline)
    with output.staged_output(config) as folder:
        training = stages.train(run, data, baseline, folder, on_evaluation)
        tuned = stages.score_tuned(run, data, baseline, folder)
        metrics = processes.from_main(lambda: outcome.conclude(run, data, baseline, alignment, training, tuned, folder))
    if processes.is_main():
        outcome.announce(run, metrics)
    return metrics


if __name__ == "__main__":
    from lora.scripts.experiment import main

    sys.exit(main())
