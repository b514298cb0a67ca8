"""Build a manifest from a source: check the options, open the source, write, sum up."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from lora.data.sources.base import build_clips
from lora.data.sources.folder import METADATA
from lora.data.sources.selection import FAULTY, Notes
from lora.data.sources.tables import TABLE_SUFFIXES
from lora.errors import ConfigError
from lora.files import to_json
from lora.outputs import check_file
from lora.runners.build_options import BuildOptions, SourceName, check_options
from lora.runners.build_sources import open_source
from lora.runners.progress import progress_bar
from lora.units import Seconds

__all__ = ["BuildOptions", "BuildSummary", "SourceName", "build_manifest", "check_options"]


@dataclass(frozen=True)
class BuildSummary:
    """What was written. `speakers` is None where the source names none; `notes` says what was left out or changed."""

    path: Path
    utterances: int
    seconds: Seconds
    speakers: int | None
    notes: str = ""

    def __str__(self) -> str:
        speakers = "no speaker ids" if self.speakers is None else f"{self.speakers} speaker(s)"
        line = f"{self.path}: {self.utterances} utterances, {self.seconds / 3600:.3f} hours, {speakers}"
        return f"{self.notes}\n{line}" if self.notes else line


def build_manifest(options: BuildOptions) -> BuildSummary:
    """Build the manifest that `options` describe; the same options go on from a build that was stopped.

    Raises:
        ConfigError: options that contradict each other or the source, all of them listed; or an output that is not
            ours, is read, or would be read by the same command again.
        SourceError: the corpus, split, speaker or column does not exist, or rows are faulty.
        SetupError: the hub cannot be reached, or eSpeak NG is missing.
    """
    check_options(options)
    check_output(options)
    notes = Notes()
    clips = open_source(options, notes)
    written = build_clips(
        clips,
        options.output,
        embed_audio=options.embed_audio,
        total=options.wanted_samples if notes.total is None else notes.total,
        workers=options.workers,
        build_key=build_key(options),
        skip_faults=options.skip_faults - notes.left_out[FAULTY],
        progress=progress_bar,
    )
    notes.leave_out(written.faults)
    if written.reused:
        notes.lines.insert(0, f"resumed: {written.reused} of {written.utterances} clips were there")
    return BuildSummary(written.path, written.utterances, written.seconds, len(written.speakers) or None, str(notes))


def check_output(options: BuildOptions) -> None:
    """Refuse an output that is not ours, that is read, or that the same command would read the next time.

    Raises:
        ConfigError: it is.
        SetupError: no file can be made there.
    """
    path = options.path
    if path is None:
        check_file(options.output)
        return
    folder = path / (options.split or "") if options.source == "folder" else path
    tables = [folder / name for name in METADATA]
    check_file(options.output, [path, *tables])
    reads_all = options.source == "folder" and not any(table.is_file() for table in tables)
    reads_tables = options.source in ("csv", "nemo") and options.output.suffix.lower() in TABLE_SUFFIXES
    if folder.is_dir() and (reads_all or reads_tables) and options.output.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{options.output}: lies in {folder}, which is read: the next run would take it for a part of the source. "
            "Give an --output outside."
        )


def build_key(options: BuildOptions) -> str:
    """Return a hash of every option that decides what is written; the path is resolved."""
    values = dataclasses.asdict(options) | {"path": None if options.path is None else str(options.path.resolve())}
    decisive = {name: value for name, value in values.items() if name not in ("output", "workers", "skip_faults")}
    return hashlib.sha256(to_json(decisive, indent=None).encode("utf-8", "surrogateescape")).hexdigest()
