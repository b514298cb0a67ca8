"""The measuring and training stages of an experiment, in their order; `experiment.py` is the table of contents."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import PeftModel

from lora import processes
from lora.config import ExperimentConfig
from lora.data.audio import prepare_wave
from lora.data.transforms.pipeline import Augmenter
from lora.decision import DecisionRule, assess_headroom, percent
from lora.decoding import Recognizer
from lora.errors import ConfigError
from lora.evaluation.intervals import minimum_detectable_difference
from lora.evaluation.score import SetScore, UtteranceScore, score_baseline, score_set
from lora.files import sha256_bytes, sha256_file, to_json, write_bytes, write_jsonl
from lora.model.adapters import (
    AdapterConfig,
    adapted_layers,
    adapter_off,
    delta_norm,
    load_adapter,
    save_adapter,
    set_strength_,
    strength_of,
    trainable_parameters,
)
from lora.model.load import load_bundle
from lora.model.methods import Adaptation, start_adaptation
from lora.model.saving import save_pretrained
from lora.outputs import output_folder
from lora.runners import inputs, output
from lora.runners.features import open_encoder_cache
from lora.runners.inputs import Run, RunData
from lora.runners.output import Partial
from lora.runners.pace import FirstSteps
from lora.runners.progress import console, progress_bar
from lora.runners.trackers import Tracking
from lora.training.alignment import AlignmentCheck, check_alignment, require_alignment
from lora.training.batching import Augment
from lora.training.loop import Evaluation, Trainer, TrainingConfig, TrainingData, TrainingResult
from lora.training.objective import OBJECTIVES
from lora.training.teacher import teach
from lora.units import SAMPLE_RATE_HZ, JsonObject, Wave

OVER_BUDGET_WEIGHT = 10.0
GAIN_KEPT = 0.95
TRIPWIRE = 0.2
"""Training stops when this many more of the development texts than the baseline's are empty or do not end."""

OnEvaluation = Callable[[int, float], None]
"""Told the step and the selection score on the development sets (lower is better); may raise to end the run."""


@dataclass(frozen=True)
class Training:
    """Outcome of the training stage."""

    result: TrainingResult
    adapter: JsonObject
    strength_curve: list[JsonObject]


@dataclass(frozen=True)
class Tuned:
    """Scores with the saved adapter, read back from disk; `fault` says which check did not pass, `problems` where."""

    scores: dict[str, SetScore]
    efficacy: JsonObject
    fault: str = ""
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Start:
    """What every run has before it trains: everything read, the base model measured, the objective checked."""

    run: Run
    data: RunData
    baseline: dict[str, SetScore]
    alignment: AlignmentCheck


def start(config: ExperimentConfig) -> Start:
    """Read everything that a run reads, score the base model, check the objective.

    Raises:
        InputError, CheckFailed: as `run_experiment`.
    """
    manifests = inputs.read_manifests(config)
    run = inputs.open_run(config)
    data = inputs.load_data(run, manifests)
    baseline = score_baselines(run, data)
    return Start(run, data, baseline, check_objective(run, data, baseline))


def score_baselines(run: Run, data: RunData) -> dict[str, SetScore]:
    """Score the base model on every set, from the cache where the content is the same."""
    scores = {}
    for evaluation_set in (*data.reported, *data.development):
        bar = progress_bar(f"baseline {evaluation_set.name}", len(evaluation_set.examples))
        with bar as report, _halving_told(run.recognizer):
            score, cached = score_baseline(run.recognizer, evaluation_set, run.cache_dir, report)
        scores[evaluation_set.name] = score
        smallest = minimum_detectable_difference(score.counts(), clusters=evaluation_set.speakers)
        console.print(
            f"  {evaluation_set.name}: WER {percent(score.wer())}{' (cached)' if cached else ''}; "
            f"can show a change of {'unknown' if smallest is None else f'{100 * smallest:.1f} points'}"
        )
    headroom = assess_headroom(scores["domain"].wer(), DecisionRule())
    if not headroom.enough:
        console.print(f"warning: {headroom.message}")
    return scores


