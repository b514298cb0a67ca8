"""Command lines made from dataclasses."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from lora.config import option
from lora.errors import CheckFailed, ConfigError, InputError, SetupError
from lora.scripts.cli import Command, run_command


@dataclass(frozen=True, kw_only=True)
class Options:
    audio: list[Path] = option(positional=True, default_factory=list, help="audio files")
    max_steps: int = option(help="training steps, 5% of them warm-up")
    learning_rate: float = option(1e-4, help="peak rate")
    output_dir: Path | None = option(None, help="where to write")
    speakers: list[str] | None = option(None, help="speakers to keep")
    seeds: tuple[int, ...] = option((1, 2), help="seeds")
    device: Literal["cpu", "cuda"] = option("cpu", help="device")
    dtype: Literal["fp32", "bf16"] | None = option(None, help="precision")
    preset: str = option("all", choices=["all", "attention"], help="target modules")
    replay: bool = option(False, help="replay guardrail-like data")
    streaming: bool | None = option(None, help="read as a stream")
    note: str = option("none", help="a note")
    derived: int = field(default=0, init=False)


@dataclass(frozen=True, kw_only=True)
class Ran:
    code: int
    options: Any
    out: str
    err: str


def run(*words: str, options: type = Options) -> Ran:
    """Run a command on `words` and return everything a caller can see."""
    seen: list[Any] = []
    command = Command(
        "train",
        options,
        seen.append,
        "Train.\nTwice.",
        "\n    moonshine-lora train \\\n        --max-steps 3\n    50% more\n",
    )
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(command, words)
    return Ran(code=code, options=seen[0] if seen else None, out=out.getvalue(), err=err.getvalue())


def write(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_options_left_out_keep_the_defaults_of_the_dataclass() -> None:
    ran = run("--max-steps", "3")
    assert ran.code == 0
    assert ran.options == Options(max_steps=3)


def test_every_kind_of_option_reads_its_own_type() -> None:
    ran = run(
        *"a.wav b.wav --max-steps 3 --learning-rate 1e-3 --output-dir 2024 --speakers 1 null 1e5 --seeds 4 5".split(),
        *"--device cuda --dtype bf16 --preset attention --replay --no-streaming --note null".split(),
    )
    assert ran.options == Options(
        audio=[Path("a.wav"), Path("b.wav")],
        max_steps=3,
        learning_rate=0.001,
        output_dir=Path("2024"),
        speakers=["1", "null", "1e5"],
        seeds=(4, 5),
        device="cuda",
        dtype="bf16",
        preset="attention",
        replay=True,
        streaming=False,
        note="null",
    )


def test_a_list_option_given_twice_keeps_what_was_given_first(tmp_path: Path) -> None:
    words = ["--max-steps", "3", "--seeds", "4", "--speakers", "a", "--seeds", "5", "6"]
    options = run(*words, "--config", write(tmp_path, "seeds: [7]\n")).options
    assert (options.seeds, options.speakers) == ((4, 5, 6), ["a"])
    assert "--seeds: given several times" in run("--max-steps", "3", "--seeds=4", "--seeds=5").err


def test_an_option_wins_over_the_config_file_wherever_it_stands(tmp_path: Path) -> None:
    config = write(tmp_path, "max_steps: 7\nlearning_rate: 1e-3\nreplay: true\nseeds: [9]\naudio: [q.wav]\n")
    before = run("--max-steps", "8", "--no-replay", "--config", config)
    after = run(f"--config={config}", "--max-steps", "8", "--no-replay")
    assert before.options == after.options
    assert before.options == Options(max_steps=8, learning_rate=0.001, replay=False, seeds=(9,), audio=[Path("q.wav")])


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "0.0001", "1.0e-4", ".1e-3", "+1e-4"])
def test_numbers_with_an_exponent_are_numbers_in_a_config(tmp_path: Path, number: str) -> None:
    ran = run("--config", write(tmp_path, f"max_steps: 1\nlearning_rate: {number}\n"))
    assert ran.options.learning_rate == pytest.approx(1e-4)


def test_a_whole_number_serves_where_a_number_is_expected(tmp_path: Path) -> None:
    ran = run("--config", write(tmp_path, "max_steps: 1\nlearning_rate: 1\n"))
    assert (ran.options.learning_rate, type(ran.options.learning_rate)) == (1.0, float)


def test_every_fault_of_a_config_is_listed_at_once_with_the_nearest_right_name(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "learnin_rate: 1e-3\nmax_steps: 7.5\nspeakers: a\nseeds: [x]\ndtype: fp64\npreset: some\n"
        "replay: maybe\nlearning_rate: fast\nmax-steps: 3\nnote: null\n",
    )
    ran = run("--config", config)
    assert (ran.code, ran.options) == (2, None)
    assert ran.err.splitlines() == [
        f"error: {config}: not a config of 'train'; correct these:",
        "  - unknown key 'learnin_rate' (did you mean learning_rate?)",
        "  - max_steps: got 7.5, expected a whole number",
        "  - speakers: got 'a', expected a list of texts",
        "  - seeds: got ['x'], expected a list of whole numbers",
        "  - dtype: got 'fp64', expected one of fp32, bf16",
        "  - preset: got 'some', expected one of all, attention",
        "  - replay: got 'maybe', expected true or false",
        "  - learning_rate: got 'fast', expected a number",
        "  - unknown key 'max-steps' (did you mean max_steps?)",
        "  - note: got None, expected text",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("max_steps: 1\nmax_steps: 2\n", "'max_steps' appears twice"),
        ("max_steps: [1\n", "not valid YAML"),
        ("- max_steps\n", "got list, expected a mapping"),
        ("", "got NoneType, expected a mapping"),
        ("max_steps: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("derived: 3\nmax_steps: 1\n", "unknown key 'derived'"),
    ],
)
def test_a_config_that_is_not_a_plain_mapping_of_options_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    ran = run("--config", write(tmp_path, text))
    assert (ran.code, ran.options) == (2, None)
    assert fault in ran.err


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    ran = run("--config", str(tmp_path / "absent.yaml"))
    assert (ran.code, ran.err) == (2, f"error: {tmp_path}/absent.yaml: no such config file. Check the path.\n")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "missing --max-steps"),
        (["--max-steps", "3.5"], "--max-steps: got '3.5', expected a whole number"),
        (["--max-steps", "3", "--learning-rate", "x"], "--learning-rate: got 'x', expected a number"),
        (["--max-steps", "3", "--seeds", "1", "q"], "--seeds: got 'q', expected a whole number"),
        (["--max-steps", "3", "--device", "mps"], "--device: got 'mps', expected one of cpu, cuda"),
        (["--max-steps", "3", "--dtype", "fp64"], "--dtype: got 'fp64', expected one of fp32, bf16"),
        (["--max-steps", "3", "--preset", "some"], "--preset: got 'some', expected one of all, attention"),
        (["--max-steps"], "argument --max-steps: expected one argument"),
        (["--max_steps", "3"], "unknown argument --max_steps (did you mean --max-steps?)"),
        (["--max-steps", "3", "--learn", "1"], "unknown argument --learn (did you mean --learning-rate?)"),
        (
            ["--max-steps", "3", "--learnin-rate=1", "--zzz"],
            "unknown argument --learnin-rate (did you mean --learning-rate?); unknown argument --zzz",
        ),
    ],
)
def test_a_wrong_option_is_explained_in_one_line(words: list[str], fault: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.options) == (2, None)
    assert ran.err == f"error: moonshine-lora train: {fault}. See 'moonshine-lora train --help'.\n"


def test_help_shows_types_defaults_and_the_examples_on_their_own_lines() -> None:
    ran = run("--help")
    assert (ran.code, ran.options, ran.err) == (0, None, "")
    flat = " ".join(ran.out.split())
    assert "--max-steps INT training steps, 5% of them warm-up (required)" in flat
    assert "--learning-rate NUMBER peak rate (default: 0.0001)" in flat
    assert "--seeds INT [INT ...] seeds (default: 1 2)" in flat
    assert "--preset {all,attention} target modules (default: all)" in flat
    assert "--replay, --no-replay replay guardrail-like data (default: no)" in flat
    assert "\nTrain.\nTwice.\n" in ran.out
    assert ran.out.endswith("examples:\n  moonshine-lora train \\\n      --max-steps 3\n  50% more\n")


def test_a_command_with_an_option_named_config_keeps_it_for_itself() -> None:
    @dataclass(frozen=True, kw_only=True)
    class WithConfig:
        config: str = option("clean", help="the dataset's configuration")

    assert run("--config", "other", options=WithConfig).options == WithConfig(config="other")


def test_a_required_list_of_files_must_have_one_at_least() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Files:
        audio: list[Path] = option(positional=True, help="audio files")

    assert "missing audio" in run(options=Files).err
    assert run("a.wav", options=Files).options == Files(audio=[Path("a.wav")])


def test_options_can_check_themselves() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Checked:
        rank: int = option(8, help="rank")

        def __post_init__(self) -> None:
            if self.rank < 1:
                raise ConfigError(f"--rank: got {self.rank}, expected 1 or more.")

    ran = run("--rank", "0", options=Checked)
    assert (ran.code, ran.err) == (2, "error: --rank: got 0, expected 1 or more.\n")


@pytest.mark.parametrize(
    ("raised", "code", "printed"),
    [
        (InputError("bad.jsonl: wrong", ["line 17"]), 2, "error: bad.jsonl: wrong\n  - line 17\n"),
        (SetupError("no driver"), 1, "error: no driver\n"),
        (CheckFailed("misaligned"), 3, "error: misaligned\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_of_the_project_becomes_its_exit_code(
    raised: BaseException, code: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Options) -> None:
        raise raised

    assert run_command(Command("train", Options, fail, "", ""), ["--max-steps", "1"]) == code
    assert capsys.readouterr().err == printed


def test_a_defect_keeps_its_traceback() -> None:
    def fail(_: Options) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(Command("train", Options, fail, "", ""), ["--max-steps", "1"])


def test_the_exit_code_of_the_command_is_passed_on() -> None:
    assert run_command(Command("train", Options, lambda _: 3, "", ""), ["--max-steps", "1"]) == 3
