"""One speaker's folder to a verdict: what is held out, what stands against forgetting, what is refused."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lora.data.manifest import read_manifest
from lora.data.sources.base import Clip
from lora.errors import ConfigError, InputError, ManifestError
from lora.runners import personal as runner
from lora.runners.personal import PersonalOptions, choose_guards, divide, gather, plan_experiment
from lora.scripts import personal
from lora.training.loop import Trainer

FEW_STEPS = "max_steps: 2\neval_interval: 1\nbatch_seconds: 6\nrank: 4\nstrengths: [0.5, 1.0]\ndevice: cpu\n"


@pytest.fixture(scope="module")
def recordings(make_clip: Callable[..., Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen recordings with their transcripts beside them."""
    folder = tmp_path_factory.mktemp("speaker") / "recordings"
    folder.mkdir()
    for number in range(16):
        clip = make_clip(number, seed=3)
        soundfile.write(folder / f"take{number:02d}.wav", clip.wave, clip.sampling_rate)
        (folder / f"take{number:02d}.txt").write_text(clip.text + "\n", encoding="utf-8")
    return folder


def options_of(folder: Path, output: Path, **changes: Any) -> PersonalOptions:
    return PersonalOptions(folder=folder, output_dir=output, **changes)


def ids_of(path: Path) -> set[str]:
    return {row.id for row in read_manifest(path).utterances}


def lay_out(options: PersonalOptions) -> tuple[set[str], set[str], str]:
    """Do everything before the experiment; return the ids to train on, those held out, and what was said."""
    data = options.output_dir.with_name("data")
    config = plan_experiment(options, {}, choose_guards(options, data), data)
    config, said = divide(gather(options, data), config, options)
    held_out = ids_of(config.manifest_path) if options.test_manifest is None else set()
    return ids_of(config.dataset_path), held_out, said


