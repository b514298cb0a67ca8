"""One experiment, end to end, on a tiny model of a toy language."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from lora.config import ExperimentConfig
from lora.data import wave_store
from lora.data.audio import AudioHeader
from lora.errors import AdapterError, ConfigError, ManifestError
from lora.files import sha256_file
from lora.model.adapters import load_adapter
from lora.model.families import MoonshineFamily
from lora.model.load import load_bundle
from lora.runners import inputs, stages
from lora.runners.dry_run import estimate_experiment
from lora.runners.experiment import run_experiment
from lora.runners.provenance import command_of
from lora.scripts import experiment
from lora.scripts.cli import parse_options, read_config_file

CPU = torch.device("cpu")
ARTIFACTS = {
    "experiment_metrics.json",
    "history.jsonl",
    "samples.jsonl",
    "report.md",
    "config.yaml",
    "lora_adapter",
    "processor",
}
KEYS = """
    schema_version run_id command config seed device dtype base_model.id base_model.sha256 base_model.family
    adapter.method adapter.rank adapter.alpha adapter.target_modules adapter.trainable_parameters adapter.delta_norm
    manifests.train.path manifests.train.sha256 manifests.train.utterances manifests.train.seconds
    manifests.domain.path manifests.domain.sha256 manifests.domain.utterances manifests.domain.seconds
    manifests.guardrails.0.path manifests.guardrails.0.sha256 manifests.guardrails.0.utterances
    manifests.guardrails.0.seconds
    baseline_wer tuned_wer baseline_cer tuned_cer baseline_eval_loss tuned_eval_loss
    domain.baseline domain.tuned domain.delta domain.ci95 domain.relative_reduction
    guardrails.0.name guardrails.0.baseline guardrails.0.tuned guardrails.0.delta guardrails.0.ci95
    headroom.baseline_wer alignment_check.passed alignment_check.aligned_loss alignment_check.misaligned_loss
    efficacy.delta_norm efficacy.outputs_changed
    train.steps train.seconds train.audio_seconds train.first_loss train.final_loss train.stopped_by
    verdict.decision verdict.reasons versions.torch versions.transformers versions.peft git_commit
