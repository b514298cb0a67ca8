"""The same experiment with several seeds, and one verdict over them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from lora import processes
from lora.config import ExperimentConfig
from lora.decision import SetComparison, Verdict, interval_points, percent, points
from lora.decision_seeds import SeedOutcome, decide_over_seeds, domain_spread, guardrail_spreads
from lora.errors import ConfigError
from lora.escape import printable_lines
from lora.outputs import check_file, write_output, write_output_json
from lora.report.tables import escape, table
from lora.runners.experiment import run_experiment
from lora.runners.output import CONFIG_FILE, RUN_MARK, check_output, plain
from lora.runners.provenance import command_of, config_values
from lora.units import JsonObject

RECORD, SUMMARY = "seeds.json", "seeds.md"


def run_seeds(config: ExperimentConfig, run: Callable[[ExperimentConfig], JsonObject] = run_experiment) -> JsonObject:
    """Run the whole experiment once per seed into `output_dir/seed-N` and decide over all.

    The baselines come from one content cache, so they are measured with the first seed only. Where the
    configuration says `resume`, seeds that are finished are not run again.
    `seeds.json` and `seeds.md` appear when the last seed has finished.

    Args:
        run: runs one experiment and returns its metrics.

    Raises:
        ConfigError: fewer than two seeds, or the folder holds a single run.
        InputError, CheckFailed: as `run_experiment`.
    """
    config.check()
    folder = config.output_dir
    if config.seeds is None:
        raise ConfigError("seeds: got none, expected at least two. Give --seeds 42 43.")
    if (folder / RUN_MARK).exists():
        raise ConfigError(f"{folder}: holds a single run. Choose another --output-dir for several seeds.")
    with processes.one_fate(config.device):
        if processes.is_main():
            for seed in config.seeds:
                check_output(config_of_seed(config, seed))
            for name in (RECORD, SUMMARY):
                check_file(folder / name)
                (folder / name).unlink(missing_ok=True)
            write_output(folder / CONFIG_FILE, yaml.safe_dump(config_values(plain(config)), sort_keys=False))
        metrics = [run(config_of_seed(config, seed)) for seed in config.seeds]
        record = summarise(config, metrics)
        if processes.is_main():
            write_output_json(folder / RECORD, record)
            write_output(folder / SUMMARY, render(record))
            announce(folder, record)
    return record


def config_of_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """Return the configuration of one seed's run."""
    cache_dir = config.cache_dir or config.output_dir.parent / ".cache"
    return dataclasses.replace(
        config, seed=seed, seeds=None, output_dir=config.output_dir / f"seed-{seed}", cache_dir=cache_dir
    )


def outcome_of(metrics: JsonObject) -> SeedOutcome:
    """Return what a run's metrics say to the rule."""
    compared = [_comparison(part) for part in (metrics["domain"], *metrics["guardrails"])]
    return SeedOutcome(metrics["seed"], metrics["verdict"]["decision"], compared[0], tuple(compared[1:]))


def _comparison(part: JsonObject) -> SetComparison:
    interval = None if part["ci95"] is None else (part["ci95"][0], part["ci95"][1])
    measured = {name: part[name] for name in ("baseline", "tuned", "delta", "relative_reduction")}
    return SetComparison(name=part["name"], ci95=interval, **measured)


def summarise(config: ExperimentConfig, metrics: Sequence[JsonObject]) -> JsonObject:
    """Put all seeds and the verdict over them into one record."""
    outcomes = [outcome_of(item) for item in metrics]
    verdict = decide_over_seeds(outcomes)
    domain, guardrails = domain_spread(outcomes), guardrail_spreads(outcomes)
    return {
        "schema_version": 1,
        "run_id": config.output_dir.name,
        "command": command_of("experiment", plain(config)),
        "config": config_values(plain(config)),
        "seeds": [
            {
                "seed": outcome.seed,
                "run": f"seed-{outcome.seed}",
                "decision": outcome.decision,
                "domain": asdict(outcome.domain),
                "guardrails": [asdict(item) for item in outcome.guardrails],
                "train_seconds": item["train"]["seconds"],
            }
            for outcome, item in zip(outcomes, metrics, strict=True)
        ],
        "summary": {
            "domain_delta": domain and asdict(domain),
            "guardrail_delta": {name: found and asdict(found) for name, found in guardrails.items()},
        },
        "verdict": asdict(verdict),
    }


def render(record: JsonObject) -> str:
    """Return the summary in Markdown: the verdict first, then one row a seed and set, then the spread."""
    verdict = Verdict(**record["verdict"])
    lines = [f"# {escape(record['run_id'])}: {verdict.decision} over {len(record['seeds'])} seeds", ""]
    lines += [f"- {escape(reason)}" for reason in verdict.reasons]
    header = ("Seed", "Set", "Verdict", "Baseline WER", "Tuned WER", "Change, points", "95% interval")
    rows = []
    for row in record["seeds"]:
        for part in (row["domain"], *row["guardrails"]):
            interval = "none" if part["ci95"] is None else interval_points(part["ci95"])
            shown = percent(part["baseline"]), percent(part["tuned"]), points(part["delta"]), interval
            rows.append((str(row["seed"]), escape(part["name"]), row["decision"], *shown))
    lines += ["", table(header, rows, left=3), ""]
    spreads = {"domain": record["summary"]["domain_delta"], **record["summary"]["guardrail_delta"]}
    over = [
        (escape(name), *((points(found[key]) if found else "undefined") for key in ("mean", "min", "max")))
        for name, found in spreads.items()
    ]
    lines += [table(("Change over seeds, points", "Mean", "Smallest", "Largest"), over), ""]
    return printable_lines("\n".join(lines))


def announce(folder: Path, record: JsonObject) -> None:
    """Print the verdict over the seeds and where the summary is, last."""
    print(f"verdict over {len(record['seeds'])} seeds: {record['verdict']['decision']}")
    for reason in record["verdict"]["reasons"]:
        print(f"  - {reason}")
    for name in (RECORD, SUMMARY):
        print(folder / name)
