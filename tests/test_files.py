"""Files and folders appear whole or not at all."""

import os
from pathlib import Path

import pytest

from lora import files
from lora.errors import InputError, SetupError
from lora.files import (
    LITTER,
    atomic_file,
    exchange,
    read_json,
    scratch_folder,
    staged_directory,
    to_json,
    write_json,
    write_text,
)


def test_a_staged_folder_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_directory(target) as stage:
        (stage / "new").write_text("new")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_staged_folder_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(SetupError, match="cannot be written"), staged_directory(target) as stage:
        (stage / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_stage(tmp_path: Path, error: type[BaseException]) -> None:
    def write_half(stage: Path) -> None:
        (stage / "new").write_text("new")
        raise error

    with pytest.raises(error), staged_directory(tmp_path / "out") as stage:
        write_half(stage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_has_stays(
    tmp_path: Path, is_folder: bool
) -> None:
    target = tmp_path / "out"
    left = tmp_path / f".out.0123abcd{LITTER}"
    if is_folder:
        left.mkdir()
        (left / "half").write_text("half")
    else:
        left.write_text("half")
    others = [tmp_path / f".out2.0123abcd{LITTER}", tmp_path / ".out.notes.moonshine-lora.tmp"]
    for other in others:
        other.write_text("not this one's")
    with atomic_file(target) as living:
        assert not left.exists()
        living.write(b"first")
        write_text(target, "second")
    assert target.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_a_scratch_folder_is_private_and_what_other_users_left_there_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f".probe.0123abcd{LITTER}"
    left.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    with scratch_folder("probe") as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [left]
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("probe"):
        assert not left.exists()


def test_a_signal_while_a_file_is_made_beside_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def stopped(path: Path, *rest: int) -> int:
        opened(path, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a", "text")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_new_files_and_folders_have_the_permissions_that_the_user_gives_to_all(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "mine")
        with staged_directory(tmp_path / "folder"):
            pass
        os.umask(0o002)
        write_text(tmp_path / "shared", "ours")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "folder", "shared")]
    assert modes == [0o600, 0o700, 0o664]


def test_a_long_name_has_room_for_what_is_written_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / ("ä" * 127), "long")
    with pytest.raises(SetupError, match="cannot be written"):
        write_text(tmp_path / ("ä" * 128), "too long")
    assert len(list(tmp_path.iterdir())) == 1


def test_two_paths_are_swapped_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_letters_as_they_are() -> None:
    assert to_json({"text": "Ärger"}, indent=None) == '{"text": "Ärger"}'


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"{", "not valid JSON"), (b"\xff", "JSON")])
def test_a_file_that_is_no_json_is_an_input_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(path)


def test_a_folder_that_vanishes_before_a_file_is_begun_in_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(target: Path) -> list[Path]:
        files.remove(target.parent)
        return []

    monkeypatch.setattr(files, "litter_of", vanish)
    with pytest.raises(SetupError, match="No such file"):
        files.write_text(tmp_path / "folder" / "a.txt", "text")
