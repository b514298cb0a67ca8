"""What must be so when a command was stopped: the person's files untouched, nothing half, old or new and no mixture."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.numpy
import soundfile
import yaml
from scenarios import Scenario

from lora.files import LITTER
from lora.outputs import RECORD_NAME

Contents = dict[str, bytes | str]
TIMES = {"seconds", "cpu_seconds", "checkpoint_seconds", "finished_at", "cuda_seconds"}
TEXT_TIMES = re.compile(rb"\| Time \|.*|[0-9.]+ s\b")


def contents(folder: Path) -> Contents:
    """Return the bytes of every file, the target of every link, and empty folders, by path."""
    found: Contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = "empty"
    return found


def is_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a path is one of the patterns, or lies in one."""
    parts = name.split("/")
    paths = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths for pattern in patterns)


def is_work(name: str) -> bool:
    """Tell whether a path is in work, and no result: hidden, unfinished, kept for speed, or a log of events."""
    parts = name.split("/")
    return any(part.endswith((LITTER, ".partial")) or part in (".cache", "tensorboard", RECORD_NAME) for part in parts)


def timeless(name: str, data: bytes | str) -> Any:
    """Return a file's content without the times in it."""
    if isinstance(data, str):
        return data
    if name.endswith(".json"):
        return _without_times(json.loads(data))
    if ".db" in name:
        return "a database, with times"
    if name.endswith((".md", ".html")):
        return TEXT_TIMES.sub(b"", _without_data(data))
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _without_data(data: bytes) -> bytes:
    return re.sub(rb'"(seconds|cpu_seconds|checkpoint_seconds|finished_at)": *[^,}\n]*', b"", data)


def results(found: Contents, patterns: tuple[str, ...]) -> dict[str, Any]:
    """Return what is a result in `found`, without times; an empty folder is none."""
    return {
        name: timeless(name, data)
        for name, data in found.items()
        if is_of(name, patterns) and not is_work(name) and data != "empty"
    }


@dataclass(frozen=True)
class Expected:
    """What a scenario's place holds: `own` are the person's files, `old` and `new` its results before and after."""

    scenario: Scenario
    own: Contents
    old: Contents
    new: Contents

    @classmethod
    def of(cls, scenario: Scenario, before: Contents, after: Contents) -> "Expected":
        """Divide the contents of a place before and after a command that nothing stopped."""

        def part(found: Contents, mine: bool) -> Contents:
            return {name: data for name, data in found.items() if is_of(name, scenario.outputs) != mine}

        own = {name: data for name, data in part(before, mine=True).items() if not is_work(name)}
        return cls(scenario, own, part(before, mine=False), part(after, mine=False))

    def check_stopped(self, place: Path) -> None:
        """Check a place in which the command was stopped at any moment."""
        found = contents(place)
        self._check_own(found)
        old, new = (results(self_part, self.scenario.outputs) for self_part in (self.old, self.new))
        for name, value in results(found, self.scenario.outputs).items():
            check_whole(place / name)
            if is_of(name, self.scenario.again_written):
                continue
            known = (old.get(name, _Missing), new.get(name, _Missing))
            between = self.scenario.grows and is_between(value, *known)
            assert between or value in known, f"{name}: neither old nor new"
        states = {last: self._state(last, found, old, new) for last in self.scenario.last}
        if set(states.values()) == {"old"}:
            now = results(found, self.scenario.outputs)
            assert {name: now.get(name) for name in old} == old, "the old results are not whole"

    def _state(self, last: str, found: Contents, old: dict[str, Any], new: dict[str, Any]) -> str:
        """Return whether `last` is wholly old or wholly new, with the audio that it names."""

        def part(results: dict[str, Any]) -> dict[str, Any]:
            twice = self.scenario.again_written
            return {name: value for name, value in results.items() if is_of(name, (last,)) and not is_of(name, twice)}

        now = part(results(found, self.scenario.outputs))
        for state, wanted in (("new", new), ("old", old)):
            if now != part(wanted):
                continue
            for name in _named_audio(last, found):
                assert found.get(name) == wanted.get(name), f"{last} is {state}, and {name} is not"
            return state
        raise AssertionError(f"{last}: neither wholly old nor wholly new")

    def check_finished(self, place: Path) -> None:
        """Check a place in which the stopped command was given again and came to its end."""
        found = contents(place)
        self._check_own(found)
        now, wanted = (results(part, self.scenario.outputs) for part in (found, self.new))
        kept = results(self.old, self.scenario.outputs)
        different = [name for name in wanted if now.get(name) != wanted[name]]
        assert not different, f"not as an undisturbed command leaves them: {different}"
        more = sorted(now.keys() - wanted.keys() - kept.keys())
        assert not more, f"an undisturbed command leaves none of these: {more}"
        left = [name for name in found if is_litter(name) and name not in self.own]
        assert not left, f"left behind: {left}"

    def _check_own(self, found: Contents) -> None:
        different = [name for name, data in self.own.items() if found.get(name) != data]
        assert not different, f"the person's own files are gone or changed: {different}"


