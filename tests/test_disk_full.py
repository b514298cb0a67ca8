"""A disk that is full, read-only or gone at any write: said in words, nothing is lost or half, and it goes on later.

The commands write on a small file system of their own: its size and its number of files are set so that each write in
turn does not fit. That takes the right to mount one.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from keeping import Expected, Server, again, contents, copy_place, said_well
from scenarios import SCENARIOS, Scenario

from lora.files import LITTER, remove

LIGHT = ("split", "merge-manifests", "teach")
ROOMY = ("64m", 10_000)
PAGE = 4096


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


def last_error(said: str) -> str:
    """Return the last line that says an error, and what follows it."""
    return said.rpartition("\nerror: ")[2]


class Disk:
    """A file system of its own at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, size: int | str, files: int) -> None:
        """Set the bytes and the files that it can hold."""
        assert mount("-o", f"remount,size={size},nr_inodes={files}", str(self.path))

    def used(self) -> tuple[int, int]:
        """Return the bytes and the files that it holds."""
        status = os.statvfs(self.path)
        return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree


@dataclass
class Case:
    """A scenario whose results go to a small disk."""

    scenario: Scenario
    start: Path
    expected: Expected
    server: Server
    needed: tuple[int, int]
    place: Path
    disk: Disk

    def begin(self) -> tuple[int, int]:
        """Make the place anew, and return what the disk holds then."""
        self.disk.limit(*ROOMY)
        refill(self.start, self.place, self.disk.path)
        return self.disk.used()

    def check_failed(self) -> int:
        """Run the command where it may not fit, and then where it does; return the first exit code."""
        code = self.server.run(self.scenario.argv, self.place)
        said = self.server.said
        assert said_well(said), said
        assert code in (0, 1), said
        if code == 1:
            assert self.disk.path.name in last_error(said), said
            left = [name for name in contents(self.place) if LITTER in name]
            assert not left, f"left behind: {left}"
        self.expected.check_stopped(self.place)
        self.disk.limit(*ROOMY)
        if code == 1:
            self.server.finish(again(self.scenario, self.place), self.place)
        self.expected.check_finished(self.place)
        return code


def refill(start: Path, place: Path, disk: Path) -> None:
    """Make `place` as `start` is, though `disk` in it is a file system of its own, which stays."""
    for folder in (disk, place):
        for path in folder.iterdir():
            if path != disk:
                remove(path)
    shutil.copytree(start, place, symlinks=True, dirs_exist_ok=True)


def make_case(name: str, place: Path, server: Server) -> Iterator[Case]:
    """Yield a scenario with a disk of its own in its place, and its undisturbed end."""
    scenario = SCENARIOS[name]
    start = copy_place(place, server.scratch / "start")
    if scenario.earlier is not None:
        server.finish(scenario.earlier, start)
    before = contents(start)
    work = copy_place(start, server.scratch / f"work {name}")
    disk = work / scenario.outputs[0].partition("/")[0]
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", f"size={ROOMY[0]},nr_inodes={ROOMY[1]}", "tmpfs", str(disk)):
        pytest.skip("needs the right to mount a file system")
    try:
        case = Case(scenario, start, Expected.of(scenario, before, before), server, (0, 0), work, Disk(disk))
        began = case.begin()
        server.finish(scenario.argv, work)
        needed = tuple(after - first for first, after in zip(began, case.disk.used(), strict=True))
        yield replace(case, expected=Expected.of(scenario, before, contents(work)), needed=needed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def small(request: pytest.FixtureRequest, place: Path, light: Server) -> Iterator[Case]:
    yield from make_case(request.param, place, light)


@pytest.fixture
def case(request: pytest.FixtureRequest, whole_place: Path, server: Server) -> Iterator[Case]:
    yield from make_case(request.param, whole_place, server)


def check_sizes(case: Case, steps: int) -> int:
    """Leave too few bytes, in so many steps; return how often the command failed."""
    failed = 0
    room = case.needed[0] + 64 * PAGE
    for step in range(steps):
        used, _ = case.begin()
        case.disk.limit(used + PAGE * (room * step // steps // PAGE), ROOMY[1])
        failed += case.check_failed() == 1
    return failed


def check_counts(case: Case, counts: Iterable[int]) -> int:
    """Leave room for too few files; return how often the command failed."""
    failed = 0
    for count in counts:
        _, files = case.begin()
        case.disk.limit(ROOMY[0], files + count)
        failed += case.check_failed() == 1
    return failed


@pytest.mark.parametrize("small", LIGHT, indirect=True)
def test_a_disk_that_is_full_is_said_and_nothing_is_lost_or_half(small: Case) -> None:
    assert check_sizes(small, 2)
    assert check_counts(small, (0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("case", SCENARIOS, indirect=True)
def test_a_disk_that_is_full_at_any_write_is_said_and_nothing_is_lost_or_half(case: Case) -> None:
    heavy = case.scenario.heavy
    assert check_sizes(case, 8 if heavy else 16)
    assert check_counts(case, range(0, 40, 5) if heavy else range(16))


@pytest.mark.parametrize("small", LIGHT, indirect=True)
def test_a_disk_that_is_read_only_is_said(small: Case) -> None:
    check_read_only(small)


@pytest.mark.slow
@pytest.mark.parametrize("case", SCENARIOS, indirect=True)
def test_a_disk_that_is_read_only_is_said_by_every_command(case: Case) -> None:
    check_read_only(case)


def check_read_only(case: Case) -> None:
    case.begin()
    before = contents(case.place)
    assert mount("-o", "remount,ro", str(case.disk.path))
    try:
        code = case.server.run(case.scenario.argv, case.place)
        said = case.server.said
        assert said_well(said), said
        assert code == 1, said
        assert case.disk.path.name in last_error(said)
        assert contents(case.place) == before
    finally:
        assert mount("-o", "remount,rw", str(case.disk.path))
    case.server.finish(case.scenario.argv, case.place)
    case.expected.check_finished(case.place)


@pytest.mark.parametrize("name", LIGHT)
def test_a_folder_that_vanishes_meanwhile_is_said(name: str, place: Path, light: Server) -> None:
    check_vanishing(name, place, light, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_folder_that_vanishes_meanwhile_is_said_by_every_command(
    name: str, whole_place: Path, server: Server
) -> None:
    check_vanishing(name, whole_place, server, steps=12)


def check_vanishing(name: str, place: Path, server: Server, *, steps: int) -> None:
    """Move the folder of the results away while the command is at work, and back afterwards."""
    scenario = SCENARIOS[name]
    start = copy_place(place, server.scratch / "start")
    if scenario.earlier is not None:
        server.finish(scenario.earlier, start)
    before = contents(start)
    work = copy_place(start, server.scratch / "work")
    server.finish(scenario.argv, work)
    events = len(server.events)
    expected = Expected.of(scenario, before, contents(work))
    top = scenario.outputs[0].partition("/")[0]
    for event in range(1, events + 1, max(1, events // steps)):
        copy_place(start, work)
        code = server.run(scenario.argv, work, event=event, move=[top, "away"])
        said = server.said
        assert said_well(said), said
        assert code in (0, 1, 2), said
        if code:
            assert "error: " in said
        if (work / "away").exists():
            remove(work / top)
            (work / "away").rename(work / top)
        expected.check_stopped(work)
