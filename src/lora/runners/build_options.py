"""What to build: the options of `build-manifest`, and which source has which."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora.config import option
from lora.errors import ConfigError

SourceName = Literal[
    "librispeech", "hub", "folder", "csv", "nemo", "librispeech-dir", "common-voice", "fsdd", "synthetic"
]

LOCAL_SOURCES = ("folder", "csv", "nemo", "librispeech-dir", "common-voice")
GENERATED_SOURCES = ("fsdd", "synthetic")

DEFAULT_SAMPLES = 100
"""Of a source that is endless or would be downloaded; a local source gives all its clips."""
DEFAULT_SEED = 42


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build. An option that the source does not have must be left out (None)."""

    output: Path = option(help="manifest to write; audio goes to <stem>_audio-<hash>/ beside it")
    source: SourceName = option("librispeech", help="kind of corpus")
    path: Path | None = option(
        None,
        help="folder or table of the corpus; for librispeech and hub, Parquet files in the hub's layout (no network)",
    )
    dataset_id: str | None = option(None, help="hub: dataset id, for example owner/name")
    config: str | None = option(
        None, help="librispeech: clean, other or all (clean unless given); hub: the dataset's config"
    )
    split: str | None = option(
        None,
        help="part of the corpus; a wrong one lists the right ones (common-voice: train unless given; folder: a "
        "subfolder)",
    )
    samples: int | Literal["all"] | None = option(
        None,
        help="number of utterances, drawn by --seed, or all (unless given: all of a local source, "
        f"{DEFAULT_SAMPLES} of librispeech, hub, fsdd and synthetic where --hours is not given either)",
    )
    hours: float | None = option(None, help="at most so many hours, drawn by --seed; with --samples the first reached")
    balance_speakers: bool = option(
        False, help="draw speakers in turn, by --samples or --hours (fsdd and synthetic always do)"
    )
    min_seconds: float | None = option(None, help="pass over shorter clips")
    max_seconds: float | None = option(None, help="pass over longer clips")
    speakers: list[str] | None = option(None, help="take these speakers only")
    exclude_speakers: list[str] | None = option(None, help="take none of these speakers")
    skip_empty_text: bool = option(False, help="pass over rows without words, and count them, instead of refusing them")
    skip_faults: int = option(
        0, help="build without rows and clips that cannot be used where they are at most so many; they are listed"
    )
    text_mode: Literal["keep", "lower", "auto"] | None = option(
        None,
        help="case of the text; auto lowers a source that is ALL CAPS (unless given: lower for LibriSpeech, which is, "
        "keep for others)",
    )
    seed: int = option(DEFAULT_SEED, help="the same seed gives the same manifest")
    embed_audio: bool = option(False, help="write waveforms into the manifest instead of FLAC files beside it")
    workers: int | None = option(
        None, help="threads that decode and encode (one a processor, at most 8, unless given); the result is the same"
    )
    audio_column: str | None = option(
        None, help="column of the audio (hub, csv: audio; nemo: audio_filepath; folder: file_name; common-voice: path)"
    )
    text_column: str | None = option(
        None, help="column of the transcript (text unless given; folder also transcription; common-voice: sentence)"
    )
    speaker_column: str | None = option(
        None, help="column of the speaker (tables: speaker_id where present; common-voice: client_id; hub: none)"
    )
    id_column: str | None = option(
        None, help="column of the id (tables: id where present, else made from the path; hub: a content hash)"
    )
    delimiter: str | None = option(None, help="csv: what separates values (.csv comma, .tsv tab, unless given)")
    quotes: bool | None = option(None, help="csv: whether values may be quoted (they may unless --no-quotes)")
    speaker_folders: bool | None = option(None, help="folder: the first subfolder names the speaker")
    allow_outside_audio: bool | None = option(
        None, help="local sources: accept absolute paths, `..` and links out of the corpus' folder"
    )
    indices: str | None = option(None, help="fsdd: recordings A-B of the split, for example 5-24")
    voices: list[str] | None = option(
        None, help="synthetic: accents (en-us) or voices (en-us+f3); all of the split unless given"
    )
    telephone: bool | None = option(None, help="synthetic: keep 300 to 3400 Hz only")
    noise_snr_db: float | None = option(None, help="synthetic: add noise at this signal-to-noise ratio")
    min_digits: int | None = option(None, help="fsdd, synthetic: fewest digits in an utterance (3 unless given)")
    max_digits: int | None = option(None, help="fsdd, synthetic: most digits in an utterance (7 unless given)")
    revision: str | None = option(
        None, help="librispeech, hub: commit or tag of the hub dataset; pin it to repeat a draw"
    )
    streaming: bool | None = option(
        None, help="librispeech, hub: read as a stream (default) or download the split first"
    )

    @property
    def wanted_samples(self) -> int | None:
        """Return how many clips to take; `None` is all, or as many as --hours allows."""
        if self.samples is not None:
            return None if self.samples == "all" else self.samples
        return None if self.source in LOCAL_SOURCES or self.hours is not None else DEFAULT_SAMPLES


