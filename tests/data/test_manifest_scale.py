"""Manifests and audio that are large, or small and unfold to something large."""

import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data import manifest as manifest_module
from lora.data.audio import decode_audio
from lora.data.manifest import Utterance, iter_manifest, read_manifest, write_manifest
from lora.errors import AudioError, ManifestError


def inline_utterances(count: int) -> Iterator[Utterance]:
    for number in range(count):
        yield Utterance(f"u{number}", "some words", np.full(2000, 0.5, np.float32))


def test_inline_waveforms_are_written_and_read_one_at_a_time(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        write_manifest(tmp_path / "long.jsonl", inline_utterances(40))
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        count = sum(1 for _ in iter_manifest(tmp_path / "long.jsonl"))
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One row: 2,000 numbers as text, Python floats and float32 take 0.1 MB, and 40 of them 4 MB.
    assert count == 40
    assert max(written, read) < 4e5


def test_the_iterator_gives_what_the_reader_gives(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.jsonl", inline_utterances(3))
    streamed = [utterance.id for utterance in iter_manifest(tmp_path / "a.jsonl")]
    assert streamed == [utterance.id for utterance in read_manifest(tmp_path / "a.jsonl").utterances]


def test_the_iterator_lists_all_faults_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = ['{"audio": [0.5], "text": "one"}', '{"audio": [0.5], "text": "two"}']
    path.write_text("\n".join([good[0], "broken", good[1], '{"audio": 3, "text": ""}']))
    rows = iter_manifest(path)
    assert [next(rows).text, next(rows).text] == ["one", "two"]
    with pytest.raises(ManifestError) as error:
        next(rows)
    assert len(error.value.problems) == 3


def test_a_file_that_is_no_manifest_is_given_up_after_many_faults(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x\n" * 50_000)
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "a.jsonl")
    assert len(error.value.problems) == 1001
    assert "stops after 1000 faults" in error.value.problems[-1]


def test_a_row_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "MAX_ROW_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(b"[" * 5000)
    with pytest.raises(ManifestError, match="longer than 1000 bytes"):
        read_manifest(tmp_path / "a.jsonl")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_folder_that_is_a_link_out_is_refused_for_every_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "far").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "far" / name).touch()
    (tmp_path / "root" / "sub").symlink_to(tmp_path / "far")
    rows = [{"audio": f"sub/{name}", "text": "one", "id": name} for name in ("a.wav", "b.wav")]
    (tmp_path / "root" / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "root" / "m.jsonl")
    assert [problem.count("not a path inside") for problem in error.value.problems] == [1, 1]
    assert len(read_manifest(tmp_path / "root" / "m.jsonl", allow_outside=True)) == 2


def test_an_absolute_path_at_the_top_is_not_taken_for_a_file_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()
    (tmp_path / "m.jsonl").write_text('{"audio": "etc", "text": "one"}\n{"audio": "/etc", "text": "one"}\n')
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "m.jsonl")
    assert ["m.jsonl:2" in problem for problem in error.value.problems] == [True]


def flac(seconds: float, announced: int | None = None) -> bytes:
    """Return a FLAC of silence whose header announces `announced` samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(round(seconds * 16_000), np.int16), 16_000, format="FLAC", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    if announced is not None:  # 36 bits in the stream info block
        data[21] = (data[21] & 0xF0) | (announced >> 32)
        data[22:26] = (announced & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("announced", [0, 16_000 * 3000, 2**36 - 1])
def test_a_flac_that_announces_more_than_it_has_is_refused(announced: int) -> None:
    with pytest.raises(AudioError, match=r"bomb\.flac"):
        decode_audio(flac(1.0, announced), name="bomb.flac")


BOMB = """
import resource, sys
from lora.data.audio import decode_audio
from lora.errors import AudioError
data = open(sys.argv[1], "rb").read()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20,) * 2)
try:
    decode_audio(data, name="bomb")
except AudioError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("seconds", "announced"), [(3700.0, None), (2.0, 16_000 * 3500)])
def test_a_small_file_cannot_take_more_memory_than_it_decodes_to(
    tmp_path: Path, seconds: float, announced: int | None
) -> None:
    # 3,700 s of silence would unfold to 237 MB, and the lying header asks for 224 MB; 64 MB are to be had.
    (tmp_path / "bomb.flac").write_bytes(flac(seconds, announced))
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "bomb.flac")], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("refused: bomb"), done.stderr
