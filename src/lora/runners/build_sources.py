"""Opening the source that the options name.

Each source is imported when it is opened: `datasets` alone takes half a second.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lora.data.sources.base import Read
from lora.data.sources.selection import Notes, Selection, TextMode, in_case, sift
from lora.errors import ConfigError, SourceError
from lora.runners.build_options import BuildOptions

ENDLESS_SAMPLES = 10**9
"""Asked of a source that makes its clips, when hours or lengths decide how many are taken."""


def open_source(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    """Return the clips that checked `options` describe; what is wrong with the source raises here.

    Raises:
        SourceError: the corpus, split, speaker or column does not exist, or rows are faulty.
        SetupError: the hub cannot be reached, or eSpeak NG is missing.
    """
    return _OPENERS[options.source](options, notes)


def _given(options: BuildOptions, *names: str) -> dict[str, Any]:
    """Return the options that were given, so that the sources' own defaults stay the only ones."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _selection(options: BuildOptions, text_mode: TextMode) -> Selection:
    selection = Selection(
        samples=options.wanted_samples,
        seed=options.seed,
        text_mode=options.text_mode or text_mode,
        balance_speakers=options.balance_speakers,
        skip_empty_text=options.skip_empty_text,
        skip_faults=options.skip_faults,
        speakers=None if options.speakers is None else tuple(options.speakers),
        exclude_speakers=tuple(options.exclude_speakers or ()),
        **_given(options, "min_seconds", "max_seconds", "hours"),
    )
    selection.check()
    return selection


def _open_fsdd(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.fsdd import list_speakers, read_fsdd

    assert options.path is not None  # both by check_options
    assert options.split is not None
    selection = _selection(options, "keep")
    indices = {} if options.indices is None else {"indices": _parse_indices(options.indices)}
    given = _given(options, "speakers", "min_digits", "max_digits") | indices
    if options.exclude_speakers is not None:
        present = options.speakers or list_speakers(options.path)
        given["speakers"] = _without(present, options.exclude_speakers, str(options.path))
    clips = read_fsdd(
        options.path,
        split=options.split,  # type: ignore[arg-type]
        samples=_made(selection),
        seed=options.seed,
        **given,
    )
    return _sifted(clips, selection, f"{options.path} {options.split}", notes)


def _open_synthetic(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.synthetic import read_synthetic, voices_of

    assert options.split is not None  # check_options
    selection = _selection(options, "keep")
    given = _given(options, "voices", "telephone", "noise_snr_db", "min_digits", "max_digits")
    if options.speakers is not None or options.exclude_speakers is not None:
        voices = list(voices_of(options.split, options.voices))  # type: ignore[arg-type]
        unknown = sorted(set(options.speakers or ()) - set(voices))
        if unknown:
            raise SourceError(f"synthetic: no speaker {', '.join(unknown)}; expected of {', '.join(voices)}.")
        given["voices"] = _without(options.speakers or voices, options.exclude_speakers or [], "synthetic")
    clips = read_synthetic(split=options.split, samples=_made(selection), seed=options.seed, **given)  # type: ignore[arg-type]
    return _sifted(clips, selection, f"synthetic {options.split}", notes)


def _made(selection: Selection) -> int:
    """Return how many clips to make: more than are taken where some are passed over."""
    return ENDLESS_SAMPLES if selection.needs_seconds or selection.samples is None else selection.samples


def _sifted(clips: Iterator[Read], selection: Selection, name: str, notes: Notes) -> Iterator[Read]:
    return in_case(sift(clips, selection, name, notes, endless=True), selection.text_mode, name, notes)


def _without(present: list[str], excluded: list[str], name: str) -> list[str]:
    unknown = sorted(set(excluded) - set(present))
    left = [speaker for speaker in present if speaker not in excluded]
    if unknown or not left:
        got = f"no speaker {', '.join(unknown)}" if unknown else "every speaker is excluded"
        raise SourceError(f"{name}: {got}; present are {', '.join(present)}.")
    return left


def _parse_indices(text: str) -> range:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ConfigError(f"--indices: got {text!r}, expected A-B with A <= B, for example 5-24.")
    return range(int(first), int(last) + 1)


def _open_librispeech(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.librispeech import DATASET_ID, DEFAULT_TEXT_MODE, read_librispeech, resolve_split

    resolve_split(options.config, options.split)
    return read_librispeech(
        options.path or DATASET_ID,
        split=options.split,
        selection=_selection(options, DEFAULT_TEXT_MODE),
        notes=notes,
        **_given(options, "config", "revision", "streaming"),
    )


def _open_hub(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.columns import Columns
    from lora.data.sources.hub import read_hub

    return read_hub(
        options.path or options.dataset_id or "",
        split=options.split,
        columns=Columns(**_named_columns(options)),  # type: ignore[arg-type]
        selection=_selection(options, "keep"),
        notes=notes,
        **_given(options, "config", "revision", "streaming"),
    )


def _named_columns(options: BuildOptions) -> dict[str, str]:
    named = _given(options, "audio_column", "text_column", "speaker_column", "id_column")
    return {name.removesuffix("_column"): column for name, column in named.items()}


def _local(
    options: BuildOptions, notes: Notes, *, columns: bool = True, text_mode: TextMode = "keep"
) -> dict[str, Any]:
    """Return the arguments that every reader of a local source has."""
    from lora.data.sources.tables import ColumnNames

    named = {"columns": ColumnNames(**_named_columns(options))} if columns else {}
    allow_outside = bool(options.allow_outside_audio)
    return {"selection": _selection(options, text_mode), "notes": notes, "allow_outside": allow_outside} | named


def _open_folder(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.folder import read_folder

    assert options.path is not None  # check_options
    given = _given(options, "speaker_folders")
    return read_folder(options.path, split=options.split, **_local(options, notes), **given)


def _open_csv(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.csv_table import read_csv

    assert options.path is not None  # check_options
    return read_csv(options.path, **_local(options, notes), **_given(options, "delimiter", "quotes"))


def _open_nemo(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.nemo import read_nemo

    assert options.path is not None  # check_options
    return read_nemo(options.path, **_local(options, notes))


def _open_librispeech_dir(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.librispeech_dir import DEFAULT_TEXT_MODE, read_librispeech_dir

    assert options.path is not None  # check_options
    given = _local(options, notes, columns=False, text_mode=DEFAULT_TEXT_MODE)
    return read_librispeech_dir(options.path, split=options.split, **given)


def _open_common_voice(options: BuildOptions, notes: Notes) -> Iterator[Read]:
    from lora.data.sources.common_voice import read_common_voice

    assert options.path is not None  # check_options
    return read_common_voice(options.path, split=options.split, **_local(options, notes))


_OPENERS: Mapping[str, Callable[[BuildOptions, Notes], Iterator[Read]]] = {
    "librispeech": _open_librispeech,
    "hub": _open_hub,
    "folder": _open_folder,
    "csv": _open_csv,
    "nemo": _open_nemo,
    "librispeech-dir": _open_librispeech_dir,
    "common-voice": _open_common_voice,
    "fsdd": _open_fsdd,
    "synthetic": _open_synthetic,
}
