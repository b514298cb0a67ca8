"""Two processes on the CPU (gloo): the adapter and the counts of one process, one fate, one voice."""

import json
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora import processes
from lora.config import ExperimentConfig
from lora.errors import CheckFailed
from lora.runners.experiment import run_experiment
from lora.runners.provenance import command_of
from lora.scripts import run_stt, sweep
from lora.training import spread

SCRIPT = Path(__file__).with_name("two_processes.py")
WEIGHTS = "lora_adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class Launch:
    """What two processes left, and what one process makes of the same job."""

    folder: Path
    job: ExperimentConfig
    words: list[str]
    code: int
    output: str
    errors: str

    def result(self, process: int) -> Any:
        return json.loads((self.folder / f"process-{process}.json").read_text())


def command_line(job: ExperimentConfig) -> list[str]:
    return shlex.split(command_of("experiment", job))[2:]


@pytest.fixture(scope="module")
def launch(
    toy_checkpoint: Path, make_job: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory
) -> Launch:
    folder = tmp_path_factory.mktemp("two")
    job = make_job(
        folder,
        {"train": 24, "replay": 12, "domain": 11, "guardrail": 8, "dev": 6, "guard_dev": 5},
        seed=30,
        output_dir=folder / "two" / "run",
        max_steps=6,
        average_decay=0.0,  # so that few steps change what is said
        selection_budget=0.0,
        replay_ratio=0.5,
        eval_interval=3,
        batch_seconds=8.0,
        dropout=0.0,
        flat_sigma=0.05,
        distillation_weight=0.3,
        augment=["speed:0.95-1.05"],
    )
    words = command_line(job)
    (audio,) = folder.glob("domain_audio-*")
    model = ["--model-id", str(toy_checkpoint), "--device", "cpu"]
    (folder / "job.json").write_text(
        json.dumps(
            {
                "experiment": words,
                "run_stt": [*model, "--manifest", str(job.manifest_path), "--output", str(folder / "stt.json")],
                "run_stt_files": [
                    *model,
                    str(audio),
                    "--output",
                    str(folder / "files.json"),
                ],
                "refused": command_line(replace(job, output_dir=folder)),
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (folder / "process-1.json").is_file(), done.stderr
    return Launch(folder, job, words, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def alone(launch: Launch) -> Path:
    folder = launch.folder / "one" / "run"
    run_experiment(replace(launch.job, output_dir=folder))
    return folder


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_train_the_adapter_of_one(launch: Launch, alone: Path) -> None:
    two, one = load_file(launch.job.output_dir / WEIGHTS), load_file(alone / WEIGHTS)
    assert two.keys() == one.keys()
    assert max(float((two[name] - one[name]).abs().max()) for name in one) <= 1e-5
    assert max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name) > 1e-3
    for now, before in zip(
        rows_of(launch.job.output_dir / "history.jsonl"), rows_of(alone / "history.jsonl"), strict=True
    ):
        assert now.keys() == before.keys()
        if "loss" in now:
            assert now == pytest.approx(before, rel=1e-4, abs=1e-6)


def test_two_processes_count_what_one_counts(launch: Launch, alone: Path) -> None:
    kept = ("id", "set", "reference", "baseline", "tuned", "baseline_errors", "tuned_errors", "words")
    samples = [
        [{key: row[key] for key in kept} for row in rows_of(folder / "samples.jsonl")]
        for folder in (launch.job.output_dir, alone)
    ]
    assert samples[0] == samples[1]
    metrics = [
        json.loads((folder / "experiment_metrics.json").read_text()) for folder in (launch.job.output_dir, alone)
    ]
    for key in ("baseline_wer", "tuned_wer", "baseline_cer", "tuned_cer", "verdict"):
        assert metrics[0][key] == metrics[1][key]
    assert [part["processes"] for part in metrics] == [2, 1]
    assert metrics[0]["efficacy"]["outputs_changed"] > 0


def test_only_the_main_process_speaks_and_leaves_files(launch: Launch) -> None:
    assert launch.output.count("verdict: ") == 1
    assert launch.errors.count("alignment check: ") == 1
    left = {path.name for path in launch.job.output_dir.parent.iterdir()}
    assert left == {"run", ".cache"}
    assert launch.result(1)["tuned_wer"] == launch.result(0)["tuned_wer"]


def test_run_stt_gives_the_document_of_one_process(launch: Launch, tmp_path: Path) -> None:
    job = json.loads((launch.folder / "job.json").read_text())
    for key, name in (("run_stt", "stt.json"), ("run_stt_files", "files.json")):
        assert run_stt.main([*job[key][:-1], str(tmp_path / name)]) == 0
        two, one = (json.loads((folder / name).read_text()) for folder in (launch.folder, tmp_path))
        for row in (*two["utterances"], *one["utterances"]):
            row.pop("loss", None)
        assert two["utterances"] == one["utterances"]
        assert (two["wer"], two["cer"], two["samples"]) == (one["wer"], one["cer"], 11)


@pytest.mark.parametrize(
    ("scenario", "first", "second"),
    [
        ("fail_alone", ["ManifestError", "row 7 is empty", 2], ["ManifestError", "row 7 is empty", 2]),
        ("fail_writing", ["ManifestError", "cannot be written", 2], ["ManifestError", "cannot be written", 2]),
        ("fail_last", ["ManifestError", "too late", 2], ["ManifestError", "too late", 2]),
        (
            "have_a_defect",
            [
                "SetupError",
                "process 1 of 2 failed: ZeroDivisionError: division by zero. Its own output has the traceback.",
                1,
            ],
            ["ZeroDivisionError", "division by zero", 1],
        ),
    ],
)
def test_an_error_of_one_process_ends_all_with_its_message_and_code(
    launch: Launch, scenario: str, first: list[Any], second: list[Any]
) -> None:
    assert [launch.result(process)["errors"][scenario] for process in (0, 1)] == [first, second]


def test_processes_that_drift_apart_stop(launch: Launch) -> None:
    kind, text, code = launch.result(0)["errors"]["differ"]
    assert (kind, code) == ("CheckFailed", 3)
    assert "process 0: [10, 12, 14]" in text
    assert "process 1: [11, 13]" in text
    assert launch.result(1)["errors"]["differ"] == [kind, text, code]


@pytest.mark.parametrize(("scenario", "num_clips"), [("alone", 1), ("short", 8)])
def test_a_step_is_the_same_with_an_empty_share_and_with_pieces_of_another_number(
    launch: Launch, scenario: str, num_clips: int
) -> None:
    expected = runpy.run_path(str(SCRIPT))["step_of"](launch.words, num_clips, short_of_memory=False)
    results = [launch.result(process)[scenario] for process in (0, 1)]
    assert results[0] == results[1]
    for name, values in expected["gradients"].items():
        torch.testing.assert_close(
            torch.tensor(results[0]["gradients"][name]), torch.tensor(values), rtol=1e-3, atol=1e-6
        )
    assert results[0]["row"]["loss"] == pytest.approx(expected["row"]["loss"], rel=1e-5)
    assert results[0]["row"]["audio_seconds"] == pytest.approx(expected["row"]["audio_seconds"])
    assert results[0]["row"].get("out_of_memory") == ({"gradient_accumulation": 4} if scenario == "short" else None)


@pytest.mark.parametrize(("num_clips", "shares"), [(1, [1, 0]), (5, [3, 2])])
def test_each_process_runs_the_teacher_over_its_share_and_all_have_the_whole(
    launch: Launch, num_clips: int, shares: list[int]
) -> None:
    expected = runpy.run_path(str(SCRIPT))["taught_by"](launch.words, num_clips)
    results = [launch.result(process)["taught"][str(num_clips)] for process in (0, 1)]
    assert [result.pop("encoded") for result in results] == shares
    assert expected.pop("encoded") == num_clips
    assert results[0] == results[1]
    for result, wanted in zip(results[0].pop("log_probs"), expected.pop("log_probs"), strict=True):
        assert result == pytest.approx(wanted, abs=1e-5)
    # Rounding may put two tokens of nearly one probability in another order, but not the likeliest.
    likeliest = [[[ids[0] for ids in positions] for positions in one.pop("tokens")] for one in (results[0], expected)]
    assert likeliest[0] == likeliest[1]
    assert results[0] == expected
    assert expected["advanced"] == num_clips
    assert expected["own_audio"]
    assert set(expected["stored"]) == {0}
    assert any(text for _, _, text, *_ in expected["examples"])


def test_a_refused_command_is_refused_once_and_fails_the_launch(launch: Launch) -> None:
    assert launch.errors.count("cannot become the output folder") == 1
    assert launch.errors.count("exitcode  : 2") >= 1
    assert launch.code == 1


def test_a_command_for_one_process_refuses_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert sweep.main(["no-such-file.yaml"]) == 2
    assert "sweep: 4 processes were launched, and it runs in one" in capsys.readouterr().err


def test_shares_are_disjoint_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for index in range(3):
        monkeypatch.setattr(processes, "_group", processes._Group(index, 3))
        shares.append(processes.share_of(list(range(8))))
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


@pytest.mark.parametrize(("given", "what"), [("aab", "a: done 2 times"), ("b", "a: done 0 times")])
def test_an_utterance_that_is_done_twice_or_lost_stops_the_run(given: str, what: str) -> None:
    with pytest.raises(CheckFailed, match=what):
        spread._in_order("domain", ["a", "b"], [(name, name.upper()) for name in given])


def test_results_come_back_in_the_manifests_order() -> None:
    assert spread._in_order("domain", ["a", "b"], [("b", 2), ("a", 1)]) == [1, 2]
