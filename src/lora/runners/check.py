"""Check manifests: findings, repair by removal, and with a model the likely mislabelled.

Importing this module, and checking without `--model-id`, loads no torch.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora.config import DecodeSettings, DeviceName, PreprocessConfig, option
from lora.data.check.doctor import Check, CheckInput, check_manifests
from lora.data.check.fix import Fixed, check_place, write_fixed
from lora.data.check.rows import Advance, CheckSettings, read_rows
from lora.data.findings import RULES
from lora.errors import AudioError, ConfigError
from lora.outputs import check_file, inputs_of, write_output, write_output_json
from lora.report.check_page import PlayableRow, check_html, check_json, check_markdown, summary_line, terminal_lines
from lora.runners.progress import progress_bar
from lora.units import Wave

if TYPE_CHECKING:
    from lora.evaluation.suspects import Suspect

KIND = "a check of manifests"
EXIT_CHECK_FAILED = 3
# Faults that ears cannot judge are not worth a player.
NOT_HEARD = {"leak-id", "leak-speaker", "leak-text", "single-clip-speaker", "duplicate-id", "mixed-numbers", "casing"}


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `check`."""

    paths: list[Path] = option(default_factory=list, positional=True, help="manifests to check, whatever they are for")
    manifests: list[Path] = option(default_factory=list, help="the same as naming them without an option")
    train: list[Path] = option(default_factory=list, help="training manifests; leaks into --eval are errors")
    eval: list[Path] = option(default_factory=list, help="evaluation manifests, guardrails included")
    replay: list[Path] = option(default_factory=list, help="replay manifests: training data too")
    model_id: str | None = option(
        None, help="hub id, local folder or builtin:digits: also rank the utterances by this model's loss and error"
    )
    output: Path | None = option(None, help="folder for check.md, check.json and check.html (playable)")
    fix: Path | None = option(None, help="new folder for manifests without the removable errors, and removed.jsonl")
    remove: list[str] = option(default_factory=list, help="codes of warnings whose utterances --fix removes too")
    max_seconds: float = option(20.0, help="longer clips get a warning")
    tokens_per_second: float = option(DecodeSettings.tokens_per_second, help="decode limit, used with --model-id")
    top: int = option(50, help="most clips on the page")
    workers: int | None = option(None, help="threads that decode; one a core unless given")
    device: DeviceName = option("auto", help="auto takes CUDA, then MPS, then the CPU")
    allow_outside_audio: bool = option(False, help="accept audio paths outside a manifest's folder")

    def inputs(self) -> list[CheckInput]:
        """Return the manifests with their roles.

        Raises:
            ConfigError: none, one named twice, or a value out of range.
        """
        found = [CheckInput(path, "train") for path in (*self.train, *self.replay)]
        found += [CheckInput(path, "eval") for path in self.eval]
        found += [CheckInput(path, "any") for path in (*self.paths, *self.manifests)]
        problems = []
        if not found:
            problems.append("no manifest: name one, or give --train and --eval")
        names = [one.path.resolve() for one in found]
        problems += [f"{path}: named twice" for path in sorted({name for name in names if names.count(name) > 1})]
        if self.workers is not None and self.workers < 1:
            problems.append(f"--workers: got {self.workers}, expected at least 1")
        if self.top < 1:
            problems.append(f"--top: got {self.top}, expected at least 1")
        if not 0.5 <= self.max_seconds <= 3600:
            problems.append(f"--max-seconds: got {self.max_seconds}, expected 0.5 to 3600")
        if not 0.1 <= self.tokens_per_second <= 1000:
            problems.append(f"--tokens-per-second: got {self.tokens_per_second}, expected 0.1 to 1000")
        if self.remove and self.fix is None:
            problems.append("--remove needs --fix")
        problems += [f"--remove: {code} is no code of a finding" for code in self.remove if code not in RULES]
        if problems:
            raise ConfigError("check cannot start", problems)
        return found


def run_check(options: CheckOptions) -> int:
    """Check, write what was asked for, print the findings; return 0 or 3.

    With `--fix` the result is that of the manifests it wrote, which are checked in turn.

    Raises:
        InputError: an option, or a manifest that cannot be read at all.
    """
    inputs = options.inputs()
    for path in _pages(options).values():
        check_file(path, [*(one.path for one in inputs), *inputs_of(options.model_id)], kind=KIND)
    settings = _settings(options)
    if options.fix is not None:
        check_place(options.fix, [one.path for one in inputs])
    with _counter("checking", inputs) as advance:
        check = check_manifests(inputs, settings, advance)
    ranked = _rank(options, check) if options.model_id is not None else None
    if options.output is not None:
        _write_output(options, check, ranked)
    sys.stdout.write("\n".join(terminal_lines(check)) + "\n")
    if options.fix is None:
        return 0 if check.passed else EXIT_CHECK_FAILED
    fixed = write_fixed(check, options.fix, also=options.remove, allow_outside=options.allow_outside_audio)
    return 0 if _recheck(check, fixed, settings).passed else EXIT_CHECK_FAILED


