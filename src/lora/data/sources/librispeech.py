"""LibriSpeech through the hub: configs, splits, and the corpus' own ids, speakers and chapters."""

from collections.abc import Iterator
from pathlib import Path

from lora.data.sources.base import Read
from lora.data.sources.columns import Columns
from lora.data.sources.hub import read_hub
from lora.data.sources.parquet_folder import has_one_config
from lora.data.sources.selection import Notes, Selection, TextMode
from lora.errors import SourceError

DATASET_ID = "openslr/librispeech_asr"
DEFAULT_CONFIG = "clean"
DEFAULT_TEXT_MODE: TextMode = "lower"
"""The corpus is ALL CAPS. Trained on as it is, a model that writes cased text would learn to write caps."""

SPLITS = {
    "clean": ("train.100", "train.360", "validation", "test"),
    "other": ("train.500", "validation", "test"),
    "all": (
        "train.clean.100",
        "train.clean.360",
        "train.other.500",
        "validation.clean",
        "validation.other",
        "test.clean",
        "test.other",
    ),
}
"""The splits of each config (source: the dataset card)."""

COLUMNS = Columns(audio="audio", text="text", speaker="speaker_id", id="id", extra=("chapter_id",))


def resolve_split(config: str | None, split: str | None) -> tuple[str, str]:
    """Return the config and the split that are meant, without any network.

    Config `clean` is meant unless given. A split in the form of config `all` (`test.clean`) is also understood
    beside config `clean` or `other`, as that config's own (`test`); without a config it says the config itself.

    Raises:
        SourceError: no such config, or no such split in it; the message lists the right ones.
    """
    if config is not None and config not in SPLITS:
        raise SourceError(f"LibriSpeech has no config {config!r}; expected one of {', '.join(SPLITS)}.")
    if split is not None and config != "all":
        own = _split_of_all(split)
        if own is not None and config in (None, own[0]):
            return own
    chosen = config or DEFAULT_CONFIG
    if split not in SPLITS[chosen]:
        got = "no split given" if split is None else f"no split {split!r} in config {chosen!r}"
        raise SourceError(
            f"LibriSpeech: {got}; expected one of {', '.join(SPLITS[chosen])}. The splits of every config:",
            [f"{name}: {', '.join(splits)}" for name, splits in SPLITS.items()],
        )
    return chosen, split


def _split_of_all(split: str) -> tuple[str, str] | None:
    """Return `("clean", "train.100")` for `train.clean.100`; None for anything that config `all` does not have."""
    if split not in SPLITS["all"]:
        return None
    part, config, *hours = split.split(".")
    return config, ".".join([part, *hours])


def read_librispeech(
    dataset: str | Path = DATASET_ID,
    *,
    split: str | None,
    config: str | None = None,
    selection: Selection | None = None,
    streaming: bool = True,
    revision: str | None = None,
    notes: Notes | None = None,
) -> Iterator[Read]:
    """Read LibriSpeech from the hub, or from a local folder of Parquet files in the hub's layout.

    Ids are the corpus' own (`1089-134686-0000`), speakers are integers, `chapter_id` is kept. Text is
    lower-cased unless `selection.text_mode` says otherwise.

    Raises:
        SourceError: wrong config or split (checked before any network), or a folder in another layout.
        SetupError: the hub cannot be reached.
    """
    chosen, own_split = resolve_split(config, split)
    # The folder of one config (`.../clean`) is laid out without configs; nothing else named one, so none is asked for.
    is_one_config = config is None and own_split == split and Path(dataset).is_dir() and has_one_config(Path(dataset))
    return read_hub(
        dataset,
        config=None if is_one_config else chosen,
        split=own_split,
        columns=COLUMNS,
        selection=selection or Selection(text_mode=DEFAULT_TEXT_MODE),
        streaming=streaming,
        revision=revision,
        notes=notes,
    )
