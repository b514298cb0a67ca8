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
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from lora.data import audio_folder
from lora.data.manifest import read_manifest
from lora.data.sources import staging
from lora.data.sources.base import AnyClip, Clip, PendingClip, Read, build_clips, write_clips
from lora.data.sources.csv_table import read_csv
from lora.data.sources.selection import Notes, Selection
from lora.data.sources.staging import PARTIAL, Staging
from lora.errors import AudioError, ConfigError, SetupError, SourceError
from lora.outputs import RECORD_NAME
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
    journals = list(folder.glob(f".*{PARTIAL}/journal.jsonl"))
    return sum(journal.read_bytes().count(b"\n") for journal in journals)


@pytest.mark.parametrize("options", [[], ["--embed-audio"]], ids=["files", "inline"])
def test_killed_twenty_times_the_build_leaves_no_half_manifest_and_resumes_to_the_same_bytes(
    table: Path, tmp_path: Path, options: list[str]
) -> None:
    whole = tmp_path / "whole"
    assert build(table, whole / "m.jsonl", *options) == 0
    expected = contents(whole)
    assert not whole.joinpath("m_audio").exists()
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


def visible(folder: Path) -> dict[str, bytes]:
    """Return the manifest and the audio that it names, and nothing that only it is to say that they are there."""
    manifest = folder / "m.jsonl"
    if not manifest.exists():
        return {}
    audio = [utterance.audio for utterance in read_manifest(manifest).utterances]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [manifest, *audio]}  # type: ignore[misc, list-item]


