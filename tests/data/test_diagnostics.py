"""Duration profile, split table and sufficiency, on clips whose durations are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.diagnostics import Sufficiency, measure_durations, profile_durations, summarize_split
from lora.data.manifest import read_manifest
from lora.errors import ManifestError
from lora.report.diagnostics_page import duration_table, split_table

SECONDS = [1.0, 2.0, 3.0, 5.0, 6.0, 25.0]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six files and, as the last row, an inline waveform of half a second at 8 kHz."""
    rows = []
    for number, seconds in enumerate(SECONDS):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(round(seconds * 8000)), 8000)
        rows.append({"id": str(number), "audio": f"{number}.wav", "text": "one", "speaker_id": number % 3})
    rows.append({"id": "inline", "audio": [0.0] * 4000, "sampling_rate": 8000, "text": "one", "speaker_id": 0})
    path = tmp_path / "seven.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_durations_come_from_headers_and_inline_lengths(manifest: Path) -> None:
    assert measure_durations(read_manifest(manifest)) == [*SECONDS, 0.5]


def test_the_duration_table_has_the_documented_columns_and_cells(manifest: Path) -> None:
    loaded = read_manifest(manifest)
    table = duration_table([profile_durations(loaded, measure_durations(loaded), [5, 8, 10, 15, 20])])
    header, _, row = table.splitlines()
    assert header == "| Manifest | Samples | Mean (s) | <=5s | <=8s | <=10s | <=15s | <=20s |"
    # 42.5 s in 7 clips; five of them are at most 5 s, six at most 8 s.
    cells = "| 7 | 6.07 | 5 (71.4%) | 6 (85.7%) | 6 (85.7%) | 6 (85.7%) | 6 (85.7%) |"
    assert row == f"| {manifest} {cells}"


def test_the_split_table_has_the_documented_columns_and_counts_what_the_filter_left(manifest: Path) -> None:
    loaded = read_manifest(manifest)
    split = summarize_split(loaded, measure_durations(loaded), max_seconds=20, fraction=0.3, seed=42)
    header, _, row = split_table([split]).splitlines()
    assert header == "| Manifest | Filtered | Train | Val | Split | Source |"
    # Six clips are left, two of each of three speakers, so one speaker can be held out whole.
    assert (split.filtered, split.removed) == (6, 1) == (split.train + split.validation, 1)
    assert split.kind == "speaker"
    assert row.endswith("| speaker | speaker_id (3 speakers) |")


def test_a_split_without_speakers_is_random_and_says_why(manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row | {"speaker_id": None}) + "\n" for row in rows))
    loaded = read_manifest(manifest)
    split = summarize_split(loaded, measure_durations(loaded), max_seconds=20, fraction=0.3, seed=42)
    assert (split.kind, split.source) == ("random", "utterance id")
    assert "no speaker_id" in split.reason


def test_a_filter_that_leaves_too_little_is_an_error(manifest: Path) -> None:
    loaded = read_manifest(manifest)
    with pytest.raises(ManifestError, match="1 of 7"):
        summarize_split(loaded, measure_durations(loaded), max_seconds=0.6, fraction=0.3, seed=42)


def test_a_file_without_a_header_is_named(manifest: Path) -> None:
    (manifest.parent / "2.wav").write_bytes(b"nothing")
    with pytest.raises(ManifestError) as caught:
        measure_durations(read_manifest(manifest))
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{manifest}:3"]


@pytest.mark.parametrize(("train", "enough"), [(199, False), (200, True)])
def test_data_is_sufficient_from_the_number_asked_for(train: int, enough: bool) -> None:
    verdict = Sufficiency("a.jsonl", train, 200)
    assert verdict.enough is enough
    assert ("add 1 more" in verdict.message) is not enough