_SHARED = {
    "output", "source", "samples", "hours", "balance_speakers", "min_seconds", "max_seconds", "speakers",
    "exclude_speakers", "skip_empty_text", "skip_faults", "text_mode", "seed", "embed_audio", "workers",
}  # fmt: skip
_HUB = {"path", "config", "split", "revision", "streaming"}
_COLUMNS = {"audio_column", "text_column", "speaker_column", "id_column"}
_LOCAL = {"path", "allow_outside_audio"}
_OWN_OPTIONS: Mapping[str, set[str]] = {
    "librispeech": _HUB,
    "hub": _HUB | _COLUMNS | {"dataset_id"},
    "folder": _LOCAL | _COLUMNS | {"split", "speaker_folders"},
    "csv": _LOCAL | _COLUMNS | {"delimiter", "quotes"},
    "nemo": _LOCAL | _COLUMNS,
    "librispeech-dir": _LOCAL | {"split"},
    "common-voice": _LOCAL | _COLUMNS | {"split"},
    "fsdd": {"path", "split", "indices", "min_digits", "max_digits"},
    "synthetic": {"split", "voices", "telephone", "noise_snr_db", "min_digits", "max_digits"},
}
_SPLITS = {"fsdd": ("train", "test"), "synthetic": ("train", "validation", "test")}


def check_options(options: BuildOptions) -> None:
    """Raise ConfigError, listing every option that the source does not have, lacks, or cannot use."""
    source = options.source
    problems = [
        f"{_flag(name)} does not belong to --source {source}; it is for {', '.join(_sources_of(name))}"
        for name, value in dataclasses.asdict(options).items()
        if name not in _SHARED | _OWN_OPTIONS[source] and value is not None
    ]
    if source in ("fsdd", *LOCAL_SOURCES) and options.path is None:
        what = "the folder of the Free Spoken Digit Dataset" if source == "fsdd" else "the corpus' folder or table"
        problems.append(f"--path is missing; expected {what}")
    if source == "hub" and (options.path is None) == (options.dataset_id is None):
        problems.append("expected either --dataset-id (on the hub) or --path (a local folder)")
    if source in _SPLITS and options.split is None:
        problems.append(f"--split is missing; expected one of {', '.join(_SPLITS[source])}")
    if options.path is not None and options.revision is not None:
        problems.append("--revision is a version on the hub; it cannot be used with --path")
    problems += _wrong_values(options)
    if problems:
        raise ConfigError(f"--source {source}: {len(problems)} wrong option(s)", problems)


def _wrong_values(options: BuildOptions) -> list[str]:
    problems: list[str] = []
    if isinstance(options.samples, int) and options.samples < 1:
        problems.append(f"--samples: got {options.samples}, expected at least 1")
    if options.source in GENERATED_SOURCES and options.wanted_samples is None and options.hours is None:
        problems.append(f"--samples: got all, but {options.source} is endless; expected a number, or --hours")
    if options.hours is not None and not 0 < options.hours < float("inf"):
        problems.append(f"--hours: got {options.hours}, expected more than 0")
    if options.workers is not None and not 1 <= options.workers <= 256:
        problems.append(f"--workers: got {options.workers}, expected 1 to 256")
    if options.balance_speakers and options.wanted_samples is None and options.hours is None:
        problems.append("--balance-speakers: expected --samples or --hours with it")
    if options.skip_faults < 0:
        problems.append(f"--skip-faults: got {options.skip_faults}, expected 0 or more")
    if options.seed < 0:
        problems.append(f"--seed: got {options.seed}, expected 0 or more")
    return problems


def _sources_of(name: str) -> list[str]:
    return [source for source, names in _OWN_OPTIONS.items() if name in names]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
