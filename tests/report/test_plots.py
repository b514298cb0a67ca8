"""Plots are PNG files that the same record gives again."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from lora.report.plots import plot_changes, plot_training
from lora.report.record import load_record


def test_the_same_record_gives_the_same_bytes_without_a_date(run_dir: Path, tmp_path: Path) -> None:
    record = load_record(run_dir)
    for name in ("a", "b"):
        assert plot_training(record, tmp_path / name / "training.png")
        plot_changes(record, tmp_path / name / "utterances.png")
    for file in ("training.png", "utterances.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        with Image.open(tmp_path / "a" / file) as image:
            assert image.info.keys() == {"dpi"}
            assert image.width == 1040


def test_a_history_without_evaluations_gives_one_panel_and_an_empty_one_no_file(run_dir: Path, tmp_path: Path) -> None:
    record = load_record(run_dir)
    losses = tuple(row for row in record.history if "loss" in row)
    assert plot_training(record, tmp_path / "two.png")
    assert plot_training(replace(record, history=losses), tmp_path / "one.png")
    assert not plot_training(replace(record, history=()), tmp_path / "none.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.height == 2 * one.height
    assert not (tmp_path / "none.png").exists()


def test_thousands_of_utterances_are_drawn(run_dir: Path, tmp_path: Path) -> None:
    record = load_record(run_dir)
    plot_changes(replace(record, samples=record.samples * 400), tmp_path / "many.png")
    plot_changes(record, tmp_path / "few.png")
    assert (tmp_path / "many.png").read_bytes() != (tmp_path / "few.png").read_bytes()
