"""Any audio dataset of the Hugging Face hub, or a local folder in the hub's layout, read as a stream.

Audio bytes are decoded by soundfile: the column is cast to `Audio(decode=False)` after loading, so
neither torchcodec nor FFmpeg is needed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets.exceptions import DatasetNotFoundError

from lora.data.sources.base import Read
from lora.data.sources.columns import Columns, check_columns
from lora.data.sources.hub_rows import HubReader, explained
from lora.data.sources.parquet_folder import find_parquet_files
from lora.data.sources.selection import Notes, Selection, in_case
from lora.errors import SetupError, SourceError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_hub(
    dataset: str | Path,
    *,
    split: str | None,
    config: str | None = None,
    columns: Columns | None = None,
    selection: Selection | None = None,
    streaming: bool = True,
    revision: str | None = None,
    notes: Notes | None = None,
) -> Iterator[Read]:
    """Read clips of one split of a hub dataset, or of a local folder of Parquet files in the hub's layout.

    Everything that can be wrong before the first row (ids, config, split, columns, the network) raises
    here, not in the iterator. The draw depends on the data and `selection.seed` alone. From a stream it takes
    row groups in random order and draws from a buffer of `DRAW_BUFFER_BYTES`, so a long split is read in part
    and a clip's neighbours are likelier than others; without `streaming` the split is downloaded
    first and the draw is even. To balance speakers, the split is read twice: first for its speakers, then for the
    clips, which come in its order.

    Args:
        dataset: a hub id such as `openslr/librispeech_asr`, or a folder.
        revision: a commit, tag or branch of the hub dataset; pin it to repeat a draw.

    Raises:
        SourceError: no such dataset, config, split or column, or too few clips.
        SetupError: the hub cannot be reached, or asks for a token.
    """
    columns, selection, notes = columns or Columns(), selection or Selection(), notes or Notes()
    selection.check()
    if columns.speaker is None and (selection.speakers or selection.exclude_speakers or selection.balance_speakers):
        raise SourceError(f"{dataset}: speakers are chosen, but no column names them. Pass --speaker-column.")
    folder = Path(dataset) if isinstance(dataset, Path) or Path(dataset).is_dir() else None
    with explained(str(dataset)):
        if folder is None:
            table = _open_hub(str(dataset), config, split, streaming, revision)
            num_rows = _number_of_rows(table)
        else:
            files = find_parquet_files(folder, config, split)
            # Not load_dataset("parquet"): it tells the hub that a dataset was loaded, and waits without a network.
            table = datasets.Dataset.from_parquet([str(file) for file in files], streaming=streaming)
            num_rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
        name = f"{dataset} {split}" if config is None else f"{dataset} {config}/{split}"
        features = check_columns(table, columns, name)
        # After loading, never before: with decoding on, the first row asks for torchcodec.
        table = table.cast_column(columns.audio, datasets.Audio(decode=False))
    reader = HubReader(table, features, columns, selection, name, folder, notes, num_rows)
    return in_case(reader.clips(), selection.text_mode, name, notes)


def _number_of_rows(table: Any) -> int | None:
    """Return how many rows a split has; `None` where the hub does not say."""
    if not isinstance(table, datasets.IterableDataset):
        return len(table)
    split = (table.info.splits or {}).get(str(table.split))
    return None if split is None else split.num_examples or None


def _open_hub(dataset: str, config: str | None, split: str | None, streaming: bool, revision: str | None) -> Any:
    if not _HUB_ID.fullmatch(dataset):
        raise SourceError(f"{dataset}: no such folder, and not a hub dataset id such as `owner/name`. Check it.")
    try:
        builder = datasets.load_dataset_builder(dataset, config, revision=revision)
    except DatasetNotFoundError as error:
        if "gated" in str(error) or "authenticated" in str(error):
            raise SetupError(
                f"{dataset}: the hub asks who you are ({error}) Accept the dataset's terms there, then set HF_TOKEN."
            ) from error
        raise SourceError(
            f"{dataset}: no such dataset or revision on the hub. Check the id; for a private one set HF_TOKEN."
        ) from error
    except (FileNotFoundError, RuntimeError) as error:  # no data files at all; or a loading script
        raise SourceError(
            f"{dataset}: cannot be read ({error}). Expected data files on the hub (Parquet, audio), not a script."
        ) from error
    except ValueError as error:  # raised for a config that does not exist, and for several configs and none named
        names = datasets.get_dataset_config_names(dataset, revision=revision)
        if config in names:
            raise SourceError(f"{dataset}: cannot be opened ({error}).") from error
        raise SourceError(
            f"{dataset}: {'no config given' if config is None else f'no config {config!r}'}; "
            f"expected one of {', '.join(names)}. Pass --config."
        ) from error
    parts = list(builder.info.splits or builder.as_streaming_dataset())
    if split not in parts:
        got = "no split given" if split is None else f"no split {split!r}"
        raise SourceError(f"{dataset}: {got}; expected one of {', '.join(map(str, parts))}. Pass --split.")
    return datasets.load_dataset(dataset, config, split=split, streaming=streaming, revision=revision)
