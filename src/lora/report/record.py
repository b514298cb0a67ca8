"""What a run left in its directory, read strictly: metrics, history and one row per utterance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lora.bounded import parse_json
from lora.errors import InputError
from lora.evaluation.intervals import rate_interval
from lora.evaluation.wer import ErrorCounts
from lora.files import read_json
from lora.units import JsonObject, Seconds

SCHEMA_VERSION = 1
Kind = Literal["base", "tuned"]

DOMAIN_SET = "domain"
METRICS_FILE, HISTORY_FILE, SAMPLES_FILE = "experiment_metrics.json", "history.jsonl", "samples.jsonl"

_SET_KEYS = ("name", "baseline", "tuned", "delta", "ci95", "relative_reduction")
_REQUIRED_KEYS: dict[str, tuple[str, ...]] = {
    "": (
        *("run_id", "command", "config", "seed", "device", "dtype", "git_commit", "versions", "guardrails"),
        *("baseline_wer", "tuned_wer", "baseline_cer", "tuned_cer", "baseline_eval_loss", "tuned_eval_loss"),
    ),
    "base_model": ("id", "sha256", "family"),
    "adapter": ("method", "rank", "alpha", "target_modules", "trainable_parameters", "delta_norm"),
    "manifests": ("train", "domain", "guardrails"),
    "domain": (*_SET_KEYS, "probability_of_improvement", "text_styles"),
    "headroom": ("baseline_wer", "enough", "message"),
    "alignment_check": ("aligned_loss", "misaligned_loss", "passed"),
    "efficacy": ("delta_norm", "outputs_changed"),
    "train": ("steps", "seconds", "cpu_seconds", "audio_seconds", "first_loss", "final_loss", "stopped_by"),
    "verdict": ("decision", "reasons"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One scored utterance; `set` is `domain` or a guardrail's name, counts are words."""

    id: str
    set: str
    speaker_id: int | str | None
    seconds: Seconds
    reference: str
    baseline: str
    tuned: str
    baseline_errors: int
    tuned_errors: int
    words: int

    @property
    def change(self) -> int:
        """Errors that the adapter added; negative is better."""
        return self.tuned_errors - self.baseline_errors


@dataclass(frozen=True)
class RunRecord:
    """One run, checked: every expected key is there and the samples add up to the metrics."""

    run_dir: Path
    metrics: JsonObject
    history: tuple[JsonObject, ...]
    samples: tuple[Sample, ...]

    @property
    def sets(self) -> list[tuple[str, JsonObject]]:
        """Return each evaluation set's name in the samples with its comparison, domain first."""
        return [(DOMAIN_SET, self.metrics["domain"]), *((row["name"], row) for row in self.metrics["guardrails"])]

    def samples_of(self, name: str) -> list[Sample]:
        """Return the samples of one set, in their order."""
        return [sample for sample in self.samples if sample.set == name]


def load_record(run_dir: Path) -> RunRecord:
    """Read and check the three files of a run.

    Raises:
        InputError: a file is missing, is not what it should be, or the files are not of one run; all
            faults of a file at once.
    """
    missing = [name for name in (METRICS_FILE, HISTORY_FILE, SAMPLES_FILE) if not (run_dir / name).is_file()]
    if missing:
        raise InputError(
            f"{run_dir}: not the directory of a finished run. Pass the --output-dir of an experiment.",
            [f"{run_dir / name}: no such file" for name in missing],
        )
    metrics = _load_metrics(run_dir / METRICS_FILE)
    history = tuple(row for _, row in _read_rows(run_dir / HISTORY_FILE))
    record = RunRecord(run_dir, metrics, history, load_samples(run_dir / SAMPLES_FILE))
    _check_sums(record)
    return record