def _pages(options: CheckOptions) -> dict[str, Path]:
    """Return the files that are written, by the ends of their names."""
    return {} if options.output is None else {end: options.output / f"check.{end}" for end in ("json", "md", "html")}


def _settings(options: CheckOptions) -> CheckSettings:
    return CheckSettings(
        max_seconds=options.max_seconds,
        allow_outside=options.allow_outside_audio,
        workers=options.workers or os.cpu_count() or 1,
    )


def _recheck(check: Check, fixed: Fixed, settings: CheckSettings) -> Check:
    inputs = [CheckInput(fixed.manifests[str(one.path)], one.role) for one in check.inputs]
    with _counter("checking what was kept", inputs) as advance:
        again = check_manifests(inputs, settings, advance)
    places = ", ".join(map(str, fixed.manifests.values()))
    sys.stdout.write(f"fixed: {fixed.kept} utterances kept, {fixed.removed} removed: {places}\n{summary_line(again)}\n")
    return again


def _rank(options: CheckOptions, check: Check) -> dict[str, list["Suspect"]]:
    from lora.decoding import Recognizer
    from lora.evaluation.suspects import check_with_model
    from lora.model.device import resolve_device
    from lora.model.load import load_bundle

    assert options.model_id is not None
    bundle = load_bundle(options.model_id, resolve_device(options.device))
    decode = DecodeSettings(tokens_per_second=options.tokens_per_second)
    recognizer = Recognizer(bundle, PreprocessConfig(), decode)
    total = sum(row.facts is not None and not row.has_error for row in check.all_rows())
    with progress_bar(f"scoring with {options.model_id}", total) as report:
        return check_with_model(
            check, recognizer, allow_outside=options.allow_outside_audio, advance=lambda count: report(count, "")
        )


def _write_output(options: CheckOptions, check: Check, ranked: dict[str, list["Suspect"]] | None) -> None:
    pages = _pages(options)
    suspects = _merge(ranked or {})
    rows = [suspect.to_json() for suspect in suspects]
    baseline, notes = None, []
    if ranked is not None:
        from lora.decision import DecisionRule, assess_headroom
        from lora.evaluation.suspects import pooled_rate

        baseline = {path: pooled_rate(own) for path, own in ranked.items()}
        notes = [f"{path}: {assess_headroom(rate, DecisionRule()).message}" for path, rate in baseline.items()]
    write_output_json(pages["json"], check_json(check, rows, baseline), kind=KIND)
    write_output(pages["md"], check_markdown(check, rows, notes), kind=KIND)
    playable = _playable(options, check, suspects)
    note = f"{summary_line(check)}. {len(playable)} clips to listen to; the audio is prepared as the model hears it."
    write_output(pages["html"], check_html("Manifest check", playable, note), kind=KIND)


def _merge(ranked: dict[str, list["Suspect"]]) -> list["Suspect"]:
    """Join the manifests' rankings, flagged ones first, then place by place."""
    placed = [(not one.flagged, place, one.manifest, one) for own in ranked.values() for place, one in enumerate(own)]
    return [one for *_, one in sorted(placed, key=lambda item: item[:3])]


def _playable(options: CheckOptions, check: Check, suspects: Sequence["Suspect"]) -> list[PlayableRow]:
    """Return the rows of the page: the model's suspects first, then clips with a fault that can be heard."""
    by_place = {(row.manifest, row.line): row for row in check.all_rows()}
    places = [(one.manifest, one.line) for one in suspects]
    scored = dict(zip(places, suspects, strict=True))
    heard = [place for place, row in by_place.items() if row.text and row.codes - NOT_HEARD and place not in scored]
    # Half of the page at least is the model's where there is one.
    chosen = places[: max(options.top // 2, options.top - len(heard))]
    chosen += heard[: options.top - len(chosen)]
    waves = _load_waves(options, chosen)
    rows = []
    for place in chosen:
        row, suspect = by_place[place], scored.get(place)
        rows.append(
            PlayableRow(
                manifest=row.manifest,
                id=row.id,
                reference=row.text,
                reasons=row.faults,
                wave=waves.get(place),
                seconds=row.facts.seconds if row.facts else None,
                hypothesis=suspect.hypothesis if suspect else None,
                loss=suspect.loss if suspect else None,
                wer=suspect.errors.rate if suspect else None,
            )
        )
    return rows


def _load_waves(options: CheckOptions, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Wave]:
    """Load the audio of some rows; what cannot be decoded is left out, and the page says so."""
    waves: dict[tuple[str, int], Wave] = {}
    for path in {path for path, _ in places}:
        wanted = {line for own, line in places if own == path}
        for number, utterance, _, _ in read_rows(Path(path), allow_outside=options.allow_outside_audio):
            if utterance is None or number not in wanted:
                continue
            try:
                waves[path, number] = utterance.load(PreprocessConfig())
            except AudioError:
                continue  # its finding is on the page already
    return waves


@contextmanager
def _counter(title: str, inputs: Sequence[CheckInput]) -> Iterator[Advance]:
    total = sum(_count_lines(one.path) for one in inputs)
    with progress_bar(title, total) as report:
        yield lambda count: report(count, "")


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0  # reading it says so
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
