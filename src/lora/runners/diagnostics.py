"""Duration profile and split table of manifests; with a model headroom, with a minimum a verdict on size."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lora.config import DecodeSettings, DeviceName, ExperimentConfig, PreprocessConfig, option
from lora.data.diagnostics import Sufficiency, measure_durations, profile_durations, summarize_split
from lora.data.manifest import Manifest, read_manifest
from lora.decision import DecisionRule, Headroom, assess_headroom
from lora.errors import ConfigError
from lora.outputs import check_file, inputs_of, write_output, write_output_json
from lora.report.diagnostics_page import diagnostics_page
from lora.runners.progress import progress_bar
from lora.units import JsonObject

THRESHOLDS_S = (5.0, 8.0, 10.0, 15.0, 20.0)
KIND, ENDS = "diagnostics of manifests", ("json", "md")


@dataclass(frozen=True, kw_only=True)
class DiagnosticsOptions:
    """Options of `manifest-diagnostics`."""

    manifests: list[Path] = option(help="manifests to describe")
    max_seconds: float = option(ExperimentConfig.max_seconds, help="longer clips are left out of the split")
    thresholds: tuple[float, ...] = option(THRESHOLDS_S, help="durations to count under, in seconds")
    seed: int = option(ExperimentConfig.seed, help="seed of the split")
    validation_fraction: float = option(ExperimentConfig.validation_fraction, help="part that is held out")
    min_samples: int | None = option(None, help="fewest training utterances that count as enough")
    model_id: str | None = option(
        None, help="hub id, local folder or builtin:digits: also measure the baseline WER, and flag it under 5%"
    )
    tokens_per_second: float = option(DecodeSettings.tokens_per_second, help="decode limit, used with --model-id")
    device: DeviceName = option("auto", help="auto takes CUDA, then MPS, then the CPU")
    output: Path | None = option(None, help="folder for manifest_diagnostics.md and .json; only printed unless given")
    allow_outside_audio: bool = option(False, help="accept audio paths outside a manifest's folder")

    def check(self) -> None:
        """Refuse values out of range, all at once.

        Raises:
            ConfigError: one problem a value.
        """
        problems = []
        if not self.thresholds or any(not 0 < one <= 3600 for one in self.thresholds):
            problems.append(f"--thresholds: got {list(self.thresholds)}, expected seconds above 0, at most 3600")
        if not 0.5 <= self.max_seconds <= 3600:
            problems.append(f"--max-seconds: got {self.max_seconds}, expected 0.5 to 3600")
        if not 0 < self.validation_fraction < 1:
            problems.append(f"--validation-fraction: got {self.validation_fraction}, expected above 0 and below 1")
        if self.min_samples is not None and self.min_samples < 1:
            problems.append(f"--min-samples: got {self.min_samples}, expected at least 1")
        if not 0.1 <= self.tokens_per_second <= 1000:
            problems.append(f"--tokens-per-second: got {self.tokens_per_second}, expected 0.1 to 1000")
        if problems:
            raise ConfigError("manifest-diagnostics cannot start", problems)


def diagnose(options: DiagnosticsOptions) -> JsonObject:
    """Describe the manifests; print the tables, write them where asked, return the JSON document.

    Raises:
        InputError: an option, a manifest or an audio header is wrong.
    """
    options.check()
    pages = {} if options.output is None else {end: options.output / f"manifest_diagnostics.{end}" for end in ENDS}
    for path in pages.values():
        check_file(path, [*options.manifests, *inputs_of(options.model_id)], kind=KIND)
    manifests = [read_manifest(path, allow_outside=options.allow_outside_audio) for path in options.manifests]
    profiles, splits = [], []
    for manifest in manifests:
        durations = measure_durations(manifest)
        profiles.append(profile_durations(manifest, durations, sorted(set(options.thresholds))))
        splits.append(
            summarize_split(
                manifest,
                durations,
                max_seconds=options.max_seconds,
                fraction=options.validation_fraction,
                seed=options.seed,
            )
        )
    needed = options.min_samples
    sufficiency = [] if needed is None else [Sufficiency(one.manifest, one.train, needed) for one in splits]
    headroom = _measure_headroom(options, manifests) if options.model_id is not None else {}
    document: JsonObject = {
        "schema_version": 1,
        "max_seconds": options.max_seconds,
        "seed": options.seed,
        "validation_fraction": options.validation_fraction,
        "durations": [one.to_json() for one in profiles],
        "splits": [asdict(one) for one in splits],
        "sufficiency": [asdict(one) | {"enough": one.enough, "message": one.message} for one in sufficiency],
        "headroom": {path: asdict(one) for path, one in headroom.items()},
    }
    page = diagnostics_page(profiles, splits, sufficiency, headroom)
    if pages:
        write_output_json(pages["json"], document, kind=KIND)
        write_output(pages["md"], page, kind=KIND)
    sys.stdout.write(page)
    return document


def _measure_headroom(options: DiagnosticsOptions, manifests: list[Manifest]) -> dict[str, Headroom]:
    from lora.decoding import Recognizer
    from lora.evaluation.score import load_evaluation_set, score_set
    from lora.model.device import resolve_device
    from lora.model.load import load_bundle

    assert options.model_id is not None
    bundle = load_bundle(options.model_id, resolve_device(options.device))
    decode = DecodeSettings(tokens_per_second=options.tokens_per_second)
    recognizer = Recognizer(bundle, PreprocessConfig(), decode)
    headroom: dict[str, Headroom] = {}
    with progress_bar(f"scoring with {options.model_id}", sum(map(len, manifests))) as report:
        for manifest in manifests:
            loaded = load_evaluation_set(manifest.path.stem, manifest, recognizer)
            score = score_set(recognizer, loaded, lambda count: report(count, ""))
            headroom[str(manifest.path)] = assess_headroom(score.wer(), DecisionRule())
    return headroom
