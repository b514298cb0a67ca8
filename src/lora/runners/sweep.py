"""A search over the options of an experiment, scored on development sets, kept in one database.

Several workers may share the database. Each trial takes the lowest free *slot* of the sweep and reseeds
the sampler from it, so that with one worker an interrupted and resumed sweep draws what an uninterrupted
one would have drawn: a trial that did not finish gives its slot back.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from lora.config import ExperimentConfig
from lora.errors import CheckFailed
from lora.escape import printable_lines
from lora.files import to_json
from lora.outputs import write_output, write_output_json
from lora.report.tables import escape, number, table
from lora.runners import study as studies
from lora.runners.prepare import ManifestOptions, ManifestPlan, build_missing, build_or_shift
from lora.runners.progress import console
from lora.runners.provenance import config_values
from lora.units import JsonObject

OnEvaluation = Callable[[int, float], None]
Objective = Callable[[ExperimentConfig, OnEvaluation], float]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[str | int | float | bool, ...]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How the sampler and the pruner work.

    Attributes:
        startup_trials: trials drawn at random before the sampler learns from them.
        pruning_startup_trials: trials that must have completed before one is compared with their median.
        warmup_steps: no trial is pruned at or before this step.
    """

    seed: int = 42
    startup_trials: int = 10
    pruning_startup_trials: int = 5
    warmup_steps: int = 0


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """A sweep file, checked. `base` has the options that are not searched, and the folder of the best run."""

    name: str
    base: ExperimentConfig
    space: dict[str, Range | Choices]
    settings: SearchSettings
    manifests: tuple[ManifestPlan, ...]
    output: Path

    @property
    def identity(self) -> JsonObject:
        """What must be equal for two workers, or two starts, to be of one sweep; as it comes back from JSON."""
        parts = {
            "experiment": config_values(self.base),
            "space": {name: dataclasses.asdict(part) for name, part in self.space.items()},
            "settings": dataclasses.asdict(self.settings),
        }
        identity: JsonObject = json.loads(to_json(parts))
        return identity


def select_on_development(config: ExperimentConfig, on_evaluation: OnEvaluation) -> float:
    """Train as an experiment does and return the kept state's selection score; nothing of a finished trial is kept.

    A trial that was stopped goes on from its last training state when the sweep has come to it again.

    The reported sets are read, so that leaks are refused, and their baselines are measured (once: they are
    cached), but the trained model never sees them.

    Raises:
        InputError, CheckFailed: as `run_experiment`.
    """
    from lora.runners import output, stages, trackers

    config.check()
    trackers.check_trackers(config)
    scores: list[float] = []

    def record(step: int, score: float) -> None:
        scores.append(score)
        on_evaluation(step, score)

    with output.open_partial(output.resumed_or_restarted(config)) as partial:
        start = stages.start(partial.config)
        run, data, baseline = start.run, start.data, start.baseline
        partial.begin(stages.contents_of(run, data))
        try:
            with trackers.track(run, partial.folder) as tracking:
                stages.train_adapter(run, data, baseline, partial, tracking, record)
        except (CheckFailed, optuna.TrialPruned):
            partial.discard()
            raise
        partial.discard()
    return min(scores)


def run_sweep(
    plan: SweepPlan,
    storage: str,
    trials: int,
    *,
    objective: Objective = select_on_development,
    build: Callable[[ManifestOptions], object] = build_or_shift,
) -> JsonObject:
    """Work on the sweep until it has `trials` finished trials, those of other workers counted; return the record.

    The table and the best configuration are written after every trial.

    Raises:
        ConfigError: the database cannot be used, or holds a sweep of another plan under this name.
        CheckFailed: no trial has completed.
        InputError, SetupError: as `run_experiment`; the trial's slot is free again.
    """
    build_missing(plan.manifests, plan.output / "manifests.json", build)
    pruner = optuna.pruners.MedianPruner(plan.settings.pruning_startup_trials, plan.settings.warmup_steps)
    with studies.open_study(storage, plan.name, pruner) as study:
        studies.check_identity(study, plan.identity)
        while (claimed := studies.claim_trial(study, trials)) is not None:
            trial, slot = claimed
            _run_trial(study, trial, slot, plan, objective)
            write_results(plan, study)
        record = write_results(plan, study)
    if record["best"] is None:
        raise CheckFailed(f"sweep {plan.name}: no trial completed. See {plan.output / 'sweep.md'} for their messages.")
    return record


