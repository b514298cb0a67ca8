"""Writing a manifest out of other manifests: audio stays where it is, is copied, or is new.

Audio under the new manifest's folder is referred to; other files are copied into `<stem>_audio/` beside it.
"""

import hashlib
import re
import shutil
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from lora.data.manifest import Utterance, write_manifest
from lora.errors import ManifestError
from lora.outputs import output_folder
from lora.units import JsonObject

ORIGIN_KEY = "origin"


@dataclass(frozen=True)
class NewAudio:
    """An utterance whose audio is `data`, a file's bytes; `suffix` is the file's, for example `.flac`."""

    utterance: Utterance
    data: bytes
    suffix: str = ".flac"


def audio_folder(output: Path) -> Path:
    """Return the folder beside the manifest `output` that holds its own audio."""
    return output.parent / f"{output.stem}_audio"


def with_origin(utterance: Utterance, manifest: Path, **more: object) -> JsonObject:
    """Return the row's other keys with where it came from: the manifest's name and its id there.

    An origin that the row already has is kept inside the new one.
    """
    origin: JsonObject = {"manifest": manifest.name, "id": utterance.id, **more}
    if ORIGIN_KEY in utterance.extra:
        origin[ORIGIN_KEY] = utterance.extra[ORIGIN_KEY]
    return {**utterance.extra, ORIGIN_KEY: origin}


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs or a folder: a manifest is never changed in place.

    Raises:
        ManifestError: it is.
    """
    if output.is_dir():
        raise ManifestError(f"{output}: is a folder; expected the path of a manifest file. Give a file name.")
    for path in inputs:
        if path.resolve() == output.resolve():
            raise ManifestError(
                f"{output}: is also an input, and no manifest is changed in place. Give another --output."
            )


def write_placed(output: Path, entries: Iterable[Utterance | NewAudio]) -> int:
    """Write a manifest and the audio that it needs beside it; both appear at the end, or nothing does.

    Returns:
        How many audio files were written.

    Raises:
        ManifestError: no utterances, or audio that lies in the folder which is to be replaced.
    """
    placer = _Placer(output)
    with closing(placer.place(entries)) as utterances:
        write_manifest(output, utterances)
    return placer.count


class _Placer:
    def __init__(self, output: Path) -> None:
        self.count = 0
        self._root = output.parent.resolve()
        self._folder = audio_folder(output)
        self._target = self._folder.resolve()
        self._taken: set[str] = set()

    def place(self, entries: Iterable[Utterance | NewAudio]) -> Generator[Utterance, None, None]:
        with ExitStack() as stack:
            stage: Path | None = None
            for entry in entries:
                utterance = entry.utterance if isinstance(entry, NewAudio) else entry
                if not isinstance(entry, NewAudio) and not self._is_away(entry):
                    yield utterance
                    continue
                if stage is None:  # No folder appears where none is needed.
                    stage = stack.enter_context(output_folder(self._folder))
                yield self._store(entry, utterance, stage)

    def _is_away(self, utterance: Utterance) -> bool:
        if not isinstance(utterance.audio, Path):
            return False
        if utterance.audio.is_relative_to(self._target):
            raise ManifestError(
                f"{utterance.place}: {utterance.audio.name} lies in {self._folder}, which the new audio replaces. "
                "Give another --output."
            )
        return not utterance.audio.is_relative_to(self._root)

    def _store(self, entry: Utterance | NewAudio, utterance: Utterance, stage: Path) -> Utterance:
        if isinstance(entry, NewAudio):
            name = self._name(utterance.id, entry.suffix)
            (stage / name).write_bytes(entry.data)
        else:
            assert isinstance(entry.audio, Path)  # only files are away
            name = self._name(utterance.id, entry.audio.suffix.lower())
            shutil.copyfile(entry.audio, stage / name)
        self.count += 1
        return replace(utterance, audio=self._target / name, sampling_rate=None)

    def _name(self, identifier: str, suffix: str) -> str:
        """Return a portable file name, made of the id where that can be; unique where case does not count."""
        stem = re.sub(r"[^A-Za-z0-9_+=@-]", "_", identifier)[:100]
        if stem != identifier or stem.casefold() in self._taken:
            stem = f"{stem}-{hashlib.sha256(identifier.encode()).hexdigest()[:10]}"
        self._taken.add(stem.casefold())
        return stem + suffix
