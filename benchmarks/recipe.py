"""Training settings of the benchmarks: the defaults of `experiment`, with what a benchmark changes."""

from dataclasses import fields
from typing import Any

from lora.config import ExperimentConfig
from lora.training.loop import TrainingConfig


def recipe_of(**changes: Any) -> TrainingConfig:
    """Return the defaults with `changes`."""
    names = TrainingConfig.__dataclass_fields__
    defaults = {field.name: field.default for field in fields(ExperimentConfig) if field.name in names}
    return TrainingConfig(**defaults | changes)
