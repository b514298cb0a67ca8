"""One experiment, end to end: baseline, training, tuned, verdict.

Importing this module loads no torch, so that `python -m lora.runners.experiment --help` is quick.
"""

import sys

from lora import processes
from lora.config import ExperimentConfig
from lora.errors import ConfigError
from lora.units import JsonObject


def run_experiment(config: ExperimentConfig) -> JsonObject:
    """Run one experiment and return its metrics; several processes run it together (`lora.processes`).

    Everything is read and checked before anything is written. From then on the run is in `OUTPUT_DIR.partial`, and can
    go on whenever it was stopped; the output folder appears, or is replaced, when the adapter is chosen.

    Raises:
        InputError: a manifest, an option, the model or the device is wrong; all faults of a kind at once.
        SetupError: the package of a tracker is missing.
        CheckFailed: the alignment check did not pass, a loss was not finite, or the base model is not itself with the
            adapter switched off; the last is in the record, too.
    """
    if config.seeds is not None:
        raise ConfigError("run_experiment: got several seeds, expected one. Use lora.runners.seeds.run_seeds.")
    if config.dry_run:
        raise ConfigError("run_experiment: got dry_run. Use lora.runners.dry_run.estimate_experiment, or --no-dry-run.")
    config.check()
    with processes.one_fate(config.device):
        return _run(config)


def _run(config: ExperimentConfig) -> JsonObject:
    from lora.runners import outcome, output, stages, trackers

    trackers.check_trackers(config)
    metrics = processes.from_main(lambda: output.finished_metrics(config))
    if metrics is None:
        with output.open_partial(config) as partial:
            start = stages.start(partial.config)
            run, data, baseline = start.run, start.data, start.baseline
            partial.begin(stages.contents_of(run, data))
            with trackers.track(run, partial.folder) as tracking:
                training = stages.train(run, data, baseline, partial, tracking)
                tuned = stages.score_tuned(run, data, baseline, partial.results)
                metrics = processes.from_main(
                    lambda: outcome.conclude(run, data, baseline, start.alignment, training, tuned, partial.results)
                )
                tracking.log_result(metrics)
            partial.finish()
    if processes.is_main():
        outcome.announce(config.output_dir, metrics)
    outcome.require_passed(metrics)
    return metrics


if __name__ == "__main__":
    from lora.scripts.experiment import main

    sys.exit(main())
