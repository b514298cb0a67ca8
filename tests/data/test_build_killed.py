"""A build that is killed leaves no half manifest and goes on to the same bytes."""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.data.sources.base import AnyClip, Clip, PendingClip, build_clips, write_clips
from lora.data.sources.staging import Staging
from lora.errors import AudioError, SetupError, SourceError
from lora.scripts import build_manifest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signal")

KILLS = 20
CLIPS = 16


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a CSV of 8 kHz recordings, so that each clip takes some resampling."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(CLIPS):
        soundfile.write(folder / f"{number:02d}.wav", 0.1 * rng.standard_normal(4000), 8000)
    rows = [f"{number:02d}.wav,words of {number}" for number in range(CLIPS)]
    (folder / "rows.csv").write_text("\n".join(["audio,text", *rows]))
    return folder / "rows.csv"


def build(table: Path, output: Path, *options: str) -> int:
    return build_manifest.main(["--source", "csv", "--path", str(table), "--output", str(output), *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a copy of this process and return the copy's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads; these only wait
        child = os.fork()
    if child:
        return child
    code = 1
    with suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(2, 1)
        work()
        code = 0
    os._exit(code)


def finished_clips(folder: Path) -> int:
    journals = list(folder.glob(".*.partial/journal.jsonl"))
    return sum(journal.read_bytes().count(b"\n") for journal in journals)


@pytest.mark.parametrize("options", [[], ["--embed-audio"]], ids=["files", "inline"])
def test_killed_twenty_times_the_build_leaves_no_half_manifest_and_resumes_to_the_same_bytes(
    table: Path, tmp_path: Path, options: list[str]
) -> None:
    whole = tmp_path / "whole"
    assert build(table, whole / "m.jsonl", *options) == 0
    expected = contents(whole)
    rng = random.Random(0)
    kills = KILLS if not options else 5
    resumed = 0
    for attempt in range(kills):
        folder = tmp_path / f"killed-{attempt}"
        folder.mkdir()
        target = rng.randrange(CLIPS)
        child = in_child(lambda folder=folder: build(table, folder / "m.jsonl", *options))  # type: ignore[misc]
        # A moment that is random in the work and not in the clock: this machine may be busy.
        while finished_clips(folder) < target and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.003))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        if (folder / "m.jsonl").exists():
            assert (folder / "m.jsonl").read_bytes() == expected["m.jsonl"]
        resumed += bool(finished_clips(folder))
        assert build(table, folder / "m.jsonl", *options) == 0
        assert contents(folder) == expected
    assert resumed >= kills // 2


