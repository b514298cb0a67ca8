"""Manifests and their audio as one thing: folders that are named by what is in them.

The audio of `m.jsonl` lies in `m_audio-<16 hex digits>/` beside it; the digits are a hash of the names and bytes in it.
Such a folder appears by one rename and is never changed, and the manifest that names it is written last, also by one
rename. So whatever is killed, a manifest and the audio that it names belong together. An older folder stays: other
manifests may name it, too.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lora.console import PlainConsole
from lora.errors import ConfigError
from lora.files import folder_beside, link_or_copy, sha256_file, shortened, writing
from lora.outputs import is_no_obstacle, output_file

_NAME = re.compile(r".+_audio-(?P<digest>[0-9a-f]{16})", re.DOTALL)
_NAMED_IN_MANIFEST = re.compile(rb"_audio-([0-9a-f]{16})")

_console = PlainConsole()


def audio_folder_of(output: Path, hashes: Mapping[str, str]) -> Path:
    """Return the folder beside the manifest `output` for files of these names and SHA-256."""
    return output.with_name(f"{shortened(output.stem)}_audio-{_digest_of(hashes)}")


def _digest_of(hashes: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(hashes):
        digest.update(f"{hashes[name]} {name}\n".encode())
    return digest.hexdigest()[:16]


def digest_in_name(folder: Path) -> str | None:
    """Return the hash that is in a folder's name; `None` where the name is not one of ours."""
    found = _NAME.fullmatch(folder.name)
    return None if found is None else found["digest"]


def is_intact(folder: Path) -> bool:
    """Tell whether a folder with such a name holds what its name says, and else only what file managers leave."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    hashes: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                return False
        paths = (Path(parent) / name for name in files)
        hashes |= {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths if not is_no_obstacle(path)}
    return _digest_of(hashes) == digest_in_name(folder)


def named_digests(manifest: Path) -> set[str]:
    """Return the hashes of all audio folders that a manifest's rows may name; of a text that says so, too."""
    with manifest.open("rb") as file:
        return {found.decode() for line in file for found in _NAMED_IN_MANIFEST.findall(line)}


def publish(
    output: Path, audio: Path, hashes: Mapping[str, str], lines: Callable[[str], Iterable[bytes]], *, keep: bool = False
) -> None:
    """Put a manifest and its audio in their places, the audio first.

    Args:
        audio: a folder on the same file system that holds the files of `hashes`, which have no subfolders, and
            nothing else; not looked at where there are none.
        lines: given the name of the audio folder, returns the manifest's rows.
        keep: leave `audio` as it is: its files get a second name, or are copied where the file system has no links.

    Raises:
        ConfigError: what is at the manifest's place is not ours, or the audio folder's name is taken.
        SetupError: something cannot be written.
    """
    output = output.resolve()
    folder = audio_folder_of(output, hashes)
    if hashes:
        with writing(folder):
            _place(audio, folder, hashes, keep=keep)
    before = named_digests(output) if output.is_file() else set()
    with output_file(output) as file:
        for line in lines(folder.name):
            file.write(line)
    for digest in sorted(before - named_digests(output)):
        for left in sorted(output.parent.glob(f"*_audio-{digest}")):
            _console.print(
                f"{left}: {output.name} does not name it any more. `moonshine-lora clean` removes such folders where "
                "no other manifest does."
            )


def _place(audio: Path, folder: Path, names: Iterable[str], *, keep: bool) -> None:
    if os.path.lexists(folder):
        if not is_intact(folder):
            raise ConfigError(
                f"{folder}: is not what its name says; a file in it was changed, added or removed. Move it away, and "
                "run the same command again."
            )
    elif keep:
        with folder_beside(folder) as stage:
            for name in names:
                link_or_copy(audio / name, stage / name)
            stage.rename(folder)
    else:
        audio.rename(folder)