def test_a_folder_ends_in_a_verdict_in_one_step(
    recordings: Path,
    toy_checkpoint: Path,
    write_toy_manifest: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    guardrail = write_toy_manifest(tmp_path / "guard.jsonl", count=8, seed=20)
    replay = write_toy_manifest(tmp_path / "replay.jsonl", count=12, seed=21)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(FEW_STEPS, encoding="utf-8")
    output = tmp_path / "me"
    words = [str(recordings), "--output-dir", str(output), "--model-id", str(toy_checkpoint), "--recipe", str(recipe)]
    words += ["--guardrail-manifest", str(guardrail), "--replay-manifest", str(replay)]
    assert personal.main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("verdict: ")
    assert "verdict on: 25% of the recordings, held out" in err
    said = re.search(r"recordings: (\d+) for training and development, (\d+) held out; drawn by seed 42", err)
    assert said is not None
    assert int(said[1]) + int(said[2]) == 16
    metrics = json.loads((output / "experiment_metrics.json").read_text(encoding="utf-8"))
    assert metrics["domain"]["utterances"] == int(said[2]) >= 3
    assert metrics["config"]["distillation_weight"] == 0.7
    assert metrics["config"]["max_steps"] == 2
    assert [row["scale"] for row in metrics["strength"]] == [0.5, 1.0]


def test_it_goes_on_where_its_training_was_stopped(
    recordings: Path,
    toy_checkpoint: Path,
    write_toy_manifest: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guardrail = write_toy_manifest(tmp_path / "guard.jsonl", count=4, seed=20)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(FEW_STEPS, encoding="utf-8")
    words = [str(recordings), "--output-dir", str(tmp_path / "me"), "--model-id", str(toy_checkpoint)]
    words += ["--recipe", str(recipe), "--guardrail-manifest", str(guardrail), "--no-replay"]
    step, taken = Trainer.step, []

    def stopped(self: Trainer, number: int, *parts: Any) -> Any:
        taken.append(number)
        if len(taken) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number, *parts)

    monkeypatch.setattr(Trainer, "step", stopped)
    assert personal.main(words) == 130
    assert "training is kept up to step 1; --resume goes on" in capsys.readouterr().err
    assert personal.main(words) == 2
    assert personal.main([*words, "--resume"]) == 0
    assert taken == [1, 2]


def test_what_is_held_out_depends_on_the_seed_alone(recordings: Path, tmp_path: Path) -> None:
    drawn = [lay_out(options_of(recordings, tmp_path / f"{n}" / "out", seed=seed)) for n, seed in enumerate([1, 1, 2])]
    train, held_out, _ = drawn[0]
    assert train | held_out == {f"take{number:02d}" for number in range(16)}
    assert not train & held_out
    assert drawn[0] == drawn[1]
    assert drawn[0][1] != drawn[2][1]


def test_the_same_recording_twice_is_never_on_both_sides(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    for file in recordings.iterdir():
        for name in (file.name, f"copy-{file.name}"):
            (folder / name).write_bytes(file.read_bytes())
    train, held_out, _ = lay_out(options_of(folder, tmp_path / "out"))
    assert len(train | held_out) == 32
    assert {identifier.removeprefix("copy-") for identifier in train}.isdisjoint(
        identifier.removeprefix("copy-") for identifier in held_out
    )


def test_parts_of_another_division_lie_beside_the_older_ones_which_stay(recordings: Path, tmp_path: Path) -> None:
    first = lay_out(options_of(recordings, tmp_path / "out", seed=1))
    before = {path: path.read_bytes() for path in (tmp_path / "data").glob("*.jsonl")}
    assert lay_out(options_of(recordings, tmp_path / "out", seed=1)) == first
    second = lay_out(options_of(recordings, tmp_path / "out", seed=2))
    assert second[1] != first[1]
    after = {path: path.read_bytes() for path in (tmp_path / "data").glob("*.jsonl")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2 == 5


def test_recordings_where_the_manifests_audio_was_put_stay(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "recordings_audio"
    shutil.copytree(recordings, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    lay_out(options_of(folder, tmp_path / "out"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_with_a_test_manifest_nothing_is_held_out_of_the_folder(recordings: Path, tmp_path: Path) -> None:
    train, _, said = lay_out(options_of(recordings, tmp_path / "out", test_manifest=tmp_path / "test.jsonl"))
    assert len(train) == 16
    assert "16 for training and development, 0 held out" in said


def test_a_recording_that_came_since_is_taken_too(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in recordings.iterdir():
        if not file.name.startswith("take15"):
            (folder / file.name).write_bytes(file.read_bytes())
    options = options_of(folder, tmp_path / "out")
    first = lay_out(options)
    for suffix in (".wav", ".txt"):
        (folder / f"take15{suffix}").write_bytes((recordings / f"take15{suffix}").read_bytes())
    second = lay_out(options)
    assert (second[0] | second[1]) - (first[0] | first[1]) == {"take15"}


def test_a_folder_with_a_manifest_is_read_by_it_and_its_parts_stay(
    write_toy_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = write_toy_manifest(tmp_path / "store" / "taught" / "manifest.jsonl", count=14, seed=5)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["part"] = "heldout" if number % 4 == 3 else "train"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train, held_out, said = lay_out(options_of(tmp_path / "store", tmp_path / "out"))
    assert held_out == {row["id"] for row in rows if row["part"] == "heldout"}
    assert len(train) == 11
    assert "as the recordings' own `part` says" in said
    del rows[2]["part"]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"`part` is None, heldout, train; expected train or heldout in every row"):
        lay_out(options_of(tmp_path / "store", tmp_path / "out"))


def test_the_digits_model_needs_nothing_else(tmp_path: Path) -> None:
    options = options_of(tmp_path, tmp_path / "out")
    guards = choose_guards(options, tmp_path / "data")
    config = plan_experiment(options, {}, guards, tmp_path / "data")
    assert [plan.name for plan in guards.made] == list(runner.SYNTHETIC)
    assert {plan.options.output for plan in guards.made} == {
        *config.guardrail_manifest,
        config.guardrail_validation_manifest,
        config.replay_manifest,
    }
    said = "\n".join(runner.describe(options, config, guards))
    assert said.count("made here: `moonshine-lora build-manifest") == 3
    assert "--source synthetic" in said


def test_a_guardrail_that_is_given_is_taken_and_the_rest_is_made(tmp_path: Path) -> None:
    options = options_of(tmp_path, tmp_path / "out", guardrail_manifest=[tmp_path / "mine.jsonl"])
    guards = choose_guards(options, tmp_path / "data")
    assert guards.guardrails == [tmp_path / "mine.jsonl"]
    assert [plan.name for plan in guards.made] == ["synthetic_guardrail_dev", "synthetic_replay"]


def test_without_replay_there_is_neither_replay_nor_distillation(tmp_path: Path) -> None:
    options = options_of(tmp_path, tmp_path / "out", replay=False)
    config = plan_experiment(options, {}, choose_guards(options, tmp_path / "data"), tmp_path / "data")
    assert config.replay_manifest is None
    assert (config.replay_ratio, config.distillation_weight) == (0, 0)
    config.check()


def test_another_model_must_be_told_what_must_not_get_worse(tmp_path: Path) -> None:
    options = options_of(tmp_path, tmp_path / "out", model_id="some/model")
    with pytest.raises(ConfigError) as caught:
        choose_guards(options, tmp_path)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["--guardrail-manifest", "--replay-manifest"]
    given = replace(options, guardrail_manifest=[tmp_path / "g.jsonl"], replay=False)
    assert choose_guards(given, tmp_path).made == ()


@pytest.mark.parametrize("key", ["output_dir", "manifest_path", "seeds", "model_id"])
def test_a_recipe_decides_the_training_alone(tmp_path: Path, key: str) -> None:
    options = options_of(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=f"--recipe: {key}: decided by the options of `personal`"):
        plan_experiment(options, {key: 1}, choose_guards(options, tmp_path), tmp_path)


def test_too_few_recordings_are_refused_with_what_is_needed(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(6):
        for suffix in (".wav", ".txt"):
            (folder / f"take{number:02d}{suffix}").write_bytes((recordings / f"take{number:02d}{suffix}").read_bytes())
    with pytest.raises(InputError, match="expected at least 9 to train on and 3 to judge by"):
        lay_out(options_of(folder, tmp_path / "out"))


def test_an_output_among_the_recordings_is_refused(recordings: Path) -> None:
    with pytest.raises(ConfigError, match="lies in the folder of recordings"):
        gather(options_of(recordings, recordings / "out"), recordings / "out-data")
