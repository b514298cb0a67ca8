"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from lora.errors import InputError
from lora.files import read_json, staged_directory, to_json, write_json, write_text


def test_a_staged_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with staged_directory(target) as stage:
        (stage / "new").write_text("new")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder_and_no_stage(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")

    def write_half(stage: Path) -> None:
        (stage / "new").write_text("new")
        raise error

    with pytest.raises(error), staged_directory(target) as stage:
        write_half(stage)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_swap_that_fails_half_way_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    replace = Path.replace

    def fail_for_the_stage(self: Path, to: Path) -> Path:
        if (self / "new").exists():
            raise OSError("the disk went away")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fail_for_the_stage)
    with pytest.raises(OSError, match="the disk went away"), staged_directory(target) as stage:
        (stage / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


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
