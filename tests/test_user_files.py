"""Whatever a person keeps around the place where a command writes, no byte of it changes, whatever the exit code.

Hypothesis draws a command, what of an earlier one is there, files of a person's own (at the very places of our output,
in and around them, links in and out, names that look like ours), and sometimes an input as the output.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kill_server
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keeping import Contents, contents, copy_place, is_of
from scenarios import SCENARIOS, build_place

from lora.data.sources.base import Clip
from lora.outputs import RECORD_NAME

HEAVY = [name for name, scenario in SCENARIOS.items() if scenario.heavy]
MODEL = ["merge", "average", "run-stt", "transcribe", "report", "training-report"]
LIGHT = [name for name in SCENARIOS if name not in (*HEAVY, *MODEL)]
OVERWRITES = ("experiment", "personal", "merge", "average")

PLACES = {
    "out/run": ("lora_adapter", "lora_adapter/adapter_config.json", "processor", "report.md", "report.html", "plots"),
    "out/run.partial": ("run.json", "checkpoints", "checkpoints/step-00000001", "config.yaml", "tensorboard"),
    "out/me": ("lora_adapter", "experiment_metrics.json"),
    "out/me.partial": ("run.json",),
    "out/me-data": ("recordings.jsonl", "recordings_audio/take-0.flac", "train.jsonl", "heldout.jsonl"),
    "out/sweep": ("sweep.json", "sweep.md", "best.yaml", "trial-0", "trial-0.partial"),
    "out/.cache": ("notes.txt", "baseline/mine.json", "waves-2.index"),
    "out/merged": ("config.json", "model.safetensors", "tokenizer.json"),
    "out/average": ("adapter_model.safetensors", "moonshine_lora.json"),
    "out/page": ("check.md", "check.json", "check.html", "manifest_diagnostics.md"),
    "out/fixed": ("faulty.jsonl", "removed.jsonl", "faulty_audio"),
    "out/m_audio": ("take-0.flac", "toy-44-0.flac", "toy-42-0.flac", "deep/er/one.wav"),
    "out/m.jsonl": (),
    "out/texts.json": (),
    "out/runs.md": (),
    "out/train_a.jsonl": (),
    "out/train_b.jsonl": (),
    "out/train_a_audio": ("toy-40-0.flac",),
    "voice/taught": ("manifest.jsonl", "audio", "audio/20260101-120000-000.wav"),
    "voice/history.jsonl": (),
    "recordings/metadata.jsonl": (),
    "runs/a": ("report.md", "report.html", "notes.md", "lora_adapter/notes.md"),
    "outside/folder": ("one.txt",),
}
LOOKALIKES = (
    "out/.m.jsonl.moonshine-lora.tmp",
    "out/.m.jsonl.0123456.moonshine-lora.tmp",
    "out/m.jsonl.01234567.moonshine-lora.tmp",
    "out/.run.01234567.moonshine-lora.tmp.txt",
    "out/.m.jsonl.mine.partial",
    "out/.m.jsonl.0123456789abcdef.partial.txt",
    "out/m_audio-0123456789abcdef",
    "out/m_audio-mine/a.flac",
    f"out/{RECORD_NAME}",
    f"out/run/{RECORD_NAME}",
)
NAMES = [*PLACES, *(f"{folder}/{name}" for folder, inside in PLACES.items() for name in inside), *LOOKALIKES]
INPUT = "its own input"
TARGETS = (
    *[INPUT] * 6,
    "data/domain.jsonl",
    "data/dev.jsonl",
    "data",
    "recordings",
    "recordings/take-0.wav",
    "recordings/new.jsonl",
    "recordings/deep/new.jsonl",
    "model",
    "model/config.json",
    "runs",
    "runs/a",
    "runs/a/lora_adapter",
    ".",
    "out",
    "notes.md",
    "out/link.md",
    "linked/m.jsonl",
    "linked",
    "sweep.yaml",
    "recipe.yaml",
)
KINDS = ("file", "edit", "folder", "empty", "link to file", "link to folder", "dangling", "hard link", "read-only")


@pytest.fixture(scope="module")
def place(make_clip: Callable[..., Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place in which only the manifests in `data` are ours."""
    folder = tmp_path_factory.mktemp("place")
    build_place(folder, make_clip)
    for name in ("outside/one.txt", "outside/folder/two.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine {name}")
    (folder / "linked").symlink_to("outside/folder")
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where each example makes its copy; the current folder."""
    folder = tmp_path_factory.mktemp("here") / "place"
    before = Path.cwd()
    yield folder
    os.chdir(before)


def put(place: Path, kind: str, name: str) -> None:
    """Do as a person does who keeps something of this name; nothing where it cannot be."""
    path = place / name
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        outside = place / "outside"
        if kind == "edit":
            with path.open("ab") as file:
                file.write(b"\nmy own words")
        elif kind in ("file", "read-only"):
            path.write_text(f"mine: {name}")
            path.chmod(0o444 if kind == "read-only" else 0o644)
        elif kind == "folder":
            path.mkdir()
            (path / "mine.txt").write_text(f"mine: {name}")
        elif kind == "empty":
            path.mkdir()
        elif kind == "hard link":
            os.link(outside / "one.txt", path)
        else:
            target = {"link to file": "one.txt", "link to folder": "folder", "dangling": "nowhere"}[kind]
            path.symlink_to(outside / target)


def redirected(argv: list[str], target: str | None) -> list[str]:
    """Return a command line with another place for the output."""
    if target is None:
        return argv
    words = list(argv)
    if target == INPUT:
        target = next(word for word in words[1:] if Path(word).exists())
    for option in ("--output", "--output-dir", "--fix"):
        if option in words:
            words[words.index(option) + 1] = target
    return words


def check_around(place: Path, whole: Path, drawn: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the drawn command among the drawn files and compare everything that is not its own earlier output."""
    scenario = SCENARIOS[drawn["name"]]
    os.chdir(whole)
    copy_place(whole, place)
    os.chdir(place)
    for record in (place / "data").rglob(RECORD_NAME) if drawn["data is the person's"] else ():
        record.unlink()
    before = contents(place)
    if drawn["rerun"]:
        assert kill_server.call(scenario.earlier or scenario.argv) == 0
    after = contents(place)
    made = ("runs/[ab]",) if drawn["data is the person's"] else ("runs/[ab]", "data")
    ours = {name: data for name, data in after.items() if before.get(name) != data or is_of(name, made)}
    for kind, name in drawn["files"]:
        put(place, kind, name)
    theirs = {name: data for name, data in contents(place).items() if ours.get(name) != data}
    read = [word for word in scenario.argv if not is_of(word, scenario.outputs)]
    theirs |= {name: data for name, data in contents(place).items() if name in read}
    argv = redirected(scenario.argv, drawn["target"])
    if drawn["overwrite"] and argv[0] in OVERWRITES:
        argv = [*argv, "--overwrite"]
    code = kill_server.call(argv)
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in capsys.readouterr().err
    check_kept(theirs, contents(place))


