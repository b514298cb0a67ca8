"""Files in the hub's Parquet layout, written for a test."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

Row = dict[str, Any]


class Corpus:
    """A folder in the hub's layout; every row number has audio of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def flac(self, frequency_hz: int, seconds: float = 0.25, rate: int = 16_000) -> bytes:
        """Return a tone as FLAC bytes."""
        wave = 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
        return buffer.getvalue()

    def row(self, number: int, **changes: Any) -> Row:
        """Return a row with the columns of LibriSpeech."""
        name = f"1089-134686-{number:04d}"
        return {
            "file": f"{name}.flac",
            "audio": {"bytes": self.flac(200 + 10 * number), "path": f"{name}.flac"},
            "text": f"HE HOPED FOR STEW NUMBER {number}",
            "speaker_id": 1000 + number % 3,
            "chapter_id": 134686,
            "id": name,
        } | changes

    def write(
        self, name: str, rows: Sequence[Row], *, row_group_size: int = 2, audio_type: bool = True, **types: Any
    ) -> Path:
        """Write rows as one Parquet file and return the corpus' folder.

        With `audio_type` the file's metadata says `Audio`, as on the hub; without, it has plain Arrow types.
        """
        import datasets
        import pyarrow
        import pyarrow.parquet

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.Table.from_pylist(list(rows))
        audio = {"audio": datasets.Audio()} if audio_type else {}
        features = datasets.Features.from_arrow_schema(table.schema) | audio | types
        schema = datasets.Features(features).arrow_schema
        pyarrow.parquet.write_table(table.cast(schema), path, row_group_size=row_group_size)
        return self.folder


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make any call to the hub fail at once, and keep caches inside the test's folder."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")
