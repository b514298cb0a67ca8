"""Plots are PNG files that the same record gives again."""

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lora.report.plots import plot_changes, plot_training
from lora.report.record import load_record


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(png))


def test_the_same_record_gives_the_same_bytes_without_a_date(run_dir: Path) -> None:
    record = load_record(run_dir)
    for plot in (plot_training, plot_changes):
        assert plot(record) == plot(record)
        image = opened(plot(record))
        assert image.info.keys() == {"dpi"}
        assert image.width == 1040


def test_a_history_without_evaluations_gives_one_panel_and_an_empty_one_nothing(run_dir: Path) -> None:
    record = load_record(run_dir)
    losses = tuple(row for row in record.history if "loss" in row)
    two, one = opened(plot_training(record)), opened(plot_training(replace(record, history=losses)))
    assert two.height == 2 * one.height
    assert plot_training(replace(record, history=())) is None


def test_thousands_of_utterances_are_drawn(run_dir: Path) -> None:
    record = load_record(run_dir)
    assert plot_changes(replace(record, samples=record.samples * 400)) != plot_changes(record)