def check_kept(theirs: Contents, found: Contents) -> None:
    for name, data in theirs.items():
        if data == "empty":  # what is written into an empty folder takes nothing away
            assert name in found or any(other.startswith(f"{name}/") for other in found), f"{name}/ is gone"
        else:
            assert found.get(name) == data, f"{name}: changed or gone"


def around(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "name": st.sampled_from(names),
            "rerun": st.booleans(),
            "data is the person's": st.booleans(),
            "overwrite": st.booleans(),
            "files": st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES)), max_size=4),
            "target": st.none() | st.sampled_from(TARGETS),
        }
    )


def bounded(examples: int) -> Any:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # an example is dear, and few parts of it are left to be taken away
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@bounded(30)
@given(drawn=around(LIGHT))
def test_no_command_for_manifests_changes_what_is_not_its_own(
    drawn: dict[str, Any], place: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_around(here, place, drawn, capsys)


@pytest.mark.slow
@bounded(600)
@given(drawn=around([*LIGHT, "merge", "average", "report", "training-report"]))
def test_no_short_command_changes_what_is_not_its_own(
    drawn: dict[str, Any], whole_place: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_around(here, whole_place, drawn, capsys)


@pytest.mark.slow
@bounded(80)
@given(drawn=around([*HEAVY, "run-stt", "transcribe"]))
def test_no_long_command_changes_what_is_not_its_own(
    drawn: dict[str, Any], whole_place: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_around(here, whole_place, drawn, capsys)
