"""`clean` removes what killed commands left, and nothing that anybody may want."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora.data.audio_folder import audio_folder_of
from lora.files import LITTER, folder_beside, sha256_bytes
from lora.runners import clean as cleaning
from lora.scripts.umbrella import main

AGED = "--older-than=0"


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def write(path: Path, text: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def audio_folder(manifest: Path, **files: str) -> Path:
    folder = audio_folder_of(manifest, {name: sha256_bytes(text.encode()) for name, text in files.items()})
    for name, text in files.items():
        write(folder / name, text)
    return folder


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_litter_goes_at_once_from_the_current_and_the_temporary_folder(
    own_temporary_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = write(Path(f"deep/.report.md.0123abcd{LITTER}"), "x" * 1500)
    write(own_temporary_folder / f".dry-run.0123abcd{LITTER}" / "cache" / "half")
    mine = [write(Path("deep/report.md")), write(Path("deep/.report.md.notes.moonshine-lora.tmp"))]
    assert main(["clean", "--dry-run"]) == 0
    assert "2 would be removed, 1.5 kB; 0 kept" in capsys.readouterr().out
    assert half.exists()
    assert main(["clean"]) == 0
    printed = capsys.readouterr().out
    assert f"half written  removed  {half.absolute()}" in printed
    assert "2 removed, 1.5 kB; 0 kept, 0 B" in printed
    assert all(path.exists() for path in mine)
    assert not half.exists()
    assert everything(own_temporary_folder) == set()


def test_what_a_living_process_is_at_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with folder_beside(Path("out").absolute()) as stage:
        assert main(["clean", ".", AGED]) == 0
        assert stage.is_dir()
    assert "kept: in use" in capsys.readouterr().out


def test_a_writer_that_is_killed_leaves_what_clean_removes() -> None:
    program = "import os\nfrom pathlib import Path\nfrom lora.files import atomic_file\n"
    program += "with atomic_file(Path('a')) as file:\n    file.write(b'half')\n    os._exit(9)"
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list(Path().iterdir())) == 1
    assert main(["clean", "."]) == 0
    assert list(Path().iterdir()) == []


def test_a_build_stays_until_nobody_goes_on_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    build = Path(".m.jsonl.0123456789abcdef.moonshine-lora.partial")
    write(build / "journal.jsonl")
    assert main(["clean", "."]) == 0
    assert "kept: younger than 24 hours" in capsys.readouterr().out
    assert build.exists()
    assert main(["clean", ".", AGED]) == 0
    assert not build.exists()


def test_unfinished_training_is_listed_and_never_removed(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("outputs/demo.partial/run.json"))
    write(Path("notes.partial/mine"))
    assert main(["clean", ".", AGED]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"unfinished training +kept: go on with --resume, or discard it with --restart +\S+demo", printed)
    assert "notes" not in printed
    assert Path("outputs/demo.partial/run.json").exists()


def test_audio_goes_where_no_manifest_names_it_and_it_is_what_its_name_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    named, above, unnamed, changed, foreign, backed = (
        audio_folder(Path(f"data/{name}.jsonl"), **{f"{name}.flac": name}) for name in ("a", "b", "c", "d", "e", "f")
    )
    write(Path("data/f.jsonl.bak"), f'{{"audio": "{backed.name}/f.flac"}}\n')
    write(Path("data/a.jsonl"), f'{{"audio": "{named.name}/a.flac"}}\n')
    write(Path("all.jsonl"), f'{{"audio": "data/{above.name}/b.flac"}}\n')
    write(changed / "d.flac", "other")
    write(foreign / "notes.md", "mine")
    assert main(["clean", "data"]) == 0
    assert "younger than 24 hours" in capsys.readouterr().out
    assert main(["clean", "data", AGED]) == 0
    printed = capsys.readouterr().out
    assert printed.count("kept: it was changed") == 2
    assert not unnamed.exists()
    assert all(folder.exists() for folder in (named, above, changed, foreign, backed))


def test_what_the_first_version_left_goes_where_its_content_is_known(
    own_temporary_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [
        write(own_temporary_folder / "moonshine-lora-trial-ab12cd_x" / "lora_adapter" / "weights"),
        write(own_temporary_folder / "moonshine-private-123-ab12cd_x" / "takes" / "one.wav"),
        write(Path(".m.jsonl.0123456789abcdef.partial/journal.jsonl")),
    ]
    stays = [
        write(own_temporary_folder / "moonshine-lora-trial-ab12cd_y" / "thesis.txt"),
        write(Path("moonshine-lora-trial-ab12cd_x/lora_adapter/weights")),
        write(Path(".m.jsonl.fedcba9876543210.partial/thesis.txt")),
        write(Path(".m.jsonl.ab12cd_x.tmp")),
    ]
    assert main(["clean"]) == 0
    assert all(path.exists() for path in gone)
    assert main(["clean", AGED]) == 0
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stays)
    printed = capsys.readouterr().out
    assert "other programs give such names, too" in printed
    assert "its content is not known" in printed


def test_links_are_not_followed(tmp_path: Path) -> None:
    far = write(tmp_path / "far" / f".a.0123abcd{LITTER}")
    Path("link").symlink_to(tmp_path / "far")
    Path(f".b.0123abcd{LITTER}").symlink_to(far)
    assert main(["clean", ".", AGED]) == 0
    assert far.exists()
    assert Path(f".b.0123abcd{LITTER}").is_symlink()


def test_what_is_anothers_or_cannot_be_removed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    litter = write(Path(f".a.0123abcd{LITTER}"))

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(cleaning, "remove_litter", refuse)
        assert main(["clean", "."]) == 0
    assert "not removed: Permission denied" in capsys.readouterr().out
    monkeypatch.setattr(os, "geteuid", lambda: litter.stat().st_uid + 1)
    assert main(["clean", "."]) == 0
    assert "kept: another user's" in capsys.readouterr().out
    assert litter.exists()


def test_a_folder_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "gone", "--older-than", "-1"]) == 2
    error = capsys.readouterr().err
    assert "gone: no such folder" in error
    assert "--older-than" in error


@pytest.mark.parametrize(("hours", "text"), [(0.5, "30 min"), (5, "5 h"), (100, "4 days")])
def test_ages_are_told_in_their_own_units(hours: float, text: str) -> None:
    assert cleaning._age(hours) == text