def _run_trial(study: optuna.Study, trial: optuna.Trial, slot: int, plan: SweepPlan, objective: Objective) -> None:
    seed = int(np.random.SeedSequence([plan.settings.seed, slot]).generate_state(1)[0])
    # Not multivariate: that kind draws when a trial is created, which is before its slot is known.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=plan.settings.startup_trials, multivariate=False
    )

    def on_evaluation(step: int, score: float) -> None:
        if step == 0:  # the baseline, the same in every trial
            return
        trial.report(score, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        values = {name: _suggest(trial, name, part) for name, part in plan.space.items()}
        console.print(f"trial {slot}: {', '.join(f'{name} {value}' for name, value in values.items())}")
        folder = plan.output / f"trial-{slot}"
        cache_dir = plan.base.cache_dir or plan.base.output_dir.parent / ".cache"
        config = dataclasses.replace(plan.base, **values, output_dir=folder, cache_dir=cache_dir)
        score = objective(config, on_evaluation)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except CheckFailed as error:
        # An outcome: these options cannot be trained. As pruned it counts, and the sampler avoids it.
        trial.set_user_attr("message", error.message)
        study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, score)


def _suggest(trial: optuna.Trial, name: str, part: Range | Choices) -> Any:
    if isinstance(part, Choices):
        return trial.suggest_categorical(name, list(part.values))
    if part.integer:
        return trial.suggest_int(name, int(part.low), int(part.high), step=int(part.step or 1), log=part.log)
    return trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)


def write_results(plan: SweepPlan, study: optuna.Study) -> JsonObject:
    """Write `sweep.json`, `sweep.md` and, once a trial has completed, `best.yaml`; return the record."""
    rows = [_row(trial) for trial in studies.finished_trials(study)]
    complete = [row for row in rows if row["outcome"] == "complete"]
    best = min(complete, key=lambda row: (row["score"], row["trial"]), default=None)
    record: JsonObject = {"schema_version": 1, "name": plan.name, **plan.identity, "trials": rows, "best": best}
    write_output_json(plan.output / "sweep.json", record)
    write_output(plan.output / "sweep.md", render(record))
    if best is not None:
        values = config_values(dataclasses.replace(plan.base, **best["options"]))
        head = f"# Trial {best['trial']} of sweep {plan.name}: {best['score']:.4f} on the development sets.\n"
        write_output(plan.output / "best.yaml", head + yaml.safe_dump(values, sort_keys=False))
    return record


def _row(trial: FrozenTrial) -> JsonObject:
    message = trial.user_attrs.get("message")
    outcome = "check failed" if message else "complete" if trial.state == TrialState.COMPLETE else "pruned"
    return {
        "trial": trial.user_attrs[studies.SLOT],
        "outcome": outcome,
        "score": trial.value,
        "step": trial.last_step,
        "options": trial.params,
        "message": message,
    }


def render(record: JsonObject) -> str:
    """Return the sweep's table in Markdown, best configuration first."""
    best, names = record["best"], list(record["space"])
    lines = [f"# Sweep {escape(record['name'])}", ""]
    if best is None:
        lines.append("No trial has completed.")
    else:
        options = ", ".join(f"{escape(name)} {number(best['options'][name])}" for name in names)
        lines.append(f"Best: trial {best['trial']}, score {best['score']:.4f}: {options}.")
    lines += [
        "",
        "The score is the domain's development WER, with a penalty for what the guardrail's development set loses "
        "beyond its budget; a pruned trial shows its last. The reported sets took no part.",
        "",
    ]
    rows = [
        (
            str(row["trial"]),
            escape(row["outcome"] if row["message"] is None else f"{row['outcome']}: {row['message']}"),
            "n/a" if row["score"] is None else f"{row['score']:.4f}",
            number(row["step"]),
            *(number(row["options"].get(name)) for name in names),
        )
        for row in record["trials"]
    ]
    return printable_lines(
        "\n".join([*lines, table(("Trial", "Outcome", "Score", "Last step", *map(escape, names)), rows, left=2), ""])
    )
