"""Nothing but our own earlier output is ever written over."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora import outputs
from lora.errors import ConfigError, LoraError, SetupError
from lora.outputs import RECORD_NAME, check_file, check_folder, output_folder, write_output


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in `folder` by name, without our records."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_folder(path: Path, *, overwrite: bool = False, **files: str) -> None:
    with output_folder(path, overwrite=overwrite) as stage:
        for name, text in files.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(text)


def test_a_file_of_ours_is_written_anew(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_output(tmp_path / "a.json", text)
    assert contents(tmp_path) == {"a.json": b"second"}


@pytest.mark.parametrize("changed", [False, True])
def test_a_file_that_is_the_users_or_was_edited_stays(tmp_path: Path, changed: bool) -> None:
    path = tmp_path / "a.json"
    if changed:
        write_output(path, "first")
    path.write_text("mine")
    with pytest.raises(ConfigError, match="not an earlier output"):
        write_output(path, "second")
    assert contents(tmp_path) == {"a.json": b"mine"}


def test_a_file_that_appears_while_ours_is_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def write_slowly() -> None:
        with outputs.output_file(path) as file:
            file.write(b"ours")
            path.write_text("mine")

    with pytest.raises(ConfigError, match="not an earlier output"):
        write_slowly()
    assert contents(tmp_path) == {"a.json": b"mine"}


@pytest.mark.parametrize("renamed", [False, True])
def test_a_writer_that_is_killed_around_the_rename_leaves_a_file_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    write_output(tmp_path / "a.json", "first")
    replace = Path.replace

    def killed(self: Path, to: Path) -> Path:
        if to.name == "a.json":
            if renamed:
                replace(self, to)
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_output(tmp_path / "a.json", "second")
    monkeypatch.undo()
    assert (tmp_path / "a.json").read_text() == ("second" if renamed else "first")
    write_output(tmp_path / "a.json", "third")
    assert contents(tmp_path) == {"a.json": b"third"}


def test_several_writers_of_one_file_do_not_lose_each_others_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write_output(path, f"version {number}"), range(16)))
    assert outputs.is_ours(path)


def test_a_version_that_another_writer_puts_in_place_just_now_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_output(path, "first")
    hashed = outputs.sha256_file

    def hash_the_next(place: Path) -> str:
        monkeypatch.undo()
        write_output(path, "second")
        return hashed(place)

    monkeypatch.setattr(outputs, "sha256_file", hash_the_next)
    assert outputs.is_ours(path)


def test_a_link_is_written_through_only_to_earlier_output(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "a.json", tmp_path / "link.json"
    write_output(real, "first")
    link.symlink_to(real)
    write_output(link, "second")
    assert link.is_symlink()
    assert real.read_text() == "second"
    real.write_text("mine")
    with pytest.raises(ConfigError, match="not an earlier output"):
        write_output(link, "third")
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="not an earlier output"):
        write_output(dangling, "third")
    assert contents(tmp_path) == {"far/a.json": b"mine", "link.json": b"mine"}


def test_no_input_is_an_output_though_it_is_ours(tmp_path: Path) -> None:
    path, twin, link = tmp_path / "a.json", tmp_path / "twin.json", tmp_path / "link.json"
    write_output(path, "first")
    os.link(path, twin)
    link.symlink_to(path)
    for place in (path, twin, link):
        with pytest.raises(ConfigError, match="also an input"):
            check_file(place, [path])
    with pytest.raises(ConfigError, match="cannot become"):
        check_folder(tmp_path, iter([path]))


def test_a_file_cannot_be_where_a_folder_is_nor_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a folder"):
        check_file(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        check_file(tmp_path / "file" / "a.json")
    with pytest.raises(ConfigError, match="no folder"):
        check_folder(tmp_path / "file")


def test_a_folder_of_ours_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", a="1", b="1")
    write_folder(tmp_path / "out", a="2", c="2")
    assert contents(tmp_path) == {"out/a": b"2", "out/c": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_and_a_link_to_one_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    for text in ("1", "2"):
        write_folder(tmp_path / "link", a=text)
        assert (tmp_path / "link").is_symlink()
        assert contents(tmp_path / "far") == {"a": text.encode()}


def test_what_is_not_ours_stops_and_with_overwrite_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, a="1")
    (out / "notes.md").write_text("mine")
    (out / "deep" / "empty").mkdir(parents=True)
    (out / "link").symlink_to("notes.md")
    with pytest.raises(ConfigError, match=r"notes\.md"):
        write_folder(out, a="2")
    assert (out / "a").read_text() == "1"
    inode = (out / "notes.md").stat().st_ino
    write_folder(out, a="2", overwrite=True)
    assert contents(out) == {"a": b"2", "notes.md": b"mine", "link": b"mine"}
    assert (out / "notes.md").stat().st_ino == inode
    assert (out / "link").is_symlink()
    assert (out / "deep" / "empty").is_dir()


@pytest.mark.parametrize("listed", [True, False])
def test_overwrite_replaces_only_what_the_record_lists(tmp_path: Path, listed: bool) -> None:
    out = tmp_path / "out"
    write_folder(out, **({"a": "1"} if listed else {"b": "1"}))
    (out / "a").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"out/a"):
        write_folder(out, a="2", overwrite=True)
    assert contents(tmp_path) == before


def test_results_in_a_folder_below_are_not_ours_to_replace(tmp_path: Path) -> None:
    write_folder(tmp_path / "runs" / "one", a="1")
    with pytest.raises(ConfigError, match="holds what is not"):
        write_folder(tmp_path / "runs", a="2")
    assert contents(tmp_path) == {"runs/one/a": b"1"}


def test_what_a_file_manager_leaves_is_no_obstacle(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", a="1")
    for name in (".DS_Store", "._a", "Thumbs.db", "desktop.ini"):
        (tmp_path / "out" / name).touch()
    write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out" / "a").read_text() == "2"


def test_a_file_written_into_a_folder_of_ours_is_ours_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, a="1", **{"deep/b": "1"})
    write_output(out / "deep" / "c", "1", root=out)
    write_output(out / "deep" / "b", "2", root=out)
    assert not (out / "deep" / RECORD_NAME).exists()
    write_folder(out, a="2")
    assert contents(out) == {"a": b"2"}


def test_a_link_out_of_a_folder_of_ours_is_not_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "far").mkdir()
    (tmp_path / "out" / "plots").symlink_to(tmp_path / "far")
    with pytest.raises(ConfigError, match="leads out of"):
        write_output(tmp_path / "out" / "plots" / "b", "1", root=tmp_path / "out")
    assert contents(tmp_path) == {"out/a": b"1"}


def test_a_file_may_be_written_as_an_output_into_a_stage(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out") as stage:
        write_output(stage / "a", "1", root=stage)
    assert contents(tmp_path) == {"out/a": b"1"}


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", a="1")
    with pytest.raises(SetupError, match="cannot be written"), output_folder(tmp_path / "out") as stage:
        (stage / "deep" / "a").write_text("2")
    assert contents(tmp_path) == {"out/a": b"1"}


def test_a_file_system_that_cannot_swap_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(first: Path, second: Path) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(outputs, "exchange", refuse)
    write_folder(tmp_path / "out", a="1")
    with pytest.raises(SetupError, match="one step"):
        write_folder(tmp_path / "out", a="2")
    assert contents(tmp_path) == {"out/a": b"1"}


@pytest.mark.parametrize("damage", ["[]", '{"files": {"a": 1}}', "no json"])
def test_a_damaged_record_stops(tmp_path: Path, damage: str) -> None:
    write_output(tmp_path / "a", "1")
    (tmp_path / RECORD_NAME).write_text(damage)
    with pytest.raises(LoraError, match="outputs"):
        write_output(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1"


def test_a_folder_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_folder(out, kind="a merged model") as stage:
        (stage / "a").write_text("1")
    write_output(out / "b", "1")  # keeps the kind
    for kind, told in (("an averaged adapter", "holds a merged model"), ("", "holds a merged model")):
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=told):
                check_folder(out, kind=kind, overwrite=overwrite)
    write_output(tmp_path / "files" / "a", "1")
    with pytest.raises(ConfigError, match="other results"):
        check_folder(tmp_path / "files", kind="a merged model")
    with output_folder(out, kind="a merged model") as stage:
        (stage / "a").write_text("2")
    assert contents(tmp_path) == {"out/a": b"2", "files/a": b"1"}


def test_a_file_of_another_kind_is_not_replaced_and_does_not_go_with_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, a="1")
    for text in ("1", "2"):
        write_output(out / "b", text, kind="a transcription")
    for path, kind in ((out / "a", "a transcription"), (out / "b", ""), (out / "b", "a check")):
        with pytest.raises(ConfigError, match="not an earlier output of this command"):
            check_file(path, kind=kind)
    with pytest.raises(ConfigError, match="out/b"):
        write_folder(out, a="2")
    write_folder(out, a="2", overwrite=True)
    assert contents(out) == {"a": b"2", "b": b"2"}
    write_output(out / "b", "3", kind="a transcription")
    assert contents(out) == {"a": b"2", "b": b"3"}


def test_the_inputs_of_a_command_are_its_files_and_those_in_its_folders(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "a.wav").touch()
    given = outputs.inputs_of("some/model", None, str(tmp_path / "model"), tmp_path / "a.wav", tmp_path / "gone")
    assert given == [tmp_path / "model", tmp_path / "a.wav", tmp_path / "model" / "config.json"]


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    for check in (check_file, check_folder):
        with pytest.raises(SetupError, match="current folder does not exist"):
            check(Path("a"))
    with pytest.raises(SetupError, match="current folder does not exist"):
        check_folder(tmp_path / "a")


def test_what_a_killed_process_left_in_a_folder_of_ours_is_no_obstacle_and_goes_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, a="1")
    for name in (".a.01234567.moonshine-lora.tmp", "deep/.b.01234567.moonshine-lora.tmp/c"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("half")
    write_folder(out, a="2")
    assert contents(tmp_path) == {"out/a": b"2"}
    (out / ".a.0123456.moonshine-lora.tmp").write_text("mine")
    with pytest.raises(ConfigError, match=r"\.a\.0123456\."):
        write_folder(out, a="3")
