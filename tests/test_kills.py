"""Commands are killed at every step that they take on the disk, at any byte and at random: nothing is lost, none half.

Each kill is SIGKILL to a real process and all that it started (`tests/support/kill_server.py`). Afterwards a person's
own files are what they were, every result is the old one or the new one, the same command finishes, and what it leaves
is what an undisturbed one leaves.
"""

import itertools
import os
import random
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from keeping import Expected, Server, again, contents, copy_place, is_of
from scenarios import SCENARIOS, Scenario

from lora.files import LITTER

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signal")

LIGHT = ("split", "merge-manifests", "teach")
HEAVY = [name for name, scenario in SCENARIOS.items() if scenario.heavy]
QUICK = [name for name, scenario in SCENARIOS.items() if not scenario.heavy]
RANDOM_KILLS = {name: 10 if SCENARIOS[name].heavy else 4 for name in SCENARIOS}
SIGNALS = ((signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2))
VISIBLE = ("os.rename", "exchange", "os.link")


@dataclass
class Case:
    """A scenario, the place that it begins in, and what it comes to."""

    scenario: Scenario
    start: Path
    expected: Expected
    events: list[str]
    seconds: float
    server: Server

    def copy(self) -> Path:
        return copy_place(self.start, self.server.scratch / "work")

    def check_killed(self, place: Path) -> None:
        """Check what a kill has left, and that the command finishes."""
        self.expected.check_stopped(place)
        self.server.finish(again(self.scenario, place), place)
        self.expected.check_finished(place)
        left = [path.name for path in self.server.temporary.iterdir()]
        assert not left, f"left in the temporary folder: {left}"

    def kill_at(self, number: int) -> None:
        place = self.copy()
        code = self.server.run(self.scenario.argv, place, event=number)
        try:
            assert code in (-9, 0), self.server.said  # threads do not come to the same number of steps each time
            self.check_killed(place)
        except BaseException as error:
            error.add_note(f"killed at {number}: {self.events[number - 1]}")
            raise


def make_case(name: str, place: Path, server: Server) -> Case:
    """Run a scenario undisturbed."""
    scenario = SCENARIOS[name]
    start = copy_place(place, server.scratch / "start")
    if scenario.earlier is not None:
        server.finish(scenario.earlier, start)
    before = contents(start)
    work = copy_place(start, server.scratch / "work")
    began = time.monotonic()
    server.finish(scenario.argv, work)
    seconds = time.monotonic() - began
    expected = Expected.of(scenario, before, contents(work))
    expected.check_finished(work)
    return Case(scenario, start, expected, server.events, seconds, server)


@pytest.mark.parametrize("name", LIGHT)
def test_killed_around_what_becomes_visible_nothing_is_lost_or_half(name: str, place: Path, light: Server) -> None:
    case = make_case(name, place, light)
    numbers = [number for number, event in enumerate(case.events, start=1) if event.startswith(VISIBLE)]
    numbers += [number for number, event in enumerate(case.events, start=1) if re.match(r"opened [^.]", event)]
    for number in sorted(numbers)[:: max(1, len(numbers) // 8)]:
        case.kill_at(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_killed_at_every_step_nothing_is_lost_or_half(name: str, whole_place: Path, server: Server) -> None:
    case = make_case(name, whole_place, server)
    for number in range(1, len(case.events) + 1):
        case.kill_at(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_in_the_middle_of_a_write_nothing_is_half(name: str, whole_place: Path, server: Server) -> None:
    case = make_case(name, whole_place, server)
    for size in (0, 10, 100, 500, 2_000, 8_000, 30_000, 100_000):
        place = case.copy()
        server.run(case.scenario.argv, place, file_bytes=size)
        case.check_killed(place)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_random_nothing_is_lost_or_half(name: str, whole_place: Path, server: Server) -> None:
    case = make_case(name, whole_place, server)
    rng = random.Random(name)
    for _ in range(RANDOM_KILLS[name]):
        place = case.copy()
        server.run(case.scenario.argv, place, seconds=rng.uniform(0, case.seconds))
        case.check_killed(place)


def test_there_are_at_least_fifty_random_kills() -> None:
    assert sum(RANDOM_KILLS.values()) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_a_long_command_killed_at_every_rename_goes_on(name: str, whole_place: Path, server: Server) -> None:
    case = make_case(name, whole_place, server)
    visible = {number for number, event in enumerate(case.events, start=1) if event.startswith(VISIBLE)}
    for number in sorted(visible | set(range(1, len(case.events) + 1, 16))):
        case.kill_at(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_a_long_command_killed_again_and_again_comes_to_the_same_end(
    name: str, whole_place: Path, server: Server
) -> None:
    case = make_case(name, whole_place, server)
    rng = random.Random(name)
    place = case.copy()
    argv, kills = case.scenario.argv, 0
    while server.run(argv, place, event=rng.randint(20, 20 + 20 * (kills + 1))) != 0:
        kills += 1
        case.expected.check_stopped(place)
        argv = again(case.scenario, place)
    assert kills >= 3
    case.expected.check_finished(place)


def check_signals(case: Case, numbers: Iterable[int]) -> None:
    """Send a signal at these steps, once and twice: the exit code says it, and once leaves nothing half written.

    What is being removed just then may stay; the next command removes it.
    """
    for number, (sent, times) in itertools.product(numbers, SIGNALS):
        place = case.copy()
        code = case.server.run(case.scenario.argv, place, event=number, signals=[sent] * times)
        said = case.server.said
        assert code in (128 + sent, 0), said  # the work may have been done
        assert "Traceback" not in said
        if times == 1 and not case.events[number - 1].startswith(("os.remove", "os.rmdir")):  # removing stops there
            left = [name for name in contents(place) if LITTER in name and not is_of(name, tuple(case.expected.own))]
            assert not left, f"{signal.Signals(sent).name} at {case.events[number - 1]} leaves {left}"
        case.check_killed(place)


@pytest.mark.parametrize("name", ["merge-manifests"])
def test_a_signal_ends_a_command_and_a_second_one_at_once(name: str, place: Path, light: Server) -> None:
    case = make_case(name, place, light)
    check_signals(case, [len(case.events) // 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["build-manifest folder", "shift", "merge", "run-stt", *HEAVY])
def test_a_signal_at_any_step_ends_a_command_and_a_second_one_at_once(
    name: str, whole_place: Path, server: Server
) -> None:
    case = make_case(name, whole_place, server)
    check_signals(case, range(2, len(case.events), max(1, len(case.events) // 6)))
