"""The outcome of an experiment: comparison, verdict, record, report."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import yaml

from lora import processes
from lora.data.manifest import Manifest
from lora.decision import DecisionRule, SetComparison, Verdict, assess_headroom, compare_set, decide
from lora.errors import CheckFailed
from lora.evaluation.breakdown import break_down
from lora.evaluation.intervals import PairedDifference, minimum_detectable_difference, paired_bootstrap
from lora.evaluation.score import SetScore, pair_utterances
from lora.evaluation.wer import TEXT_STYLES
from lora.files import to_json
from lora.outputs import write_output, write_output_json
from lora.report.html import write_html_report
from lora.report.markdown import write_report
from lora.report.model_card import write_model_card
from lora.runners.inputs import Run, RunData
from lora.runners.output import CONFIG_FILE, RUN_MARK
from lora.runners.provenance import command_of, config_values, git_commit, package_versions
from lora.runners.stages import Training, Tuned
from lora.training.alignment import AlignmentCheck
from lora.training.examples import Example
from lora.units import JsonObject

Speakers = Sequence[int | str | None]


def conclude(
    run: Run,
    data: RunData,
    baseline: dict[str, SetScore],
    alignment: AlignmentCheck,
    training: Training,
    tuned: Tuned,
    folder: Path,
) -> JsonObject:
    """Judge the run, write its results to `folder` and return its metrics."""
    metrics = judge(run, data, baseline, alignment, training, tuned)
    write_results(run, data, baseline, tuned, metrics, folder)
    return metrics


def judge(
    run: Run,
    data: RunData,
    baseline: dict[str, SetScore],
    alignment: AlignmentCheck,
    training: Training,
    tuned: Tuned,
) -> JsonObject:
    """Compare, decide, and put everything into one record."""
    config, bundle = run.config, run.bundle
    rule = DecisionRule(guardrail_budgets=tuple(config.guardrail_budget))
    comparisons, described = [], []
    for evaluation_set in data.reported:
        before, after = baseline[evaluation_set.name], tuned.scores[evaluation_set.name]
        difference = paired_bootstrap(
            before.counts(), after.counts(), clusters=evaluation_set.speakers, seed=config.seed
        )
        comparison = compare_set(evaluation_set.name, before.counts(), after.counts(), difference)
        comparisons.append(comparison)
        described.append(_describe(comparison, difference, before, after, evaluation_set.speakers))
    verdict = decide(comparisons[0], comparisons[1:], rule, outputs_changed=tuned.efficacy["outputs_changed"])
    if tuned.fault:
        verdict = Verdict("reject", [f"A check did not pass: {tuned.fault}.", *verdict.reasons])
    budgets = rule.budgets_of(len(data.guardrails))
    before, after = baseline["domain"], tuned.scores["domain"]
    result = training.result
    return {
        "schema_version": 1,
        "status": "check_failed" if tuned.fault else "done",
        "message": tuned.fault,
        "problems": list(tuned.problems),
        "run_id": config.output_dir.name,
        "command": command_of("experiment", config),
        "config": config_values(config),
        "seed": config.seed,
        "device": str(bundle.device),
        "dtype": run.precision,
        "processes": processes.count(),
        "base_model": {"id": config.model_id, "sha256": bundle.sha256, "family": bundle.family.name},
        "adapter": training.adapter,
        "strength": training.strength_curve,
        "manifests": {
            "train": _manifest_row(data.training_manifest, data.training.domain) | {"left_out": data.left_out},
            "domain": _manifest_row(data.domain.manifest, data.domain.examples),
            "guardrails": [_manifest_row(item.manifest, item.examples) for item in data.guardrails],
            "replay": {"utterances": len(data.training.replay), "seconds": _seconds(data.training.replay)},
            "development": {item.name: len(item.examples) for item in data.development},
            "splits": data.splits,
            "shared_with_training": data.leakage,
        },
        "baseline_wer": before.wer(),
        "tuned_wer": after.wer(),
        "baseline_cer": before.cer(),
        "tuned_cer": after.cer(),
        "baseline_eval_loss": before.loss,
        "tuned_eval_loss": after.loss,
        "domain": described[0],
        "guardrails": [row | {"budget": budget} for row, budget in zip(described[1:], budgets, strict=True)],
        "breakdown": {
            item.name: break_down(pair_utterances(item, baseline[item.name], tuned.scores[item.name]))
            for item in data.reported
        },
        "headroom": asdict(assess_headroom(before.wer(), rule)),
        "alignment_check": asdict(alignment),
        "efficacy": tuned.efficacy,
        "train": {
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "cpu_seconds": round(result.cpu_seconds, 3),
            "checkpoint_seconds": round(result.checkpoint_seconds, 3),
            "audio_seconds": result.audio_seconds,
            "first_loss": result.first_loss,
            "final_loss": result.final_loss,
            "best_step": result.best_step,
            "stopped_by": result.stopped_by,
        },
        "seconds": round(time.monotonic() - run.started, 3),
        "times": {"finished_at": datetime.now(UTC).isoformat(timespec="seconds")},
        "verdict": asdict(verdict),
        "versions": package_versions(),
        "git_commit": git_commit(),
    }


def _describe(
    comparison: SetComparison, difference: PairedDifference, before: SetScore, after: SetScore, speakers: Speakers
) -> JsonObject:
    return asdict(comparison) | {
        "probability_of_improvement": difference.probability_of_improvement,
        "unit": difference.unit,
        "num_units": difference.num_units,
        "num_speakers": difference.num_speakers,
        "minimum_detectable_difference": minimum_detectable_difference(before.counts(), clusters=speakers),
        "baseline_cer": before.cer(),
        "tuned_cer": after.cer(),
        "baseline_loss": before.loss,
        "tuned_loss": after.loss,
        "empty": {"baseline": before.empty, "tuned": after.empty},
        "unfinished": {"baseline": before.unfinished, "tuned": after.unfinished},
        "utterances": len(after.utterances),
        "text_styles": {style: {"baseline": before.wer(style), "tuned": after.wer(style)} for style in TEXT_STYLES},
    }


def _manifest_row(manifest: Manifest, examples: Sequence[Example]) -> JsonObject:
    return {
        "path": str(manifest.path),
        "sha256": manifest.sha256,
        "utterances": len(examples),
        "seconds": _seconds(examples),
    }


def _seconds(examples: Sequence[Example]) -> float:
    return round(sum(example.seconds for example in examples), 3)


def write_results(
    run: Run, data: RunData, baseline: dict[str, SetScore], tuned: Tuned, metrics: JsonObject, folder: Path
) -> None:
    """Write metrics, per-utterance samples, the resolved configuration and the report."""
    rows = []
    for evaluation_set in data.reported:
        before, after = baseline[evaluation_set.name].utterances, tuned.scores[evaluation_set.name].utterances
        for example, old, new in zip(evaluation_set.examples, before, after, strict=True):
            rows.append(
                {
                    "id": example.id,
                    "set": evaluation_set.name,
                    "speaker_id": example.speaker_id,
                    "seconds": example.seconds,
                    "reference": example.text,
                    "baseline": old.hypothesis,
                    "tuned": new.hypothesis,
                    "baseline_errors": old.word_errors().errors,
                    "tuned_errors": new.word_errors().errors,
                    "words": old.word_errors().reference_length,
                    "baseline_loss": old.loss / old.num_tokens,
                    "tuned_loss": new.loss / new.num_tokens,
                }
            )
    lines = "".join(to_json(row, indent=None) + "\n" for row in rows)
    write_output(folder / "samples.jsonl", lines, root=folder)
    write_output(folder / CONFIG_FILE, yaml.safe_dump(config_values(run.config), sort_keys=False), root=folder)
    write_output_json(folder / RUN_MARK, metrics, root=folder)
    write_report(folder)
    write_html_report(folder)
    write_model_card(folder / "lora_adapter", metrics)


def announce(folder: Path, metrics: JsonObject) -> None:
    """Print the verdict and where the artifacts are, last."""
    verdict = metrics["verdict"]
    print(f"verdict: {verdict['decision']}")
    for reason in verdict["reasons"]:
        print(f"  - {reason}")
    for name in ("lora_adapter", "processor", "experiment_metrics.json", "samples.jsonl", "report.md", "report.html"):
        print(f"{folder / name}")


def require_passed(metrics: JsonObject) -> None:
    """Let a run end as its record says.

    Raises:
        CheckFailed: a check of the run did not pass.
    """
    if metrics.get("status", "done") == "check_failed":
        raise CheckFailed(metrics["message"], metrics["problems"])
