"""LibriSpeech as unpacked from OpenSLR: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt` and FLAC."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lora.data.sources.base import Read
from lora.data.sources.rows import Fault, LocalSource, Row
from lora.data.sources.selection import Notes, Selection, TextMode
from lora.errors import SourceError

DEFAULT_TEXT_MODE: TextMode = "lower"
"""The corpus is ALL CAPS, as on the hub."""

ID = re.compile(r"(?P<speaker>\d+)-(?P<chapter>\d+)-\d+")


def read_librispeech_dir(
    path: Path, *, split: str | None, selection: Selection, notes: Notes, allow_outside: bool = False
) -> Iterator[Read]:
    """Read clips of an unpacked LibriSpeech archive, with the corpus' own ids, speakers and chapters.

    Where SPEAKERS.TXT is there, each speaker must be in it.

    Args:
        path: the folder `LibriSpeech`, or that of one subset.
        split: subset such as `dev-clean`; needed where the folder has several.

    Raises:
        SourceError: another layout, no such subset, or every fault of the rows at once.
    """
    folder = _find_subset(path, split)
    speakers = _read_speakers([folder, folder.parent])
    listing = partial(_list_rows, folder, speakers)
    return LocalSource(str(folder), folder, listing, allow_outside).open(selection, notes)


def _find_subset(path: Path, split: str | None) -> Path:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder; expected LibriSpeech as unpacked. Check the path.")
    if next(path.glob("*/*/*.trans.txt"), None) is not None:
        if split in (None, path.name):
            return path
        raise SourceError(f"{path}: is the subset {path.name!r}, not {split!r}. Leave out --split, or give its parent.")
    subsets = sorted({file.parents[2].name for file in path.glob("*/*/*/*.trans.txt")})
    if not subsets:
        raise SourceError(
            f"{path}: no transcripts; expected <subset>/<speaker>/<chapter>/*.trans.txt, as LibriSpeech unpacks."
        )
    if split is None and len(subsets) == 1:
        return path / subsets[0]
    if split not in subsets:
        got = "no subset given" if split is None else f"no subset {split!r}"
        raise SourceError(f"{path}: {got}; expected one of {', '.join(subsets)}. Pass --split.")
    return path / split


def _read_speakers(folders: list[Path]) -> set[int] | None:
    """Return the speaker ids of SPEAKERS.TXT; `None` where there is no such file."""
    for folder in folders:
        file = folder / "SPEAKERS.TXT"
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            first = [line.partition("|")[0].strip() for line in lines if not line.startswith(";")]
            return {int(value) for value in first if value.isdecimal()}
    return None


def _list_rows(folder: Path, speakers: set[int] | None) -> Iterator[Row | Fault]:
    for speaker in _folders(folder):
        for chapter in _folders(speaker):
            transcripts = sorted(chapter.glob("*.trans.txt"))
            if not transcripts and next(chapter.glob("*.flac"), None) is not None:
                yield Fault(f"{chapter}: FLAC files without a .trans.txt. Unpack the archive again.")
            listed: set[str] = set()
            for file in transcripts:
                for row in _read_transcript(file, f"{speaker.name}/{chapter.name}", speakers):
                    listed.add("" if isinstance(row, Fault) else Path(row.audio).name)
                    yield row
            for file in sorted(chapter.glob("*.flac")) if transcripts else []:
                if file.name not in listed:
                    yield Fault(f"{file}: has no line in {transcripts[0].name}. Unpack the archive again.")


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


def _read_transcript(file: Path, under: str, speakers: set[int] | None) -> Iterator[Row | Fault]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        yield Fault(f"{file}: not UTF-8 ({error.reason}). Unpack the archive again.")
        return
    for number, line in enumerate(lines, start=1):
        place = f"{file}:{number}"
        identifier, _, text = line.partition(" ")
        match = ID.fullmatch(identifier)
        if match is None:
            yield Fault(
                f"{place}: starts with {identifier!r:.40}; expected an id such as 1089-134686-0000 and the text."
            )
        elif speakers is not None and int(match["speaker"]) not in speakers:
            yield Fault(f"{place}: speaker {match['speaker']} is not in SPEAKERS.TXT. Unpack the archive again.")
        else:
            extra = {"chapter_id": int(match["chapter"])}
            yield Row(place, f"{under}/{identifier}.flac", text, identifier, int(match["speaker"]), extra=extra)