def _load_metrics(path: Path) -> JsonObject:
    metrics = read_json(path)
    if not isinstance(metrics, dict):
        raise InputError(f"{path}: got a JSON {type(metrics).__name__}; expected an object. Regenerate the file.")
    if metrics.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: got schema_version {metrics.get('schema_version')!r}; expected {SCHEMA_VERSION}. Repeat the run "
            "with this version, or report it with the version that wrote it."
        )
    problems: list[str] = []
    for section, keys in _REQUIRED_KEYS.items():
        _check_keys(metrics if not section else metrics.get(section), keys, section, problems)
    guardrails = metrics.get("guardrails")
    if isinstance(guardrails, list):
        for index, row in enumerate(guardrails):
            _check_keys(row, _SET_KEYS, f"guardrails[{index}]", problems)
    elif guardrails is not None:
        problems.append(f"guardrails: got {type(guardrails).__name__}; expected a list")
    if problems:
        raise InputError(f"{path}: {len(problems)} fault(s) in the metrics. Repeat the run.", problems)
    return metrics


def _check_keys(value: Any, keys: tuple[str, ...], section: str, problems: list[str]) -> None:
    if not isinstance(value, dict):
        problems.append(f"{section}: got {value!r}; expected an object with {', '.join(keys)}")
        return
    prefix = f"{section}." if section else ""
    problems += [f"{prefix}{key}: missing" for key in keys if key not in value]


def _read_rows(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yield each row with its place `file:line`."""
    # Not splitlines(): texts may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        place = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise InputError(
                f"{place}: not valid JSON ({error}); expected one object a line. Repeat the run."
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: got a JSON {type(row).__name__}; expected an object. Repeat the run.")
        yield place, row


def samples_interval(samples: Sequence[Sample], kind: Kind) -> tuple[float, float] | None:
    """Return the 95% interval of one pooled error rate, by speaker where the run's own intervals are."""
    # Which kinds of errors they were does not matter to a rate: all count as insertions here.
    errors = [sample.baseline_errors if kind == "base" else sample.tuned_errors for sample in samples]
    counts = [ErrorCounts(0, 0, error, sample.words) for error, sample in zip(errors, samples, strict=True)]
    return rate_interval(counts, clusters=[sample.speaker_id for sample in samples]) if counts else None


def load_samples(path: Path) -> tuple[Sample, ...]:
    """Read a run's scored utterances.

    Raises:
        InputError: the file is missing or empty, or rows are incomplete, all listed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Repeat the run.")
    names = [field.name for field in fields(Sample)]
    samples, problems = [], []
    for place, row in _read_rows(path):
        absent = [name for name in names if name not in row]
        if absent:
            problems.append(f"{place}: missing {', '.join(absent)}")
        else:
            samples.append(Sample(**{name: row[name] for name in names}))
    if problems:
        raise InputError(f"{path}: {len(problems)} incomplete row(s). Repeat the run.", problems)
    if not samples:
        raise InputError(f"{path}: no utterances; expected one row for each. Repeat the run.")
    return tuple(samples)


def _check_sums(record: RunRecord) -> None:
    """Refuse samples that do not give the metrics' rates: they are of another run, or some were lost."""
    sets = dict(record.sets)
    problems = [f"set {name!r} is not in the metrics" for name in sorted({s.set for s in record.samples} - set(sets))]
    for name, compared in sets.items():
        samples = record.samples_of(name)
        words = sum(sample.words for sample in samples)
        errors = {
            "baseline": sum(sample.baseline_errors for sample in samples),
            "tuned": sum(sample.tuned_errors for sample in samples),
        }
        for key, count in errors.items():
            found, stated = count / words if words else None, compared[key]
            agrees = found is stated if found is None or stated is None else abs(found - stated) < 1e-4
            if not agrees:
                problems.append(f"set {name!r}: {key} is {stated} in the metrics, {found} in the samples")
    if problems:
        raise InputError(f"{record.run_dir}: {METRICS_FILE} and {SAMPLES_FILE} disagree. Repeat the run.", problems)
