"""Text from outside reaches neither the terminal nor a report with a character that a terminal obeys."""

import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.console import PlainConsole
from lora.errors import InputError
from lora.escape import printable, printable_lines
from lora.files import read_json, write_json
from lora.report.html import script_json
from lora.runners.progress import progress_bar
from lora.scripts.umbrella import main
from lora.terminal import guarded

KEPT = Path(__file__).parent / "fixtures" / "v0_1_0"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202ednuor\u2066\x7f\r[bold]:bomb:[/x] | `<b>` ${x}"
"""A window title, a colour as C1, an override, an isolate, marks of Rich, Markdown, HTML and TeX."""
BROKEN = "\udcff"
"""A byte of a file name that is no UTF-8."""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, checks what it prints, and returns that."""

    def run(*words: object, code: int | None = 0) -> str:
        capsys.readouterr()
        found = main([str(word) for word in words])
        shown = "".join(capsys.readouterr())
        assert code is None or found == code, shown
        assert not OBEYED.search(shown), ascii(shown)
        return shown

    return run


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of manifests, the current folder, whose names, ids, speakers and texts are hostile."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / f"data{HOSTILE.replace('/', '')}"
    shutil.copytree(KEPT / "data", folder)
    for path in list(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {
                "id": row["id"] + HOSTILE,
                "text": f"{row['text']}\x1b[2J\u202e",
                "speaker_id": f"{row['speaker_id']}{HOSTILE}",
                "more": HOSTILE,
            }
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        path.rename(folder / f"{path.stem}\x1b[2J.jsonl")
    return folder


def named(folder: Path, stem: str) -> Path:
    return folder / f"{stem}\x1b[2J.jsonl"


def check_pages(folder: Path) -> str:
    """Check every report below `folder` and return them all."""
    pages = [path for path in folder.rglob("*") if path.suffix in (".md", ".html")]
    assert pages
    texts = [path.read_text(encoding="utf-8") for path in pages]
    assert [path.name for path, text in zip(pages, texts, strict=True) if OBEYED.search(text)] == []
    return "\n".join(texts)


@given(st.text(alphabet=st.characters(), max_size=40))
def test_escapes_leave_nothing_that_is_obeyed_and_keep_the_rest(text: str) -> None:
    assert not OBEYED.search(printable(text))
    assert not set(printable(text)) & {"\n", "\t"}
    assert not OBEYED.search(printable_lines(text))
    assert printable_lines(printable_lines(text)) == printable_lines(text)
    plain = OBEYED.sub("", text)
    assert printable_lines(plain) == plain
    shown = printable_lines(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not OBEYED.search(script_json({text: [text]}))


def test_an_unknown_command(said: Callable[..., str]) -> None:
    assert "unknown command \\u001b" in said(HOSTILE + BROKEN, code=2)


def test_an_error_and_each_of_its_problems() -> None:
    error = InputError(f"{HOSTILE}\nerror: forged", [f"row{HOSTILE}\nerror: forged"])
    assert not OBEYED.search(str(error) + error.message + error.problems[0])
    assert [line for line in str(error).splitlines() if line.startswith("error")] == []


def test_a_config_file(said: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / f"c{HOSTILE.replace('/', '')}.yaml"
    config.write_text(json.dumps({HOSTILE: 1, "model_id": [HOSTILE]}), encoding="utf-8")
    assert "unknown key" in said("experiment", "--config", config, code=2)
    said("experiment", f"--{HOSTILE}", code=2)
    said("experiment", "--config", f"{config}{BROKEN}", code=2)


def test_a_model_and_an_adapter_of_such_a_name(said: Callable[..., str], tmp_path: Path) -> None:
    audio = next((KEPT / "data/test_audio").iterdir())
    said("transcribe", audio, "--model-id", f"./{HOSTILE}", code=2)
    said("transcribe", audio, "--model-id", f"owner/{HOSTILE}", code=2)
    said("transcribe", audio, "--adapter-dir", tmp_path / HOSTILE.replace("/", ""), code=2)


def test_recordings_of_such_names(said: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, source in enumerate(sorted((KEPT / "data/test_audio").iterdir())[:2]):
        shutil.copy(source, folder / f"{number}{HOSTILE.replace('/', '')}\n{BROKEN}.flac")
    assert len(said("transcribe", folder).splitlines()) >= 2
    said("run-stt", folder)
    said("run-stt", folder, "--output", tmp_path / "out.json")
    ids = [row["id"] for row in read_json(tmp_path / "out.json")["utterances"]]
    assert all(HOSTILE.replace("/", "") in name and BROKEN in name for name in ids)
    (folder / f"bad{HOSTILE.replace('/', '')}{BROKEN}.wav").write_bytes(b"no audio")
    said("transcribe", folder, code=2)


@pytest.mark.parametrize("fault", ["", "no speech"])
def test_a_folder_of_recordings_that_is_built(fault: str, said: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / f"rec{HOSTILE.replace('/', '')}"
    folder.mkdir()
    for source in (KEPT / "data/test_audio").iterdir():
        name = f"{source.stem}{HOSTILE.replace('/', '')}{BROKEN}"
        shutil.copy(source, folder / f"{name}.flac")
        (folder / f"{name}.txt").write_text("" if fault else f"two {HOSTILE}", encoding="utf-8")
    words = ["build-manifest", "--source", "folder", "--path", folder, "--output", tmp_path / "m\x1b[2J.jsonl"]
    said(*words, code=2 if fault else 0)


def test_the_manifest_commands(data: Path, said: Callable[..., str], tmp_path: Path) -> None:
    train, test = named(data, "train"), named(data, "test")
    said("stats", train, test)
    said("check", "--train", train, "--eval", test, "--output", tmp_path / "check", code=None)
    said("manifest-diagnostics", "--manifests", train, test, "--output", tmp_path / "check")
    check_pages(tmp_path / "check")
    said("merge-manifests", train, test, "--output", tmp_path / "merged\x9b2J.jsonl")
    said("sample", train, "--samples", "2", "--output", tmp_path / "some\x9b2J.jsonl")
    said("split", train, "--output-dir", tmp_path / "parts\x9b2J", "--parts", "a=0.5", "b=0.5")
    said("shift", test, "--output", tmp_path / "shifted\x9b2J.jsonl", "--transform", "telephone")


def test_a_run_and_its_reports(data: Path, said: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "run\x1b[31m`$x"
    words = [
        *("--dataset-path", named(data, "train"), "--validation-manifest", named(data, "dev")),
        *("--manifest-path", named(data, "test"), "--guardrail-manifest", named(data, "guardrail")),
        *("--replay-ratio", 0, "--distillation-weight", 0, "--max-steps", 2, "--rank", 1, "--strengths", 1),
        *(
            "--targets",
            "decoder-attention",
            "--device",
            "cpu",
            "--no-alignment-check",
            "--seeds",
            1,
            2,
            "--output-dir",
            output,
        ),
    ]
    said("experiment", *words)
    said("report", output / "seed-1")
    said("training-report", output / "seed-1", "--output", output / "seed-1/all.md")
    pages = check_pages(output)
    assert "\\u001b]0;owned" in pages
    record = read_json(output / "seed-1" / "experiment_metrics.json")
    assert record["manifests"]["domain"]["path"] == str(named(data, "test"))


def test_messages_of_other_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": HOSTILE}))
        print(HOSTILE, BROKEN, file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
    shown = "".join(capsys.readouterr())
    assert not OBEYED.search(shown)
    assert shown.count("\\u001b]0;owned\\u0007\\u009b31m\\u202e") == 3


def test_a_download_bar_of_another_package_may_move(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded():
        sys.stderr.write("\r 5%")
        sys.stderr.write("\n\x1b[A 6%")
        sys.stdout.write("\rname")
    assert capsys.readouterr() == ("\\u000dname", "\r 5%\n\x1b[A 6%")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_and_its_bars(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = PlainConsole()
    monkeypatch.setattr("lora.runners.progress.console", console)
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.setattr(type(console), "is_terminal", property(lambda _: terminal))
    with guarded():
        console.print(HOSTILE)
        with progress_bar(HOSTILE, 2) as report:
            report(1, HOSTILE)
            print(HOSTILE, file=sys.stderr)
            report(1)
    shown = out.getvalue()
    styled = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
    assert bool(styled.search(shown)) == terminal
    assert not OBEYED.search(styled.sub("", shown)), ascii(shown)
    assert "owned" in shown
    assert "[bold]:bomb:[/x]" in shown
    assert "\x1b]" not in shown
    assert "\x1b[31m" not in shown


def test_json_keeps_the_true_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": HOSTILE + BROKEN})
    assert read_json(tmp_path / "a.json") == {"path": HOSTILE + BROKEN}


def test_rich_is_reached_by_one_console() -> None:
    sources = Path(__file__).parents[1] / "src" / "lora"
    found = [path for path in sources.rglob("*.py") if "from rich.console" in path.read_text(encoding="utf-8")]
    assert found == [sources / "console.py"]