def check_objective(run: Run, data: RunData, baseline: dict[str, SetScore]) -> AlignmentCheck:
    """Run the alignment check on the base model and stop if it fails."""
    objective = OBJECTIVES[run.config.objective]
    with _halving_told(run.recognizer):
        check = check_alignment(
            run.recognizer, data.training.domain, objective, baseline_wer=baseline["domain_dev"].wer()
        )
    console.print(
        f"alignment check: aligned {check.aligned_loss:.2f}, misaligned {check.misaligned_loss:.2f} nats a token, "
        f"{'passed' if check.passed else 'FAILED: ' + check.reason}"
    )
    if run.config.alignment_check:
        require_alignment(check)
    return check


def contents_of(run: Run, data: RunData) -> JsonObject:
    """Return the hash of everything that the training reads, by name; `None` where some audio was not read yet."""
    contents: JsonObject = {str(path): sha256_file(path) for path in output.inputs_of(run.config) if path.is_file()}
    contents["the base model"] = run.bundle.sha256
    for kind, examples in (("training", data.training.domain), ("replay", data.training.replay)):
        heard = [example.known_sha256 for example in examples]
        texts = [[example.id, *example.token_ids] for example in examples]
        contents[f"{kind} texts"] = sha256_bytes(to_json(texts).encode())
        contents[f"{kind} audio"] = None if None in heard else sha256_bytes(to_json(heard).encode())
    return contents


def train(
    run: Run,
    data: RunData,
    baseline: dict[str, SetScore],
    partial: Partial,
    tracking: Tracking,
) -> Training:
    """Train the adapter, keep its best state, and put `lora_adapter/` and `processor/` into the output folder.

    Where an earlier start came so far, its outcome is returned.
    """
    training = processes.from_main(lambda: partial.training)
    if training is None:
        model, training, history = train_adapter(run, data, baseline, partial, tracking)
        if processes.is_main():
            with output_folder(partial.results, kind=output.RUN_KIND, overwrite=partial.overwrite) as stage:
                write_adapter(run, model, history, stage)
        partial.mark("trained", training=training)
    _share_adapter(partial.results)
    result = TrainingResult(**training["result"])
    return Training(result, training["adapter"], training["strength_curve"])


def write_adapter(run: Run, model: PeftModel, history: Sequence[JsonObject], folder: Path) -> None:
    """Write what a run has once its adapter is chosen."""
    preprocess, decode = run.recognizer.preprocess, run.recognizer.decode
    save_adapter(model, run.bundle, folder / "lora_adapter", preprocess=preprocess, decode=decode)
    save_pretrained(run.bundle.processor, folder / "processor")
    write_jsonl(folder / "history.jsonl", history)


def _share_adapter(folder: Path) -> None:
    """Give every process the adapter that the main one has saved."""
    adapter = folder / "lora_adapter"
    files = processes.from_main(lambda: {path.name: path.read_bytes() for path in adapter.iterdir() if path.is_file()})
    if not processes.is_main():
        for name, content in files.items():
            write_bytes(adapter / name, content)


def train_adapter(
    run: Run,
    data: RunData,
    baseline: dict[str, SetScore],
    partial: Partial,
    tracking: Tracking,
    on_evaluation: OnEvaluation | None = None,
) -> tuple[PeftModel, JsonObject, list[JsonObject]]:
    """Train, and choose the strength; return the model, the outcome as `Training` and the history."""
    config, bundle = run.config, run.bundle
    adapter = adapter_of(config)
    set_seed(config.seed)
    training_data = teach_replay(run, data.training)
    adaptation = start_adaptation(bundle, adapter, seed=config.seed)
    num_trainable = trainable_parameters(adaptation.module)
    trainer = build_trainer(run, tracking.accelerator, adaptation, training_data)
    pace = FirstSteps(run, data, console.print)
    shown, told = 0, 0
    with progress_bar("training", config.max_steps) as report:

        def record(row: JsonObject) -> None:
            nonlocal shown
            tracking.log_row(row)
            if "loss" in row:
                report(row["step"] - shown, f"training, loss {row['loss']:.3f}")
                shown = row["step"]
                pace.step_done()
            if "out_of_memory" in row:
                parts = row["out_of_memory"]["gradient_accumulation"]
                console.print(f"  step {row['step']}: out of memory; computed again, and from now on, in {parts} parts")

        def tell_scores() -> None:
            nonlocal told
            if on_evaluation is not None:
                for step, score in trainer.result.scores[told:]:
                    on_evaluation(step, score[0])
            told = len(trainer.result.scores)

        def evaluate(step: int) -> Evaluation:
            tell_scores()
            return _evaluate(run, data, baseline, f"step {step}")

        cache = trainer.encoder_cache
        with closing(cache) if cache is not None else nullcontext():
            result = trainer.train(training_data, evaluate, record, partial.checkpoints)
        tell_scores()
    model = adaptation.finish()
    curve = _choose_strength(run, data, baseline, model)
    tracking.log_strengths(curve, result.steps)
    described = asdict(adapter) | {
        "target_modules": sorted(adapted_layers(model)),
        "trainable_parameters": num_trainable,
        "delta_norm": delta_norm(model),
        "strength": strength_of(model),
    }
    kept = asdict(replace(result, history=[], scores=[]))
    return model, {"result": kept, "adapter": described, "strength_curve": curve}, result.history


