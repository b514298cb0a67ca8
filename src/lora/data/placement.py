"""Writing a manifest out of other manifests: audio stays where it is, is copied, or is new.

Audio under the new manifest's folder is referred to; other files are copied into `<stem>_audio-<hash>/` beside it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora.data.audio_folder import audio_folder_of, publish
from lora.data.manifest import Utterance, manifest_line
from lora.errors import AudioError, ConfigError, ManifestError
from lora.files import folder_beside, link_or_copy, sha256_bytes, sha256_file, to_json
from lora.outputs import check_file
from lora.units import JsonObject

ORIGIN_KEY = "origin"
_HERE, _PLACED = b"=", b"+"


@dataclass(frozen=True)
class NewAudio:
    """An utterance whose audio is `data`, a file's bytes; `suffix` is the file's, for example `.flac`."""

    utterance: Utterance
    data: bytes
    suffix: str = ".flac"


def with_origin(utterance: Utterance, manifest: Path, **more: object) -> JsonObject:
    """Return the row's other keys with where it came from: the manifest's name and its id there.

    An origin that the row already has is kept inside the new one.
    """
    origin: JsonObject = {"manifest": manifest.name, "id": utterance.id, **more}
    if ORIGIN_KEY in utterance.extra:
        origin[ORIGIN_KEY] = utterance.extra[ORIGIN_KEY]
    return {**utterance.extra, ORIGIN_KEY: origin}


def write_placed(output: Path, entries: Iterable[Utterance | NewAudio], *, link: bool = False) -> int:
    """Write a manifest and the audio that it needs beside it, so that the two always belong together.

    Args:
        link: audio from elsewhere gets a second name where the file system can, instead of being copied.

    Returns:
        How many audio files were written.

    Raises:
        ManifestError: no utterances.
        ConfigError, SetupError: as `lora.outputs.check_file`, before anything is read; something cannot be written.
    """
    with drafted(output, entries, link=link) as draft:
        draft.publish()
    return len(draft.hashes)


def write_placed_together(manifests: Mapping[Path, Iterable[Utterance | NewAudio]]) -> None:
    """Write manifests that belong together, as `write_placed`; what is there of them must have the same bytes.

    So a writer that is killed between two of them leaves no old one beside a new one, and the next one finishes.

    Raises:
        ConfigError: every manifest that is there and differs, before any is written; and as `write_placed`.
    """
    with ExitStack() as stack:
        drafts = [stack.enter_context(drafted(output, entries)) for output, entries in manifests.items()]
        others = [one.output for one in drafts if one.output.exists() and one.sha256() != sha256_file(one.output)]
        if others:
            raise ConfigError(
                "other manifests of these names are there, of another seed, other options or another input; old and "
                "new parts are never mixed. Move the old ones away, or choose another folder",
                [str(path) for path in others],
            )
        for draft in drafts:
            draft.publish()


@contextmanager
def drafted(output: Path, entries: Iterable[Utterance | NewAudio], *, link: bool = False) -> Iterator["Draft"]:
    """Yield the manifest `output` with its audio, whole in a hidden folder, until it is published."""
    check_file(output)
    target = output.resolve()
    with folder_beside(target) as stage:
        draft = Draft(target, stage, link=link)
        draft.fill(entries)
        yield draft


class Draft:
    """A manifest and its audio that are not in their places yet. `hashes` are those of the audio files by name."""

    def __init__(self, output: Path, stage: Path, *, link: bool) -> None:
        self.output = output
        self.hashes: dict[str, str] = {}
        self._link = link
        self._root = output.parent.resolve()
        self._rows = stage / "rows"
        self._audio = stage / "audio"
        self._taken: set[str] = set()

    def fill(self, entries: Iterable[Utterance | NewAudio]) -> None:
        """Write every row, and the audio that is not under the manifest's folder."""
        self._audio.mkdir()
        with self._rows.open("wb") as file:
            for entry in entries:
                utterance = entry.utterance if isinstance(entry, NewAudio) else entry
                name = self._store(entry)
                line = manifest_line(utterance, self.output, self._root, audio=name)
                file.write((_HERE if name is None else _PLACED) + line)
            if not file.tell():
                raise ManifestError(f"{self.output}: no utterances to write.")

    def publish(self) -> None:
        """Put the audio and then the manifest in their places."""
        publish(self.output, self._audio, self.hashes, self._lines)

    def sha256(self) -> str:
        """Return the hash of the manifest's bytes as they will be."""
        digest = hashlib.sha256()
        for line in self._lines(audio_folder_of(self.output, self.hashes).name):
            digest.update(line)
        return digest.hexdigest()

    def _lines(self, folder: str) -> Iterator[bytes]:
        with self._rows.open("rb") as file:
            for line in file:
                if line.startswith(_HERE):
                    yield line[1:]
                    continue
                row = json.loads(line[1:])
                row["audio"] = f"{folder}/{row['audio']}"
                yield to_json(row, indent=None).encode("utf-8") + b"\n"

    def _store(self, entry: Utterance | NewAudio) -> str | None:
        """Write the audio of an entry that is new or lies elsewhere; return its name."""
        if isinstance(entry, NewAudio):
            name = self._name(entry.utterance.id, entry.suffix)
            (self._audio / name).write_bytes(entry.data)
            self.hashes[name] = sha256_bytes(entry.data)
            return name
        if not isinstance(entry.audio, Path) or entry.audio.is_relative_to(self._root):
            return None
        name = self._name(entry.id, entry.audio.suffix.lower())
        self._bring(entry.audio, name, entry.file_name)
        self.hashes[name] = sha256_file(self._audio / name)
        return name

    def _bring(self, source: Path, name: str, called: str) -> None:
        if self._link:
            link_or_copy(source.resolve(), self._audio / name)
            return
        try:
            opened = source.open("rb")
        except OSError as error:
            raise AudioError(f"{called}: cannot be read ({error.strerror}). Correct its permissions.") from error
        with opened, (self._audio / name).open("wb") as copy:
            shutil.copyfileobj(opened, copy, 2**20)

    def _name(self, identifier: str, suffix: str) -> str:
        """Return a portable file name, made of the id where that can be; unique where case does not count."""
        stem = re.sub(r"[^A-Za-z0-9_+=@-]", "_", identifier)[:100]
        if stem != identifier or stem.casefold() in self._taken:
            stem = f"{stem}-{hashlib.sha256(identifier.encode()).hexdigest()[:10]}"
        self._taken.add(stem.casefold())
        return stem + suffix
