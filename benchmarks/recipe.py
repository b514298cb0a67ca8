"""Training settings of the benchmarks: the defaults of `experiment` without its guards, which no peer has."""

from dataclasses import fields
from typing import Any

from lora.config import ExperimentConfig
from lora.training.loop import TrainingConfig

NO_GUARDS = {"replay_ratio": 0.0, "distillation_weight": 0.0, "average_decay": 0.0}


def recipe_of(**changes: Any) -> TrainingConfig:
    """Return the defaults without replay, distillation and averaging, and with `changes`."""
    names = TrainingConfig.__dataclass_fields__
    defaults = {field.name: field.default for field in fields(ExperimentConfig) if field.name in names}
    return TrainingConfig(**defaults | NO_GUARDS | changes)
