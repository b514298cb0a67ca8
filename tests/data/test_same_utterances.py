"""The same recordings give the same utterances, whatever form they come in."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from lora.config import PreprocessConfig
from lora.data.audio import read_wave, wave_sha256
from lora.data.manifest import read_manifest
from lora.data.sources.fsdd import DIGIT_WORDS
from lora.scripts import build_manifest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@dataclass(frozen=True)
class Said:
    file: Path
    text: str
    speaker: str


def librivox() -> list[Said]:
    lines = (SHARED / "librivox" / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Said(SHARED / "librivox" / row["audio"], row["text"], "reader") for row in rows]


def fsdd() -> list[Said]:
    files = sorted((SHARED / "fsdd" / "recordings").glob("*_0.wav"))
    parts = [file.stem.split("_") for file in files]
    return [Said(file, DIGIT_WORDS[int(part[0])], part[1]) for file, part in zip(files, parts, strict=True)]


def as_folder(said: list[Said], root: Path) -> list[str]:
    for one in said:
        (root / one.speaker).mkdir(exist_ok=True)
        shutil.copy(one.file, root / one.speaker)
        (root / one.speaker / one.file.with_suffix(".txt").name).write_text(one.text + "\n", encoding="utf-8")
    return ["--source", "folder", "--speaker-folders"]


def as_csv(said: list[Said], root: Path) -> list[str]:
    lines = ["said,who,wav"]
    for one in said:
        shutil.copy(one.file, root)
        lines.append(f'"{one.text}",{one.speaker},{one.file.name}')
    (root / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    return ["--source", "csv", "--audio-column", "wav", "--text-column", "said", "--speaker-column", "who"]


def as_nemo(said: list[Said], root: Path) -> list[str]:
    with (root / "rows.json").open("w", encoding="utf-8") as file:
        for one in said:
            shutil.copy(one.file, root)
            seconds = round(soundfile.info(str(one.file)).duration, 2)
            row = {"audio_filepath": one.file.name, "text": one.text, "duration": seconds, "speaker": one.speaker}
            file.write(json.dumps(row) + "\n")
    return ["--source", "nemo", "--speaker-column", "speaker"]


def as_parquet(said: list[Said], root: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"audio": {"bytes": one.file.read_bytes(), "path": one.file.name}, "text": one.text, "who": one.speaker}
        for one in said
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "test-00000-of-00001.parquet")
    return ["--source", "hub", "--split", "test", "--samples", "all", "--speaker-column", "who"]


FORMS: dict[str, Callable[[list[Said], Path], list[str]]] = {
    "folder": as_folder,
    "csv": as_csv,
    "nemo": as_nemo,
    "parquet": as_parquet,
}


@pytest.mark.parametrize("corpus", [librivox, fsdd], ids=["librivox", "fsdd"])
def test_folder_csv_nemo_and_parquet_give_the_same_utterances(corpus: Callable[[], list[Said]], tmp_path: Path) -> None:
    if not (SHARED / corpus.__name__).is_dir():
        pytest.skip(f"no {SHARED / corpus.__name__}: the recordings are not part of the repository")
    said = corpus()
    assert len(said) == {"librivox": 5, "fsdd": 40}[corpus.__name__]
    config = PreprocessConfig()
    found: dict[str, list[tuple[str, str, str]]] = {}
    for name, write in FORMS.items():
        (tmp_path / name).mkdir()
        arguments = write(said, tmp_path / name)
        output = tmp_path / "out" / f"{name}.jsonl"
        assert build_manifest.main([*arguments, "--path", str(tmp_path / name), "--output", str(output)]) == 0
        utterances = read_manifest(output).utterances
        hashes = [wave_sha256(utterance.load(config)) for utterance in utterances]
        found[name] = sorted((sha, one.text, str(one.speaker_id)) for sha, one in zip(hashes, utterances, strict=True))
    # 16 kHz recordings pass through FLAC unchanged; those at 8 kHz are resampled before they are stored.
    if corpus is librivox:
        assert found["folder"] == sorted((wave_sha256(read_wave(one.file, config)), one.text, "reader") for one in said)
    assert len({sha for sha, _, _ in found["folder"]}) == len(said)
    assert found["folder"] == found["csv"] == found["nemo"] == found["parquet"]
