"""States on disk: what is read is what was written, whoever else writes, is killed or evicts."""

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora.errors import SetupError
from lora.model.feature_store import FeatureStore

WRITER = """
import sys, zlib
from pathlib import Path
from lora.model.feature_store import FeatureStore

store = FeatureStore(Path(sys.argv[1]), limit_bytes=2**30, shard_bytes=20_000)
first, last = int(sys.argv[2]), int(sys.argv[3])
print("started", flush=True)
for number in range(first, last):
    content = zlib.crc32(b"%d" % number).to_bytes(4, "big") * (100 + number)
    store.add([(number.to_bytes(32, "big"), memoryview(content))])
store.close()
"""


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def content(number: int) -> bytes:
    return zlib.crc32(b"%d" % number).to_bytes(4, "big") * (100 + number)


def read(store: FeatureStore, number: int) -> bytes | None:
    size = store.size_of(key(number))
    if size is None:
        return None
    buffer = bytearray(size)
    return bytes(buffer) if store.read_into(key(number), memoryview(buffer)) else None


def add(store: FeatureStore, *numbers: int) -> None:
    store.add([(key(number), memoryview(content(number))) for number in numbers])


OPENED: list[FeatureStore] = []


@pytest.fixture(autouse=True)
def close_stores() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def open_store(folder: Path, limit: int = 2**30, shard: int = 1000, *, kind: str = "kind") -> FeatureStore:
    OPENED.append(FeatureStore(folder / kind, limit_bytes=limit, shard_bytes=shard))
    return OPENED[-1]


def start_writer(folder: Path, first: int, last: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder / "kind"), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_was_added_is_read_by_this_and_by_the_next_store(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 1, 2)
    add(store, 3)
    assert [read(store, number) for number in (3, 1, 2, 4)] == [content(3), content(1), content(2), None]
    assert [read(open_store(tmp_path), number) for number in (3, 1, 2)] == [content(3), content(1), content(2)]


def test_an_entry_is_stored_once_whoever_else_adds_it(tmp_path: Path) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    add(first, 1)
    add(second, 1, 2)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.states")) == len(content(1)) + len(content(2))
    assert read(first, 2) is None
    first.refresh()
    assert read(first, 2) == content(2)


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_writer_killed_at_any_moment_leaves_no_entry_that_reads_wrong(tmp_path: Path) -> None:
    rng, reached = random.Random(1), 0
    for _ in range(4):
        writer = start_writer(tmp_path, reached, 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "started\n"
        time.sleep(rng.uniform(0.01, 0.08))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        store = open_store(tmp_path)
        while read(store, reached) is not None:
            assert read(store, reached) == content(reached)
            reached += 1
        assert not any(store.size_of(key(number)) for number in range(reached, reached + 50))
        store.close()
    assert reached > 0


def test_half_a_record_and_bytes_without_a_record_are_written_over(tmp_path: Path) -> None:
    add(open_store(tmp_path, shard=10_000), 1)
    [states], [index] = tmp_path.rglob("*.states"), tmp_path.rglob("*.index")
    with states.open("ab") as file:
        file.write(b"bytes of an entry whose record was never written")
    with index.open("ab") as file:
        file.write(b"half a record")
    store = open_store(tmp_path, shard=10_000)
    add(store, 2)
    assert [read(store, number) for number in (1, 2)] == [content(1), content(2)]
    assert [read(open_store(tmp_path), number) for number in (1, 2)] == [content(1), content(2)]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, first, last) for first, last in ((0, 150), (100, 250))]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    store = open_store(tmp_path)
    assert all(read(store, number) == content(number) for number in range(250))
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*.states"))
    assert stored == sum(len(content(number)) for number in range(250))


@pytest.mark.parametrize("suffix", [".states", ".index"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_damaged_entry_is_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, is_cut: bool
) -> None:
    add(open_store(tmp_path), 1)
    [path] = tmp_path.rglob("*" + suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1] if is_cut and suffix == ".states" else data)
    store = open_store(tmp_path)
    assert read(store, 1) is None
    assert f"warning: {path}: " in capsys.readouterr().err
    assert store.size_of(key(1)) is None
    add(store, 1)
    assert read(store, 1) == read(open_store(tmp_path), 1) == content(1)
    assert capsys.readouterr().err == ""


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "kind").write_text("a file")
    with pytest.raises(SetupError, match="kind: cannot be written"):
        open_store(tmp_path)


def age(folder: Path, number: int, *, days: int) -> None:
    """Make the shard that holds an entry one that was last used `days` ago."""
    store = open_store(folder)
    entry = store._entries[key(number)]
    when = time.time() - 86_400 * days
    os.utime(folder / "kind" / f"{entry.shard}.index", (when, when))


def test_the_longest_unused_shard_is_evicted_and_one_in_use_never(tmp_path: Path) -> None:
    for number in (1, 2, 3):  # 404, 408 and 412 bytes: with shards of 400 bytes, one each
        store = open_store(tmp_path, shard=400)
        add(store, number)
        store.close()
    age(tmp_path, 1, days=3)
    age(tmp_path, 2, days=2)
    age(tmp_path, 3, days=1)
    user = open_store(tmp_path)
    assert read(user, 1) == content(1)
    store = open_store(tmp_path, 404 + 412 + 416, 400, kind="other")
    add(store, 4)
    left = open_store(tmp_path)
    assert [read(left, number) for number in (1, 2, 3)] == [content(1), None, content(3)]
    assert read(store, 4) == content(4)


def test_a_store_learns_that_another_process_has_evicted_an_entry(tmp_path: Path) -> None:
    store = open_store(tmp_path, shard=400)
    add(store, 1)
    store.close()
    add(open_store(tmp_path, 500, 400, kind="other"), 2)
    assert store.size_of(key(1)) is None
    assert not list((tmp_path / "kind").glob("*.states"))


def test_more_than_the_limit_in_use_stops_with_the_option(tmp_path: Path) -> None:
    store = open_store(tmp_path, limit=1000)
    add(store, 1, 2)
    with pytest.raises(SetupError, match="--feature-cache-gib"):
        add(store, 3)
    assert [read(open_store(tmp_path), number) for number in (1, 2, 3)] == [content(1), content(2), None]


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written"):
        FeatureStore(tmp_path / "file", limit_bytes=2**20)
    store = FeatureStore(tmp_path / "cache", limit_bytes=2**20)
    (tmp_path / "cache").rmdir()
    with pytest.raises(SetupError, match="cannot be written"):
        add(store, 1)