""".split()


@pytest.fixture(scope="module")
def job(make_job: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """A job of four steps; its manifests share no clip."""
    data = tmp_path_factory.mktemp("data")
    counts = {"train": 24, "replay": 12, "domain": 10, "guardrail": 8, "dev": 6, "guard_dev": 6}
    return make_job(data, counts, seed=10, output_dir=data / "never", max_steps=4, eval_interval=2, batch_seconds=8.0)


@pytest.fixture(scope="module")
def finished(job: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_experiment(replace(job, output_dir=folder))
    return folder


def read_metrics(folder: Path) -> Any:
    return json.loads((folder / "experiment_metrics.json").read_text())


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def arguments(job: ExperimentConfig, output: Path, **changes: Any) -> list[str]:
    """Return the command line of a job."""
    words = shlex.split(command_of("experiment", replace(job, output_dir=output, **changes)))
    return words[2:]


def assert_refused(
    words: list[str], output: Path, capsys: pytest.CaptureFixture[str], *messages: str, code: int = 2
) -> None:
    """Run the command and check its exit code, its message, and that it left no output folder, whole or partial."""
    assert experiment.main(words) == code
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    for message in messages:
        assert message in error
    left = [path.name for path in output.parent.iterdir() if path.name != ".cache"] if output.parent.exists() else []
    assert left == []


def test_a_run_leaves_every_artifact_and_every_key(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= ARTIFACTS
    assert [path.name for path in finished.parent.iterdir() if path != finished] == [".cache"]
    metrics = read_metrics(finished)
    for key in KEYS:
        value: Any = metrics
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    assert metrics["train"]["steps"] == 4
    assert metrics["alignment_check"]["passed"] is True
    assert metrics["efficacy"]["switched_off_equals_baseline"] is True


def test_samples_join_references_and_hypotheses_by_id_and_add_up(finished: Path, job: ExperimentConfig) -> None:
    metrics, rows = read_metrics(finished), read_rows(finished / "samples.jsonl")
    domain = [row for row in rows if row["set"] == "domain"]
    references = {row["id"]: row["text"] for row in read_rows(job.manifest_path)}
    assert {row["id"]: row["reference"] for row in domain} == references
    assert len([row for row in rows if row["set"] == "guardrail"]) == 8
    words = sum(row["words"] for row in domain)
    assert metrics["baseline_wer"] == pytest.approx(sum(row["baseline_errors"] for row in domain) / words)
    assert metrics["tuned_wer"] == pytest.approx(sum(row["tuned_errors"] for row in domain) / words)
    assert metrics["domain"]["delta"] == pytest.approx(metrics["tuned_wer"] - metrics["baseline_wer"])
    assert metrics["efficacy"]["outputs_changed"] == sum(row["baseline"] != row["tuned"] for row in domain)


def test_the_history_has_a_row_for_every_step_and_evaluation(finished: Path) -> None:
    rows = read_rows(finished / "history.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval" in row] == [0, 2, 4]
    assert {"validation_wer", "guardrail_wer"} <= set(rows[0]["eval"])


def test_the_report_opens_with_the_verdict(finished: Path) -> None:
    head = (finished / "report.md").read_text()[:1500]
    assert read_metrics(finished)["verdict"]["decision"] in head.lower()


def test_two_runs_of_one_seed_have_the_same_metrics_and_adapter_bytes(
    finished: Path, job: ExperimentConfig, tmp_path: Path
) -> None:
    run_experiment(replace(job, output_dir=tmp_path / "again"))
    first, second = read_metrics(finished), read_metrics(tmp_path / "again")
    for metrics in (first, second):
        del metrics["run_id"], metrics["command"], metrics["config"]["output_dir"]
        del metrics["seconds"], metrics["times"]
        for name in ("seconds", "cpu_seconds", "checkpoint_seconds"):
            del metrics["train"][name]
    assert first == second
    for name in ("lora_adapter/adapter_model.safetensors", "samples.jsonl", "history.jsonl"):
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_seed_trains_another_adapter(finished: Path, job: ExperimentConfig, tmp_path: Path) -> None:
    run_experiment(replace(job, output_dir=tmp_path / "other", seed=43, max_steps=1))
    name = "lora_adapter/adapter_model.safetensors"
    assert sha256_file(finished / name) != sha256_file(tmp_path / "other" / name)


def test_the_saved_adapter_belongs_to_its_base_alone(
    finished: Path, job: ExperimentConfig, checkpoints: dict[str, Path]
) -> None:
    _, record = load_adapter(load_bundle(job.model_id, CPU), finished / "lora_adapter")
    assert record.base_sha256 == read_metrics(finished)["base_model"]["sha256"]
    other = load_bundle(str(checkpoints["moonshine"]), CPU)
    with pytest.raises(AdapterError) as caught:
        load_adapter(other, finished / "lora_adapter")
    assert other.sha256 in str(caught.value)
    assert record.base_sha256 in str(caught.value)


def test_the_recorded_command_and_config_repeat_the_run(finished: Path, job: ExperimentConfig) -> None:
    config = replace(job, output_dir=finished)
    words = shlex.split(read_metrics(finished)["command"])
    assert words[:2] == ["moonshine-lora", "experiment"]
    assert parse_options(experiment.COMMAND, words[2:]) == config
    assert parse_options(experiment.COMMAND, ["--config", str(finished / "config.yaml")]) == config


def test_verdict_and_paths_are_printed_last(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment.main(arguments(job, tmp_path / "run", max_steps=1)) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("verdict: ")
    paths = [Path(line) for line in rest if not line.startswith("  - ")]
    assert rest[-len(paths) :] == [str(path) for path in paths]
    assert all(path.exists() for path in paths)
    assert {"lora_adapter", "processor", "experiment_metrics.json", "report.md"} <= {path.name for path in paths}


def test_the_streaming_family_runs_on_cached_states_and_splits_its_own_development_set(
    job: ExperimentConfig, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    metrics = run_experiment(
        replace(
            job,
            output_dir=tmp_path / "run",
            model_id=str(checkpoints["moonshine_streaming"]),
            targets="decoder",
            alignment_check=False,
            replay_manifest=None,
            replay_ratio=0.0,
            distillation_weight=0.0,
            validation_manifest=None,
            guardrail_validation_manifest=None,
            max_steps=2,
        )
    )
    assert metrics["base_model"]["family"] == "moonshine_streaming"
    assert all(".decoder." in name for name in metrics["adapter"]["target_modules"])
    held_out = metrics["manifests"]["development"]["domain_dev"]
    assert metrics["manifests"]["train"]["utterances"] + held_out == 24
    assert metrics["alignment_check"]["passed"] is False  # a random model; the run was told to go on


def test_a_misaligned_objective_stops_the_run_with_code_3(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(job, tmp_path / "run", objective="misaligned")
    assert_refused(words, tmp_path / "run", capsys, "alignment check: the training objective is not", code=3)


def test_long_training_clips_are_left_out_and_counted(job: ExperimentConfig, tmp_path: Path) -> None:
    rows = read_rows(job.dataset_path)
    samples = [soundfile.info(job.dataset_path.parent / row["audio"]).frames for row in rows]
    limit = sorted(samples)[11] / 16_000
    metrics = run_experiment(replace(job, output_dir=tmp_path / "run", max_seconds=limit, max_steps=1))
    assert metrics["manifests"]["train"]["utterances"] == sum(count / 16_000 <= limit for count in samples)
    replay = metrics["manifests"]["replay"]["utterances"]
    assert metrics["manifests"]["train"]["left_out"] == 36 - metrics["manifests"]["train"]["utterances"] - replay


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def good_row(number: int) -> dict[str, Any]:
    wave = np.random.default_rng(number).normal(0, 0.05, 4_000).round(4)
    return {"id": f"r{number}", "audio": wave.tolist(), "text": "one two"}


def test_a_missing_manifest_is_refused(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(job, tmp_path / "out" / "run", dataset_path=tmp_path / "missing.jsonl")
    assert_refused(words, tmp_path / "out" / "run", capsys, "missing.jsonl: no such manifest")


def test_every_fault_of_every_manifest_is_listed_with_its_line(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = [good_row(number) for number in range(20)]
    rows[16] = '{"audio": [0.1, "text": "one"}'
    rows[3]["text"] = "  "
    rows[5] = '{"audio": [0.1, NaN], "text": "one"}'
    train = write_rows(tmp_path / "in" / "train.jsonl", rows)
    domain = write_rows(tmp_path / "in" / "domain.jsonl", [good_row(1), {"audio": "gone.wav", "text": "one"}])
    output = tmp_path / "out" / "run"
    assert_refused(
        arguments(job, output, dataset_path=train, manifest_path=domain),
        output,
        capsys,
        "train.jsonl:17: not valid JSON",
        "train.jsonl:4: text is empty",
        "train.jsonl:6: not valid JSON (the number NaN is not allowed)",
        "domain.jsonl:2: audio file 'gone.wav' does not exist",
    )


def test_every_unusable_clip_of_every_manifest_is_listed(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text.wav").write_text("this is not audio\n")
    samples = np.zeros(8_000, dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16_000, subtype="FLOAT")
    train = write_rows(folder / "train.jsonl", [good_row(1), {"audio": "text.wav", "text": "one"}])
    domain = write_rows(
        folder / "domain.jsonl", [{"audio": "nan.wav", "text": "one"}, good_row(2) | {"text": "one </s>"}]
    )
    output = tmp_path / "out" / "run"
    assert_refused(
        arguments(job, output, dataset_path=train, manifest_path=domain),
        output,
        capsys,
        "train.jsonl:2: text.wav: cannot be decoded as audio",
        "domain.jsonl:1: 1 of 8000 samples are NaN or infinite",
        "domain.jsonl:2: text 'one </s>' spells the model's start or end token",
    )


def test_values_out_of_range_are_listed_together(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "run"
    words = arguments(job, output, max_steps=0, learning_rate=7.0)
    assert_refused(words, output, capsys, "max_steps: got 0", "learning_rate: got 7.0")


def test_an_unknown_key_in_a_config_file_is_refused_with_the_nearest_right_one(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "in" / "job.yaml"
    config.parent.mkdir()
    config.write_text("learning_rat: 1e-4\nmax_stepz: 3\n")
    output = tmp_path / "out" / "run"
    words = [*arguments(job, output), "--config", str(config)]
    assert_refused(words, output, capsys, "did you mean learning_rate?", "did you mean max_steps?")


def test_mps_on_a_machine_without_it_is_refused(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    output = tmp_path / "out" / "run"
    assert_refused(arguments(job, output, device="mps"), output, capsys, "--device mps: MPS exists on Apple Silicon")


def test_the_same_audio_in_training_and_evaluation_is_refused(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "run"
    words = arguments(job, output, manifest_path=job.dataset_path)
    assert_refused(words, output, capsys, "share clips", "the same audio is in training: 'toy-10-0'", "--allow-leakage")


def as_other_recordings(source: Path, target: Path) -> Path:
    """Write a manifest of the same recordings, softer and at 48 kHz, under other ids, texts and speakers."""
    target.parent.mkdir()
    rows = read_rows(source)
    for number, row in enumerate(rows):
        samples, rate = soundfile.read(source.parent / row["audio"], dtype="float32")
        soundfile.write(target.parent / f"{number}.wav", 0.3 * soxr.resample(samples, rate, 48_000), 48_000)
        row |= {"id": f"other-{number}", "audio": f"{number}.wav", "text": "one two", "speaker_id": "someone"}
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("validation_manifest", "dataset_path"),
        ("validation_manifest", "replay_manifest"),
        ("guardrail_validation_manifest", "replay_manifest"),
        ("guardrail_validation_manifest", "dataset_path"),
        ("validation_manifest", "manifest_path"),
        ("manifest_path", "replay_manifest"),
    ],
)
@pytest.mark.parametrize("is_copy", [False, True])
def test_no_clip_may_be_in_two_of_training_development_and_evaluation(
    job: ExperimentConfig, tmp_path: Path, name: str, of: str, is_copy: bool
) -> None:
    source: Path = getattr(job, of)
    path = as_other_recordings(source, tmp_path / "other" / "set.jsonl") if is_copy else source
    with pytest.raises(ManifestError, match="share clips") as caught:
        # Without memory for audio only what may be the same is read.
        estimate_experiment(replace(job, output_dir=tmp_path / "run", wave_cache_gib=0.0, **{name: path}))
    problems = [one for one in caught.value.problems if "audio" in one or "recording" in one]
    what = "likely the same recording" if is_copy else "the same audio"
    assert len(problems) == len(read_rows(source))
    assert all(f"{what} is in training: " in problem for problem in problems)
    assert all(
        f"{source}:{line}" in problem and f"{path}:{line}" in problem for line, problem in enumerate(problems, 1)
    )


def test_an_mp3_whose_header_is_out_is_compared_by_its_true_length(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to be far longer than it is, it would be like no clip of another set."""
    domain = job.manifest_path
    row = read_rows(domain)[0]
    samples, rate = soundfile.read(domain.parent / row["audio"], dtype="float32")
    soundfile.write(tmp_path / "copy.mp3", samples, rate, format="MP3", subtype="MPEG_LAYER_III")
    train = tmp_path / "train.jsonl"
    rows = [row | {"audio": str(job.dataset_path.parent / row["audio"])} for row in read_rows(job.dataset_path)]
    rows.append({"id": "copy", "audio": "copy.mp3", "text": "one two"})
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = wave_store.read_header

    def out_by_half_a_second(path: Path, *, name: str) -> AudioHeader:
        header = read(path, name=name)
        return header if header.is_exact else replace(header, num_samples=header.num_samples + rate // 2)

    monkeypatch.setattr(wave_store, "read_header", out_by_half_a_second)
    options = {"dataset_path": train, "allow_outside_audio": True, "wave_cache_gib": 0.0}
    with pytest.raises(ManifestError, match="share clips") as caught:
        estimate_experiment(replace(job, output_dir=tmp_path / "run", **options))
    [problem] = caught.value.problems
    assert f"{domain}:1" in problem
    assert "likely the same recording is in training: 'copy'" in problem


@pytest.mark.parametrize("option", ["dataset_path", "manifest_path", "validation_manifest", "replay_manifest"])
def test_audio_outside_of_a_manifests_folder_is_not_read_unless_it_is_allowed(
    job: ExperimentConfig, tmp_path: Path, option: str
) -> None:
    source: Path = getattr(job, option)
    path = tmp_path / "set.jsonl"
    rows = [row | {"audio": str(source.parent / row["audio"])} for row in read_rows(source)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(job, output_dir=tmp_path / "run", **{option: path})
    with pytest.raises(ManifestError) as caught:
        inputs.read_manifests(config)
    assert len(caught.value.problems) == len(rows)
    assert all("--allow-outside-audio" in problem for problem in caught.value.problems)
    inputs.read_manifests(replace(config, allow_outside_audio=True))


def test_a_development_set_may_number_its_clips_as_training_does(job: ExperimentConfig, tmp_path: Path) -> None:
    rows, names = read_rows(job.validation_manifest), [row["id"] for row in read_rows(job.dataset_path)]
    folder = job.validation_manifest.parent
    renamed = [row | {"id": name, "audio": str(folder / row["audio"])} for row, name in zip(rows, names, strict=False)]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    config = replace(job, output_dir=tmp_path / "run", validation_manifest=path, allow_outside_audio=True)
    manifests = inputs.read_manifests(config)
    shared = inputs.load_data(inputs.open_run(config), manifests).leakage
    assert shared["domain_dev"]["id"] == shared["domain_dev"]["audio"] == 0
    assert shared["domain_dev"]["speaker"] == len(rows)


def test_allowed_leakage_is_recorded(job: ExperimentConfig, tmp_path: Path) -> None:
    config = replace(job, output_dir=tmp_path / "run", manifest_path=job.dataset_path, allow_leakage=True, max_steps=1)
    metrics = run_experiment(config)
    shared = metrics["manifests"]["shared_with_training"]["domain"]
    assert shared["audio"] == shared["speaker"] == metrics["manifests"]["domain"]["utterances"]
    assert f"domain: id {shared['id']}, audio {shared['audio']}" in (tmp_path / "run" / "report.md").read_text()


def test_distillation_augmentation_and_strength_work_together(job: ExperimentConfig, tmp_path: Path) -> None:
    config = replace(
        job,
        output_dir=tmp_path / "run",
        max_steps=2,
        distillation_weight=0.5,
        distillation_texts="base",
        augment=["speed:0.95-1.05"],
        strengths=[0.0, 0.5],
        flat_sigma=0.05,
        lora_plus=4.0,
    )
    metrics = run_experiment(config)
    assert [row["scale"] for row in metrics["strength"]] == [0.0, 0.5]
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    before = next(row["eval"] for row in history if row["step"] == 0)
    assert metrics["strength"][0]["domain_wer"] == before["validation_wer"]
    # Of two strengths, one of which is no adapter at all, the other is kept where it gains anything.
    half = metrics["strength"][1]
    loss = 10 * max(half["guardrail_wer"] - before["guardrail_wer"] - job.selection_budget, 0)
    gains = before["validation_wer"] > half["domain_wer"] + loss
    assert metrics["adapter"]["strength"] == (0.5 if gains else 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ["speed:0.9-1.1"], "distillation_weight": 0.5}, "the teacher hears replay as it is"),
        ({"distillation_weight": 0.0}, "there is nothing to change"),
        ({"augment": ["speed:0.9-1.1"], "replay_ratio": 0.0}, "there is nothing to change"),
    ],
)
def test_augmented_replay_is_refused_where_it_cannot_be_or_its_teacher_heard_something_else(
    job: ExperimentConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(job, **({"augment_replay": True} | options)).check()
    assert any(message in problem for problem in caught.value.problems)


def test_every_guardrail_is_judged_by_its_own_budget(
    job: ExperimentConfig, write_toy_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    second = write_toy_manifest(tmp_path / "second.jsonl", count=8, seed=30)
    guardrails, budgets = [*job.guardrail_manifest, second], [0.03, 0.5]
    config = replace(
        job, output_dir=tmp_path / "run", guardrail_manifest=guardrails, guardrail_budget=budgets, max_steps=1
    )
    metrics = run_experiment(config)
    assert [(row["name"], row["budget"]) for row in metrics["guardrails"]] == [("guardrail", 0.03), ("second", 0.5)]
    for name, budget in (("guardrail", "+3.0"), ("second", "+50.0")):
        (reason,) = [text for text in metrics["verdict"]["reasons"] if text.startswith(f"Guardrail {name}:")]
        assert f"budget of {budget} points" in reason


@pytest.mark.parametrize("budgets", [[0.01, 0.02], [0.01, 0.01, 0.01]])
def test_budgets_that_do_not_fit_the_guardrails_are_refused(job: ExperimentConfig, budgets: list[float]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(job, guardrail_budget=budgets).check()
    assert caught.value.problems == (
        f"guardrail_budget: got {len(budgets)} for 1 guardrail(s), expected one for all, or one each in the order of "
        "guardrail_manifest",
    )


def test_one_budget_in_a_config_file_stands_for_all(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text, expected in (("0.02", [0.02]), ("[0.02, 0.03]", [0.02, 0.03])):
        path.write_text(f"guardrail_budget: {text}\n", encoding="utf-8")
        assert read_config_file(experiment.COMMAND, path) == {"guardrail_budget": expected}
    path.write_text("strengths: 0.5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="correct these") as caught:
        read_config_file(experiment.COMMAND, path)
    assert caught.value.problems == ("strengths: got 0.5, expected a list of numbers",)


def test_a_base_that_is_not_itself_with_the_adapter_off_fails_the_run(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken(model: torch.nn.Module) -> Iterator[None]:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        yield

    monkeypatch.setattr(stages, "adapter_off", broken)
    output = tmp_path / "run"
    assert experiment.main(arguments(job, output, max_steps=1)) == 3
    told = capsys.readouterr()
    assert "error: with the adapter switched off" in told.err
    assert "toy-12-0: baseline" in told.err
    # The run is marked and nothing of it is lost; nobody takes it for a success.
    metrics = read_metrics(output)
    assert (metrics["status"], metrics["verdict"]["decision"]) == ("check_failed", "reject")
    assert metrics["efficacy"]["switched_off_equals_baseline"] is False
    assert "A check did not pass" in (output / "report.md").read_text()
    assert (output / "lora_adapter" / "adapter_model.safetensors").is_file()
    assert not output.with_name("run.partial").exists()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_training_without_the_replay_that_it_asks_for_is_refused(
    job: ExperimentConfig, tmp_path: Path, weight: float
) -> None:
    config = replace(job, output_dir=tmp_path / "run", replay_manifest=None, distillation_weight=weight)
    with pytest.raises(ConfigError, match="Give --replay-manifest"):
        run_experiment(config)
    assert not (tmp_path / "run").exists()


def test_the_base_models_texts_without_replay_are_refused(job: ExperimentConfig, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = replace(job, output_dir=output, replay_ratio=0.0, distillation_weight=0.0, distillation_texts="base")
    with pytest.raises(ConfigError, match="distillation_texts: got base with replay_ratio 0"):
        run_experiment(config)
    assert not output.exists()


def test_guardrails_need_names_of_their_own(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "run"
    taken = tmp_path / "domain_dev.jsonl"
    words = arguments(job, output, guardrail_manifest=[*job.guardrail_manifest, taken])
    assert_refused(words, output, capsys, "file names guardrail, domain_dev; expected different names")


@pytest.mark.parametrize("kind", ["file", "folder", "parent", "inputs"])
def test_an_output_folder_is_never_put_in_the_place_of_something_else(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    output, changes, message = tmp_path / "run", {}, "holds what is not earlier output"
    if kind == "file":
        output.write_text("precious")
        message = "is no folder; expected a place for one"
    elif kind == "parent":
        (tmp_path / "above").write_text("precious")
        output, message = tmp_path / "above" / "run", "above: is a file; expected a folder"
    else:
        output.mkdir()
        (output / "notes.txt").write_text("precious")
    if kind == "inputs":
        (output / "experiment_metrics.json").write_text("{}")
        changes = {"dataset_path": write_rows(output / "train.jsonl", [good_row(1)])}
        message = "train.jsonl: is read, and lies in it"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert experiment.main(arguments(job, output, **changes)) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_replaced_as_a_whole_and_notes_in_it_stay(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    run_experiment(replace(job, output_dir=output, max_steps=1))
    run_experiment(replace(job, output_dir=output, max_steps=2))
    assert {path.name for path in output.iterdir()} >= ARTIFACTS
    assert read_metrics(output)["train"]["steps"] == 2
    (output / "notes.md").write_text("precious")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert experiment.main(arguments(job, output, max_steps=1)) == 2
    assert "notes.md" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    run_experiment(replace(job, output_dir=output, max_steps=1, overwrite=True))
    assert (output / "notes.md").read_text() == "precious"
    assert read_metrics(output)["train"]["steps"] == 1
    # What the command does about earlier work is no part of what the run is.
    assert read_metrics(output)["config"]["overwrite"] is False


def test_a_run_that_runs_out_of_memory_goes_on_in_smaller_parts_and_says_so(
    finished: Path, job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain = MoonshineFamily.encode

    def little_room(self: Any, core: Any, audio: torch.Tensor, num_samples: torch.Tensor, **options: Any) -> Any:
        if len(audio) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, core, audio, num_samples, **options)

    monkeypatch.setattr(MoonshineFamily, "encode", little_room)
    run_experiment(replace(job, output_dir=tmp_path / "run", max_steps=2, dropout=0.0))
    told = capsys.readouterr().err
    assert "out of memory: evaluation goes on in batches of" in told
    rows = read_rows(tmp_path / "run" / "history.jsonl")
    parts = rows[1]["out_of_memory"]["gradient_accumulation"]
    assert f"step 1: out of memory; computed again, and from now on, in {parts} parts" in told
    assert all(row["eval"]["out_of_memory"]["eval_batch_seconds"] < 8 for row in rows if "eval" in row)
    assert read_metrics(tmp_path / "run")["baseline_wer"] == read_metrics(finished)["baseline_wer"]