def is_between(value: Any, old: Any, new: Any) -> bool:
    """Tell whether each line of a table is of the old or of the new one; of anything else it is not known."""
    if not isinstance(value, bytes):
        return True
    lines = [set(part.splitlines()) for part in (value, old, new) if isinstance(part, bytes)]
    return not value.startswith(b"{") or lines[0] <= set().union(*lines[1:])


class _Missing:
    """Equal to nothing that a file can hold."""


def is_litter(name: str) -> bool:
    """Tell whether a path is what only a command at work may have."""
    return any(part.endswith((LITTER, ".partial")) for part in name.split("/"))


def _named_audio(manifest: str, found: Contents) -> list[str]:
    data = found.get(manifest)
    if not manifest.endswith(".jsonl") or not isinstance(data, bytes):
        return []
    folder = manifest.rpartition("/")[0]
    rows = [json.loads(line) for line in data.splitlines()]
    return [f"{folder}/{row['audio']}" for row in rows if isinstance(row["audio"], str) and ".." not in row["audio"]]


def check_whole(path: Path) -> None:
    """Read a file as what its name says that it is; a manifest with the audio that it names."""
    if path.is_symlink() or not path.is_file():
        return
    data, kind = path.read_bytes(), path.suffix
    if kind == ".json":
        json.loads(data)
    elif kind == ".jsonl":
        assert not data or data.endswith(b"\n"), f"{path}: the last line is torn"
        for line in data.splitlines():
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("audio"), str):
                assert soundfile.info(path.parent / row["audio"]).frames > 0
    elif kind in (".flac", ".wav"):
        assert len(soundfile.read(BytesIO(data))[0]) > 0
    elif kind == ".safetensors":
        safetensors.numpy.load(data)
    elif kind == ".yaml":
        yaml.safe_load(data)
    elif kind in (".md", ".html"):
        assert data


class Server:
    """The other end of `kill_server.py`: runs commands in a copy of a place, to their end or to a given moment."""

    def __init__(self, scratch: Path, *, light: bool = False) -> None:
        self.scratch = scratch
        self.temporary = scratch / "tmp"
        self.temporary.mkdir(parents=True)
        self._log, self._events = scratch / "log.txt", scratch / "events.json"
        script = Path(__file__).with_name("kill_server.py")
        words = [sys.executable, str(script), *(["--light"] if light else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert json.loads(self._read())["threads"] == 1  # a fork copies one thread

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run(self, argv: list[str], place: Path, **moment: Any) -> int:
        """Run a command and return its exit code, negative where a signal ended it."""
        request = {
            "argv": argv,
            "cwd": str(place),
            "temporary": str(self.temporary),
            "log": "/dev/null" if "file_bytes" in moment else str(self._log),
            "events": None if "file_bytes" in moment else str(self._events),
            **moment,
        }
        assert self._process.stdin is not None
        self._events.unlink(missing_ok=True)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code: int = json.loads(self._read())["code"]
        return code

    def finish(self, argv: list[str], place: Path) -> None:
        """Run a command that must come to its end."""
        code = self.run(argv, place)
        assert code == 0, f"{argv} ended with {code}: {self.said}"

    @property
    def said(self) -> str:
        """Return what the last command printed."""
        return self._log.read_text(errors="replace")

    @property
    def events(self) -> list[str]:
        """Return what the last command did to files, in its order; it must have come to its end."""
        found: list[str] = json.loads(self._events.read_text())
        return found

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def again(scenario: Scenario, place: Path) -> list[str]:
    """Return the command that finishes what was stopped: `--resume` goes with a run that had begun."""
    begun = any(place.glob("out/*.partial/run.json"))
    return scenario.again if begun and scenario.again is not None else scenario.argv


def said_well(text: str) -> bool:
    """Tell whether no error came as a traceback; TensorBoard's own thread, which writes events, knows no other way."""
    return "Traceback" not in text.replace("Traceback", "", text.count("Exception in thread"))


def copy_place(place: Path, target: Path) -> Path:
    """Make a fresh copy of a place at `target`, whose path may have been used before."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(place, target, symlinks=True)
    return target