def killed_at_call(number: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `work` in a copy of this process that is killed before its call `number` that names, links or removes."""
    left = [number]

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in ((os, "rename"), (os, "replace"), (os, "link"), (os, "rmdir")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        child = in_child(work)
        return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("older", [False, True], ids=["first build", "over an older build"])
def test_killed_at_any_step_of_the_end_there_is_the_old_manifest_or_the_new_one_with_its_own_audio(
    table: Path, tmp_path: Path, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    assert build(table, whole / "m.jsonl", "--samples", "4") == 0
    expected = visible(whole)
    seen: set[str] = set()
    for step in range(40):
        folder = tmp_path / f"step-{step}"
        before: dict[str, bytes] = {}
        if older:
            assert build(table, folder / "m.jsonl", "--samples", "2", "--seed", "9") == 0
            before = contents(folder)
        old = visible(folder)
        status = killed_at_call(
            step,
            lambda folder=folder: build(table, folder / "m.jsonl", "--samples", "4"),
            monkeypatch,  # type: ignore[misc]
        )
        assert visible(folder) in (old, expected)
        seen.add("new" if visible(folder) == expected else "old")
        assert build(table, folder / "m.jsonl", "--samples", "4") == 0
        assert visible(folder) == expected
        kept = {name: data for name, data in before.items() if name not in (RECORD_NAME, "m.jsonl")}
        assert kept.items() <= contents(folder).items()
        assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != RECORD_NAME]
        if status == 0:
            break
    assert status == 0, "the build takes more steps than were tried"
    assert step > 6
    assert seen == {"old", "new"}


def test_killed_before_the_manifest_nothing_is_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    tape = Tape()
    monkeypatch.setattr(audio_folder, "output_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_clips(tape.clips(), tmp_path / "m.jsonl")
    monkeypatch.undo()
    (folder,) = tmp_path.glob("m_audio-*")
    assert not (tmp_path / "m.jsonl").exists()
    tape.decoded.clear()
    assert build_clips(tape.clips(), tmp_path / "m.jsonl").reused == 6
    assert tape.decoded == []
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_a_clip_that_changed_after_a_kill_is_not_written_into_the_audio_that_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audio_folder, "output_file", killed)
    with pytest.raises(KeyboardInterrupt):
        write_clips(Tape().clips(), tmp_path / "m.jsonl")
    monkeypatch.undo()
    (folder,) = tmp_path.glob("m_audio-*")
    clips = [
        replace(clip, fingerprint="new", decode=lambda: (np.ones(800, np.float32), 16_000)) for clip in Tape().clips()
    ]
    write_clips(clips, tmp_path / "m.jsonl")
    assert audio_folder.is_intact(folder)


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


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SetupError("the line went dead"),
        SourceError("the file is gone"),
        OSError(28, "No space left on device"),
        ValueError("nobody thought of it"),
    ],
    ids=["Ctrl-C", "network", "source", "disk", "bug"],
)
def test_what_was_finished_before_an_interruption_is_not_decoded_again(
    tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = Tape()
    with pytest.raises(type(error)):
        write_clips(tape.clips(tear_after=4, error=error), tmp_path / "m.jsonl", workers=1)
    assert "the same command goes on from there" in capsys.readouterr().err
    done = finished_clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == []
    assert done >= 1
    tape.decoded.clear()
    written = build_clips(tape.clips(), tmp_path / "m.jsonl", workers=1)
    assert (written.utterances, written.reused, len(tape.decoded)) == (6, done, 6 - done)
    assert len(read_manifest(tmp_path / "m.jsonl")) == 6
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != RECORD_NAME) == [
        "m.jsonl",
        next(tmp_path.glob("m_audio-*")).name,
    ]


def interrupted(tmp_path: Path) -> Path:
    """Leave a build of which clips are finished, and return its hidden folder."""
    with pytest.raises(KeyboardInterrupt):
        write_clips(Tape().clips(tear_after=5, error=KeyboardInterrupt()), tmp_path / "m.jsonl", workers=1)
    (folder,) = tmp_path.glob(f".m.jsonl.*{PARTIAL}")
    assert len(list((folder / "audio").iterdir())) >= 3
    return folder


def test_a_torn_file_or_journal_is_noticed_and_made_again(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    (folder / "audio" / "c1.flac").write_bytes(b"torn")
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'["half a line')
    written = build_clips(Tape().clips(), tmp_path / "m.jsonl", workers=1)
    assert 2 <= written.reused < 6
    write_clips(Tape().clips(), tmp_path / "whole" / "m.jsonl")
    assert visible(tmp_path) == visible(tmp_path / "whole")


def test_a_changed_row_alone_is_made_again_and_lost_ones_leave_no_file(tmp_path: Path) -> None:
    left = interrupted(tmp_path)
    done = sorted(path.stem for path in (left / "audio").iterdir())
    clips = [clip for clip in Tape().clips() if clip.id != "c2"]
    clips[1] = replace(clips[1], text="other words")
    written = build_clips(iter(clips), tmp_path / "m.jsonl", workers=1)
    assert written.reused == len(done) - 2
    assert [utterance.text for utterance in read_manifest(tmp_path / "m.jsonl").utterances][1] == "other words"
    (folder,) = tmp_path.glob("m_audio-*")
    assert sorted(path.stem for path in folder.iterdir()) == ["c0", "c1", "c3", "c4", "c5"]


def test_a_clip_that_was_mended_and_those_around_it_are_in_the_order_of_the_source(tmp_path: Path) -> None:
    clips = list(Tape().clips())
    faulty: list[Read] = [*clips[:2], SourceError("row 2: the row has no audio"), *clips[3:]]
    with pytest.raises(SourceError, match="row 2"):
        write_clips(faulty, tmp_path / "m.jsonl")
    assert build_clips(clips, tmp_path / "m.jsonl").reused == 5
    write_clips(clips, tmp_path / "whole" / "m.jsonl")
    assert visible(tmp_path) == visible(tmp_path / "whole")


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


def test_every_clip_that_cannot_be_used_is_listed_and_the_others_are_kept(tmp_path: Path) -> None:
    def torn(name: str) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        raise AudioError(f"{name}: truncated")

    clips: list[AnyClip] = list(Tape().clips())
    for number in (1, 4):
        clips[number] = replace(clips[number], decode=partial(torn, f"t.csv:{number}"))  # type: ignore[arg-type]
    clips.append(Clip("c9", np.zeros(0, dtype=np.float32), 16_000, "words"))
    with pytest.raises(SourceError, match="3 clips cannot be used") as error:
        write_clips(iter(clips), tmp_path / "m.jsonl")
    assert error.value.problems[:2] == ("t.csv:1: truncated", "t.csv:4: truncated")
    assert finished_clips(tmp_path) == 4
    assert visible(tmp_path) == {}
    assert build_clips(Tape().clips(), tmp_path / "m.jsonl").reused == 4


def test_clips_that_cannot_be_used_are_left_out_where_they_are_no_more_than_may_be(table: Path, tmp_path: Path) -> None:
    (table.parent / "03.wav").write_bytes(b"no audio")
    (table.parent / "05.wav").unlink()
    output = tmp_path / "out" / "m.jsonl"
    assert build(table, output, "--skip-faults", "0") == 2
    assert build(table, output, "--skip-faults", "1") == 2
    assert build(table, output, "--skip-faults", "2") == 0
    assert len(read_manifest(output)) == CLIPS - 2


def test_a_build_that_is_allowed_its_faults_goes_on_from_the_one_that_was_not(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (table.parent / "03.wav").write_bytes(b"no audio")
    output = tmp_path / "out" / "m.jsonl"
    assert build(table, output) == 2
    capsys.readouterr()
    assert build(table, output, "--skip-faults", "1") == 0
    out = capsys.readouterr().out
    assert f"resumed: {CLIPS - 1} of {CLIPS - 1} clips were there" in out
    assert "left out: 1 that cannot be used" in out
    assert "03.wav" in out
    assert build(table, output, "--skip-faults", "-1") == 2


def test_faults_alone_are_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no audio"):
        build_clips([SourceError("row 0: no audio")], tmp_path / "m.jsonl", skip_faults=5)


def test_where_no_clip_was_finished_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no audio"):
        write_clips([SourceError("row 0: no audio")], tmp_path / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_removed_while_a_table_is_read_is_a_fault_beside_others(table: Path, tmp_path: Path) -> None:
    notes = Notes()
    clips = read_csv(table, selection=Selection(), notes=notes)
    first = next(clips)
    for number in (3, 5):
        (table.parent / f"{number:02d}.wav").unlink()
    with pytest.raises(SourceError, match="2 clips cannot be used") as error:
        write_clips([first, *clips], tmp_path / "m.jsonl")
    assert all("does not exist" in problem for problem in error.value.problems)
    assert finished_clips(tmp_path) == CLIPS - 2


def test_a_place_that_cannot_be_written_is_named_and_what_is_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = Tape()
    write, left = Path.write_bytes, [4]

    def full(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SetupError, match=r"cannot be written \(No space left.*c4"):
        write_clips(tape.clips(), tmp_path / "m.jsonl", workers=1)
    monkeypatch.undo()
    assert build_clips(tape.clips(), tmp_path / "m.jsonl").reused == 4


def test_a_full_disk_at_the_journal_is_named_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = staging.write_all, [3]

    def full(file: BinaryIO, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            file.write(data[:10])
            raise OSError(28, "No space left on device")
        write(file, data)

    monkeypatch.setattr(staging, "write_all", full)
    with pytest.raises(SetupError, match="cannot be written"):
        write_clips(Tape().clips(), tmp_path / "m.jsonl")
    monkeypatch.undo()
    assert build_clips(Tape().clips(), tmp_path / "m.jsonl").reused == 3
    write_clips(Tape().clips(), tmp_path / "whole" / "m.jsonl")
    assert visible(tmp_path) == visible(tmp_path / "whole")


def test_a_name_of_255_bytes_is_possible(tmp_path: Path) -> None:
    output = tmp_path / ("m" * 249 + ".jsonl")
    write_clips(Tape().clips(), output)
    write_clips(list(Tape().clips())[:3], output)
    assert len(read_manifest(output)) == 3


def test_an_older_manifest_that_was_edited_stops_the_build_before_anything_is_read(tmp_path: Path) -> None:
    output = write_clips(Tape().clips(), tmp_path / "m.jsonl")
    output.write_text("edited", encoding="utf-8")
    before, tape = contents(tmp_path), Tape()
    with pytest.raises(ConfigError, match="was changed since"):
        write_clips(tape.clips(), output)
    assert tape.decoded == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_and_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    write_clips(Tape().clips(), tmp_path / "a" / "m.jsonl", workers=2)
    write_clips(Tape().clips(), tmp_path / "b" / "m.jsonl", workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [utterance.id for utterance in read_manifest(tmp_path / "b" / "m.jsonl").utterances] == [
        f"c{number}" for number in range(6)
    ]