def build_trainer(run: Run, accelerator: Accelerator, adaptation: Adaptation, training: TrainingData) -> Trainer:
    """Make the trainer of a run's configuration; whoever calls this closes its encoder cache."""
    config = run.config
    if processes.count() > 1:  # the adapter is the same on all; dropout is not, their clips are others
        set_seed(config.seed, device_specific=True)
    augment = _build_augment(run)
    cache = open_encoder_cache(run, adaptation, training)
    settings = TrainingConfig(**{name: getattr(config, name) for name in TrainingConfig.__dataclass_fields__})
    return Trainer(adaptation, OBJECTIVES[config.objective], settings, accelerator, cache, augment)


def adapter_of(config: ExperimentConfig) -> AdapterConfig:
    """Return what kind of adapter a configuration asks for."""
    return AdapterConfig(config.method, config.rank, config.alpha, config.dropout, config.targets)


def _build_augment(run: Run) -> Augment | None:
    if not run.config.augment:
        return None
    augmenter = Augmenter(run.config.augment, run.config.seed)
    preprocess = run.recognizer.preprocess

    def augment(wave: Wave, epoch: int, utterance_id: str) -> Wave:
        changed = augmenter.augment(wave, epoch=epoch, utterance_id=utterance_id)
        return prepare_wave(changed, SAMPLE_RATE_HZ, preprocess, name=utterance_id)

    return augment


def teach_replay(run: Run, training: TrainingData) -> TrainingData:
    """Add the base model's own outputs on replay where distillation asks for them."""
    config = run.config
    if not config.distillation_weight and config.distillation_texts == "transcripts":
        return training
    if not training.replay:
        raise ConfigError("distillation works on replay: give --replay-manifest, or leave out --distillation-*.")
    with progress_bar("teacher outputs", len(training.replay)) as report, _halving_told(run.recognizer):
        replay, teachers = teach(
            run.recognizer, training.replay, own_texts=config.distillation_texts == "base", advance=report
        )
    return TrainingData(training.domain, replay, teachers)


def _choose_strength(run: Run, data: RunData, baseline: dict[str, SetScore], model: PeftModel) -> list[JsonObject]:
    """Score every strength on the development sets, set the gentlest good one, and return the curve."""
    strengths = run.config.strengths
    if strengths == [1.0]:
        return []
    curve, scores = [], []
    for strength in strengths:
        set_strength_(model, strength)
        evaluation = _evaluate(run, data, baseline, f"strength {strength:g}")
        scores.append(evaluation.score[0])
        record = evaluation.record
        curve.append(
            {"scale": strength, "domain_wer": record["validation_wer"], "guardrail_wer": record.get("guardrail_wer")}
        )
    start = baseline["domain_dev"].wer() or 0.0
    set_strength_(model, gentlest_strength(strengths, [start - score for score in scores]))
    return curve


def gentlest_strength(strengths: Sequence[float], gains: Sequence[float]) -> float:
    """Return the smallest strength that keeps `GAIN_KEPT` of the largest gain.

    The last part of the gain on a development set costs the most of what the model had: a flatter adapter is
    safer on speech that no set stands for, in the spirit of the one-standard-error rule (Breiman et al., 1984).
    Without any gain the strength with the largest one is returned.
    """
    best = max(gains)
    if best <= 0:
        return strengths[gains.index(best)]
    return min(strength for strength, gain in zip(strengths, gains, strict=True) if gain >= GAIN_KEPT * best)


