"""Finding configs and splits in a local folder of Parquet files, laid out as on the hub.

`datasets` guesses splits of a local folder from words in file names: `train.100` becomes `train`, and the
splits of several configs are mixed. The layouts are few, so they are read exactly here.
"""

import re
from pathlib import Path

from lora.errors import SourceError

DEFAULT_CONFIG = "default"
"""The config of files that lie in no config's folder."""

_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_NUMBER = re.compile(r"\d{4}")

SplitFiles = dict[str, list[Path]]


def list_parquet_splits(folder: Path) -> dict[str, SplitFiles]:
    """Return the Parquet files of each config and split.

    Understood are `<config>/<split>-00000-of-00001.parquet` (config `default` when there is no folder, or it is
    named `data`), `<config>/<split>/0000.parquet` (the hub's own conversion) and `<split>.parquet`.
    """
    found: dict[str, SplitFiles] = {}
    for file in sorted(folder.rglob("*.parquet")):
        parents = list(file.relative_to(folder).parent.parts)
        if any(part.startswith(".") for part in parents):
            continue
        shard = _SHARD.fullmatch(file.stem)
        if shard:
            split = shard["split"]
        elif _NUMBER.fullmatch(file.stem) and parents:
            split = parents.pop()
        else:
            split = file.stem
        config = "/".join(part for part in parents if part != "data") or DEFAULT_CONFIG
        found.setdefault(config, {}).setdefault(split, []).append(file)
    return found


def has_one_config(folder: Path) -> bool:
    """Tell whether the folder is laid out without configs: `<split>-00000-of-00001.parquet` directly in it."""
    return set(list_parquet_splits(folder)) == {DEFAULT_CONFIG}


def find_parquet_files(folder: Path, config: str | None, split: str | None) -> list[Path]:
    """Return the files of one split; a folder with a single config needs none named.

    Raises:
        SourceError: no folder, no Parquet files, or no such config or split; the message lists the right ones.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder. Check the path.")
    found = list_parquet_splits(folder)
    if not found:
        raise SourceError(
            f"{folder}: no Parquet files; expected the hub's layout, for example "
            "clean/test-00000-of-00001.parquet. Download the dataset's Parquet files into it."
        )
    listed = [f"{name}: {', '.join(splits)}" for name, splits in found.items()]
    if config is None and len(found) > 1:
        raise SourceError(f"{folder}: no config given; expected one of {', '.join(found)}. The folder holds:", listed)
    chosen = next(iter(found)) if config is None else config
    if chosen not in found:
        raise SourceError(
            f"{folder}: no config {config!r}; expected one of {', '.join(found)}. The folder holds:", listed
        )
    splits = found[chosen]
    if split not in splits:
        got = "no split given" if split is None else f"no split {split!r}"
        raise SourceError(f"{folder}: {got}; expected one of {', '.join(splits)}. The folder holds:", listed)
    return splits[split]
