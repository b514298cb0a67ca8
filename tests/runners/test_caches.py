"""What runs share: encoder states and what is known of audio; a second run gives the same without computing either."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lora.caches import check_cache_folder
from lora.config import ExperimentConfig, PreprocessConfig
from lora.data import fingerprint
from lora.data.manifest import Utterance
from lora.decoding import Recognizer
from lora.errors import ConfigError, InputError, ManifestError
from lora.model.families import EncoderStates
from lora.runners.experiment import run_experiment
from lora.units import Wave


@pytest.fixture
def job(make_job: Callable[..., ExperimentConfig], tmp_path: Path) -> ExperimentConfig:
    """A decoder-only job of two steps; its manifests share no clip."""
    return make_job(
        tmp_path,
        {"train": 12, "domain": 4, "guardrail": 4, "dev": 4},
        seed=30,
        output_dir=tmp_path / "never",
        targets="decoder",
        max_steps=2,
        eval_interval=2,
        batch_seconds=20.0,
    )


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_second_run_encodes_and_decodes_no_training_clip_and_has_the_same_losses(
    job: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(replace(job, output_dir=tmp_path / "first"))
    assert "encoder states are kept in" in capsys.readouterr().err
    encoded: list[int] = []
    decoded: set[str] = set()
    encode, load = Recognizer.encode, Utterance.load

    def spy_load(self: Utterance, config: PreprocessConfig) -> Wave:
        decoded.add(self.id)
        return load(self, config)

    def spy(self: Recognizer, waves: Sequence[Wave], cut: int | None = None) -> EncoderStates:
        encoded.append(len(waves))
        return encode(self, waves, cut)

    # Toy clips of one text are so alike that their waves would be read again and compared; speech seldom is.
    monkeypatch.setattr(fingerprint, "ALIKE", 1.1)
    monkeypatch.setattr(Recognizer, "encode", spy)
    monkeypatch.setattr(Utterance, "load", spy_load)
    run_experiment(replace(job, output_dir=tmp_path / "second"))
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    # Eight of the alignment check; the tuned model's four domain, four guardrail and four development clips, and four
    # of the efficacy check.
    assert sum(encoded) == 8 + 4 + 4 + 4 + 4
    # Of the twelve training clips only the eight of the alignment check, which no cache serves.
    assert {name for name in decoded if name.startswith("toy-30-")} == {f"toy-30-{number}" for number in range(8)}


def test_damaged_caches_are_named_and_the_run_is_the_same(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(replace(job, output_dir=tmp_path / "first"))
    damaged = [*tmp_path.glob(".cache/baseline-*.json"), *tmp_path.glob(".cache/waves-*.index")]
    damaged += tmp_path.glob(".cache/features/*/*.states")
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    capsys.readouterr()
    run_experiment(replace(job, output_dir=tmp_path / "second"))
    told = capsys.readouterr().err
    assert all(f"warning: {path}: " in told for path in damaged)
    # One clip alone is encoded again, which is another order of sums than in the batch that it was in.
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "second"), rel=1e-5)
    first, second = (
        json.loads((tmp_path / name / "experiment_metrics.json").read_text()) for name in ("first", "second")
    )
    assert first["baseline_wer"] == second["baseline_wer"]


@pytest.mark.parametrize("place", [".cache", "above"])
def test_a_file_in_place_of_the_cache_folder_is_named_before_anything_is_computed(
    job: ExperimentConfig, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).write_text("a file")
    folder = tmp_path / place if place == ".cache" else tmp_path / place / "cache"
    with pytest.raises(InputError, match=rf"cannot be the cache folder: .*{place} is no folder.*--cache-dir"):
        run_experiment(replace(job, output_dir=tmp_path / "run", cache_dir=folder))
    assert not (tmp_path / "run").exists()


def test_a_cache_folder_that_may_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_cache_folder(tmp_path / "made" / "later")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match=rf"{tmp_path} may not be written to.*--cache-dir"):
        check_cache_folder(tmp_path / "made" / "later")


def test_states_kept_or_not_the_losses_agree(job: ExperimentConfig, tmp_path: Path) -> None:
    run_experiment(replace(job, output_dir=tmp_path / "kept"))
    run_experiment(replace(job, output_dir=tmp_path / "not", feature_cache_gib=0.0))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "not"), rel=1e-5)


def test_states_of_the_lower_half_are_kept_for_an_adapter_in_the_upper_one(
    job: ExperimentConfig, deep_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = replace(
        job, targets="upper", model_id=str(deep_checkpoints["moonshine"]), dropout=0.0, alignment_check=False
    )
    run_experiment(replace(upper, output_dir=tmp_path / "kept"))
    assert ": after 2 of 4 layers, fp32, 1 view(s)" in capsys.readouterr().err.replace("\n", " ")
    run_experiment(replace(upper, output_dir=tmp_path / "not", feature_cache_gib=0.0))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "not"), rel=1e-5)


def test_views_of_the_augmentation_are_kept_and_endless_ones_are_not(
    job: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = replace(job, augment=["noise:white:snr=10-20"], max_steps=1)
    run_experiment(replace(changed, output_dir=tmp_path / "views", augment_views=2))
    assert "2 view(s)" in capsys.readouterr().err
    run_experiment(replace(changed, output_dir=tmp_path / "endless"))
    assert "encoder states are not kept: the augmentation is new in every epoch" in capsys.readouterr().err


def test_states_beyond_the_limit_stop_the_run_with_the_option(job: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--feature-cache-gib is 1e-05"):
        run_experiment(replace(job, output_dir=tmp_path / "run", feature_cache_gib=1e-5))
    assert not (tmp_path / "run").exists()


def test_copies_are_found_in_a_training_set_that_is_not_decoded_before_the_start(
    job: ExperimentConfig, write_toy_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """Twelve training clips, of which the domain has a copy of one under another id."""
    rows = [json.loads(line) for line in job.dataset_path.read_text().splitlines()]
    copy = json.dumps(rows[5] | {"id": "a-copy"})
    job.manifest_path.write_text(job.manifest_path.read_text() + copy + "\n")
    with pytest.raises(ManifestError) as caught:
        run_experiment(replace(job, output_dir=tmp_path / "run", wave_cache_gib=0.0))
    where = f"({job.dataset_path}:6)"
    assert caught.value.problems == (
        f"domain: {job.manifest_path}:5: a-copy: the same audio is in training: {rows[5]['id']!r} {where}",
    )
    assert not (tmp_path / ".cache").exists()
