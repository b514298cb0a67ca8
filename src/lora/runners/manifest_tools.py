"""Merge, split, sample and describe manifests: options, progress, summaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.config import option
from lora.data.manifest_tools import ManifestStats, SplitSummary, describe, sample_manifest, split_manifest
from lora.data.merging import Duplicates, merge_manifests
from lora.data.partition import SplitBy, parse_parts
from lora.errors import ConfigError
from lora.runners.progress import progress_bar
from lora.runners.shift import count_rows

_OUTSIDE = "accept audio paths outside a manifest's folder"


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of `merge-manifests`."""

    inputs: list[Path] = option(help="manifests to merge", positional=True)
    output: Path = option(help="manifest to write; audio that is not under its folder is copied beside it")
    duplicates: Duplicates = option(
        "refuse", help="utterances with the same audio: refuse, drop all but the first, keep"
    )
    allow_outside_audio: bool = option(False, help=_OUTSIDE)


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of `split`."""

    input: Path = option(help="manifest to divide", positional=True)
    parts: list[str] = option(help="NAME=FRACTION, NAME=HOURSh or NAME=rest, for example train=0.8 test=0.2")
    output_dir: Path | None = option(None, help="folder for <stem>_<part>.jsonl; the manifest's own unless given")
    by: SplitBy = option("speaker", help="what is never in two parts: a speaker, or only an utterance's audio")
    seed: int = option(42, help="the same seed gives the same parts, whatever the order of the rows")
    allow_outside_audio: bool = option(False, help=_OUTSIDE)

    def __post_init__(self) -> None:
        parse_parts(self.parts)


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of `sample`."""

    input: Path = option(help="manifest to draw from", positional=True)
    output: Path = option(help="manifest to write")
    samples: int | None = option(None, help="number of utterances")
    hours: float | None = option(None, help="hours of audio, the last utterance whole")
    balanced: bool = option(False, help="take speakers in turn")
    seed: int = option(42, help="a larger sample of the same seed holds the smaller one")
    allow_outside_audio: bool = option(False, help=_OUTSIDE)

    def __post_init__(self) -> None:
        if (self.samples is None) == (self.hours is None):
            raise ConfigError("sample: expected either --samples or --hours. Give one of them.")


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """Options of `stats`."""

    inputs: list[Path] = option(help="manifests to describe", positional=True)
    allow_outside_audio: bool = option(False, help=_OUTSIDE)


def merge(options: MergeOptions) -> str:
    """Merge and return what was done.

    Raises:
        InputError: as `merge_manifests`.
    """
    with progress_bar("comparing audio", sum(map(count_rows, options.inputs))) as report:
        summary = merge_manifests(
            options.inputs,
            options.output,
            duplicates=options.duplicates,
            allow_outside=options.allow_outside_audio,
            tick=lambda: report(1),
        )
    lines = [
        f"{summary.path}: {summary.utterances} utterances of {len(options.inputs)} manifests; {summary.copied} audio "
        f"files copied, {summary.renamed} ids changed, {len(summary.dropped)} duplicates dropped"
    ]
    return "\n".join([*lines, *(f"  dropped: {line}" for line in summary.dropped)])


def split(options: SplitOptions) -> str:
    """Divide and return the parts as a table.

    Raises:
        LoraError: as `split_manifest`.
    """
    with progress_bar("reading audio", count_rows(options.input)) as report:
        summary = split_manifest(
            options.input,
            parse_parts(options.parts),
            options.output_dir or options.input.parent,
            by=options.by,
            seed=options.seed,
            allow_outside=options.allow_outside_audio,
            tick=lambda: report(1),
        )
    return _split_text(summary, options.by)


def _split_text(summary: SplitSummary, by: SplitBy) -> str:
    rows = [
        [
            str(part.path),
            str(part.utterances),
            f"{part.seconds / 3600:.3f}",
            "rest" if part.asked_seconds is None else f"{part.asked_seconds / 3600:.3f}",
            str(part.speakers),
        ]
        for part in summary.parts
    ]
    lines = [table(["Part", "Utterances", "Hours", "Asked", "Speakers"], rows)]
    kept_apart = "no speaker and no audio" if by == "speaker" else "no audio"
    lines.append(f"{kept_apart} is in two parts; {summary.left_out} utterances are in no part")
    if summary.shared_texts:
        lines.append(f"{len(summary.shared_texts)} utterances have a text that another part has too, the first:")
        lines += [f"  {leak.evaluation_id}: {leak.detail}" for leak in summary.shared_texts[:3]]
    return "\n".join(lines)


def sample(options: SampleOptions) -> str:
    """Draw and return what was written.

    Raises:
        InputError: as `sample_manifest`.
    """
    count = sample_manifest(
        options.input,
        options.output,
        samples=options.samples,
        hours=options.hours,
        balanced=options.balanced,
        seed=options.seed,
        allow_outside=options.allow_outside_audio,
    )
    return f"{options.output}: {count} utterances, seed {options.seed}"


def stats(options: StatsOptions) -> str:
    """Return the manifests as a Markdown table.

    Raises:
        InputError: as `describe`.
    """
    described = [describe(path, allow_outside=options.allow_outside_audio) for path in options.inputs]
    header = [
        "Manifest",
        "Utterances",
        "Hours",
        "Mean (s)",
        "Min (s)",
        "Max (s)",
        "Speakers",
        "Words",
        "Words/s",
        "Texts",
    ]
    return table(header, [_stats_row(one) for one in described])


def _stats_row(one: ManifestStats) -> list[str]:
    return [
        str(one.path),
        str(one.utterances),
        f"{one.seconds / 3600:.3f}",
        f"{one.seconds / one.utterances:.2f}",
        f"{one.shortest:.2f}",
        f"{one.longest:.2f}",
        "-" if one.speakers is None else str(one.speakers),
        str(one.words),
        f"{one.words / one.seconds:.2f}",
        str(one.distinct_texts),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