@contextmanager
def _halving_told(recognizer: Recognizer) -> Iterator[None]:
    """Say so where the evaluation inside ran out of memory and went on in smaller batches."""
    before = recognizer.batch_seconds
    yield
    if recognizer.batch_seconds < before:
        console.print(f"  out of memory: evaluation goes on in batches of {recognizer.batch_seconds:.1f} s of audio")


def _evaluate(run: Run, data: RunData, baseline: dict[str, SetScore], label: str) -> Evaluation:
    """Score the development sets; what is kept has the lowest domain WER within the guardrail's budget."""
    if label == "step 0":
        # A fresh adapter changes nothing (B is zero), so these are the baseline's scores.
        scores = {evaluation_set.name: baseline[evaluation_set.name] for evaluation_set in data.development}
    else:
        with _halving_told(run.recognizer):
            scores = {
                evaluation_set.name: score_set(run.recognizer, evaluation_set, lambda n: None)
                for evaluation_set in data.development
            }
    domain = scores["domain_dev"]
    wer = domain.wer() or 0.0
    record: JsonObject = {"validation_wer": wer, "validation_loss": domain.loss}
    if run.recognizer.batch_seconds < run.config.eval_batch_seconds:
        record["out_of_memory"] = {"eval_batch_seconds": run.recognizer.batch_seconds}
    penalised = wer
    if data.guardrail_dev is not None:
        guard = scores["guardrail_dev"].wer() or 0.0
        excess = guard - (baseline["guardrail_dev"].wer() or 0.0) - run.config.selection_budget
        penalised += OVER_BUDGET_WEIGHT * max(excess, 0.0)
        record["guardrail_wer"] = guard
    console.print(
        f"  {label}: development WER {percent(wer)}"
        + (f", guardrail {percent(record['guardrail_wer'])}" if "guardrail_wer" in record else "")
    )
    before = baseline["domain_dev"]
    record |= {"empty": domain.empty, "unfinished": domain.unfinished}
    broken = domain.empty + domain.unfinished - before.empty - before.unfinished
    tripped = "loops_or_empty_outputs" if broken > TRIPWIRE * len(domain.utterances) else ""
    return Evaluation((penalised, domain.loss), wer, record, tripped)


def score_tuned(run: Run, data: RunData, baseline: dict[str, SetScore], folder: Path) -> Tuned:
    """Load the saved adapter onto a fresh base model, as a user would, and score the reported sets."""
    bundle = load_bundle(run.config.model_id, run.bundle.device)
    model, record = load_adapter(bundle, folder / "lora_adapter")
    recognizer = Recognizer(bundle, record.preprocess, record.decode, batch_seconds=run.config.eval_batch_seconds)
    scores = {}
    for evaluation_set in data.reported:
        bar = progress_bar(f"tuned {evaluation_set.name}", len(evaluation_set.examples))
        with bar as report, _halving_told(recognizer):
            scores[evaluation_set.name] = score_set(recognizer, evaluation_set, report)
    before, after = baseline["domain"].utterances, scores["domain"].utterances
    changed = sum(old.hypothesis != new.hypothesis for old, new in zip(before, after, strict=True))
    few = data.domain.examples[:8]
    with adapter_off(model):
        texts = [transcript.text for transcript in recognizer.transcribe([example.wave for example in few])]
    problems = not_restored(before[: len(few)], texts)
    efficacy = {
        "delta_norm": delta_norm(model),
        "outputs_changed": changed,
        "switched_off_equals_baseline": not problems,
    }
    return Tuned(scores, efficacy, NOT_RESTORED if problems else "", problems)


NOT_RESTORED = (
    "with the adapter switched off the model does not give the baseline's texts, so the comparison is tainted: the "
    "base weights are not those that were measured, or the baseline cache is stale. Remove the cache (--cache-dir) and "
    "run again with --restart"
)


def not_restored(baseline: Sequence[UtteranceScore], texts: Sequence[str]) -> list[str]:
    """Return every utterance for which the model does not say, with the adapter off, what the baseline is."""
    return [
        f"{score.id}: baseline {score.hypothesis!r}, adapter switched off {text!r}"
        for score, text in zip(baseline, texts, strict=True)
        if score.hypothesis != text
    ]