@pytest.mark.parametrize("older", [False, True], ids=["first build", "over an older build"])
def test_killed_at_any_step_of_the_last_moves_there_is_one_whole_manifest_or_none(
    table: Path, tmp_path: Path, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    assert build(table, whole / "m.jsonl", "--samples", "4") == 0
    expected = contents(whole)
    replace_path = Path.replace
    seen: set[str] = set()
    for step in range(20):
        folder = tmp_path / f"step-{step}"
        before: dict[str, bytes] = {}
        if older:
            assert build(table, folder / "m.jsonl", "--samples", "2", "--seed", "9") == 0
            before = contents(folder)
        left = [step]

        def dying(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return replace_path(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        child = in_child(lambda folder=folder: build(table, folder / "m.jsonl", "--samples", "4"))  # type: ignore[misc]
        status = os.waitpid(child, 0)[1]
        monkeypatch.setattr(Path, "replace", replace_path)
        visible = {name: data for name, data in contents(folder).items() if ".partial" not in name}
        if "m.jsonl" in visible:
            assert visible in (before, expected)
        seen.add("old" if older and visible == before else "new" if visible == expected else "none")
        assert build(table, folder / "m.jsonl", "--samples", "4") == 0
        assert contents(folder) == expected
        if status == 0:
            break
    assert status == 0, "the build takes more steps than were tried"
    assert seen == ({"old", "none", "new"} if older else {"none", "new"})


class Tape:
    """A source that counts what it decodes, and can tear."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def clips(self, *, tear_after: int | None = None, error: BaseException | None = None) -> Iterator[AnyClip]:
        for number in range(6):
            if number == tear_after and error is not None:
                raise error
            name = f"c{number}"
            yield PendingClip(
                name, f"words {number}", None, f"print {number}", 0.1, lambda name=name: self._decode(name)
            )  # type: ignore[misc]

    def _decode(self, name: str) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        self.decoded.append(name)
        return np.full(1600, int(name[1:]) / 10, dtype=np.float32), 16_000


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SetupError("the line went dead")], ids=["Ctrl-C", "network"])
def test_what_was_finished_before_an_interruption_is_not_decoded_again(tmp_path: Path, error: BaseException) -> None:
    tape = Tape()
    with pytest.raises(type(error)):
        write_clips(tape.clips(tear_after=4, error=error), tmp_path / "m.jsonl", workers=1)
    done = finished_clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == []
    assert done >= 1
    tape.decoded.clear()
    written = build_clips(tape.clips(), tmp_path / "m.jsonl", workers=1)
    assert (written.utterances, written.reused, len(tape.decoded)) == (6, done, 6 - done)
    assert len(read_manifest(tmp_path / "m.jsonl")) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jsonl", "m_audio"]


def interrupted(tmp_path: Path) -> Path:
    """Leave a build of which clips are finished, and return its hidden folder."""
    with pytest.raises(KeyboardInterrupt):
        write_clips(Tape().clips(tear_after=5, error=KeyboardInterrupt()), tmp_path / "m.jsonl", workers=1)
    (folder,) = tmp_path.glob(".m.jsonl.*.partial")
    assert len(list((folder / "audio").iterdir())) >= 3
    return folder


def test_a_torn_file_or_journal_is_noticed_and_made_again(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    (folder / "audio" / "c1.flac").write_bytes(b"torn")
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'["half a line')
    written = build_clips(Tape().clips(), tmp_path / "m.jsonl", workers=1)
    assert written.reused == 1
    write_clips(Tape().clips(), tmp_path / "whole.jsonl")
    assert [p.read_bytes() for p in sorted((tmp_path / "m_audio").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "whole_audio").iterdir())
    ]


def test_a_changed_row_and_all_after_it_are_made_again_and_lost_ones_leave_no_file(tmp_path: Path) -> None:
    interrupted(tmp_path)
    clips = [clip for clip in Tape().clips() if clip.id != "c2"]
    clips[1] = replace(clips[1], text="other words")
    written = build_clips(iter(clips), tmp_path / "m.jsonl", workers=1)
    assert written.reused == 1
    assert [utterance.text for utterance in read_manifest(tmp_path / "m.jsonl").utterances][1] == "other words"
    assert sorted(path.stem for path in (tmp_path / "m_audio").iterdir()) == ["c0", "c1", "c3", "c4", "c5"]


def test_another_build_does_not_take_what_was_left_and_says_that_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted(tmp_path)
    written = build_clips(Tape().clips(), tmp_path / "m.jsonl", build_key="another")
    assert written.reused == 0
    assert folder.name in "".join(capsys.readouterr().err.split())
    assert folder.is_dir()


def test_two_processes_cannot_be_at_one_build(tmp_path: Path) -> None:
    first = Staging(tmp_path / "m.jsonl", build_key=" embed_audio=False", embed_audio=False)
    with first, pytest.raises(SetupError, match="another process is at this build"):
        write_clips(Tape().clips(), tmp_path / "m.jsonl")


def test_every_clip_that_cannot_be_used_is_listed_and_nothing_is_left(tmp_path: Path) -> None:
    def torn(name: str) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        raise AudioError(f"{name}: truncated")

    clips: list[AnyClip] = list(Tape().clips())
    for number in (1, 4):
        clips[number] = replace(clips[number], decode=partial(torn, f"t.csv:{number}"))  # type: ignore[arg-type]
    clips.append(Clip("c9", np.zeros(0, dtype=np.float32), 16_000, "words"))
    with pytest.raises(SourceError, match="3 clips cannot be used") as error:
        write_clips(iter(clips), tmp_path / "m.jsonl")
    assert error.value.problems[:2] == ("t.csv:1: truncated", "t.csv:4: truncated")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_and_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    write_clips(Tape().clips(), tmp_path / "a" / "m.jsonl", workers=2)
    write_clips(Tape().clips(), tmp_path / "b" / "m.jsonl", workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [utterance.id for utterance in read_manifest(tmp_path / "b" / "m.jsonl").utterances] == [
        f"c{number}" for number in range(6)
    ]
