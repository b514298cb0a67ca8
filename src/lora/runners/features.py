"""Whether and where a run keeps encoder states, said before training starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora.config import ExperimentConfig
from lora.errors import ConfigError
from lora.model.feature_cache import EncoderCache
from lora.model.methods import Adaptation
from lora.runners.inputs import Run
from lora.runners.pace import total_seconds
from lora.runners.progress import console
from lora.training.examples import Example
from lora.training.loop import TrainingData
from lora.units import Seconds

GIB = 2**30


@dataclass(frozen=True)
class Views:
    """How many different waves a run makes of a clip of the domain, and of one of replay."""

    domain: int
    replay: int

    def seconds(self, training: TrainingData) -> Seconds:
        """Return the duration of all of them."""
        return self.domain * total_seconds(training.domain) + self.replay * total_seconds(training.replay)


def count_views(config: ExperimentConfig) -> Views:
    """Return the views of a run that keeps encoder states: without augmentation, or with `augment_views`."""
    views = config.augment_views if config.augment else 1
    return Views(views, views if config.augment_replay else 1)


def open_encoder_cache(run: Run, adaptation: Adaptation, training: TrainingData) -> EncoderCache | None:
    """Return the cache of encoder states, or `None` where the encoder has to run in every step; print which and why.

    Raises:
        ConfigError: the states of this run alone are more than `feature_cache_gib`.
    """
    reason = _why_not(run, adaptation)
    if reason:
        console.print(f"encoder states are not kept: {reason}")
        return None
    config = run.config
    state_format = run.precision if config.feature_cache_dtype == "auto" else config.feature_cache_dtype
    cache = EncoderCache(
        run.bundle,
        run.recognizer.encode,
        run.cache_dir / "features",
        cut=adaptation.frozen_encoder_layers,
        preprocess=run.recognizer.preprocess,
        state_format=state_format,
        limit_bytes=int(config.feature_cache_gib * GIB),
    )
    views = count_views(config)
    wanted = _num_frames(run, training, views) * cache.frame_bytes
    if wanted > config.feature_cache_gib * GIB:
        raise ConfigError(
            f"the encoder states of {views.domain} view(s) of the training audio are {wanted / GIB:.2f} GiB in "
            f"{state_format}; --feature-cache-gib is {config.feature_cache_gib:g}. Raise it, choose "
            "--feature-cache-dtype bf16 or fewer --augment-views, or set it to 0 to run the encoder in every step."
        )
    run.waves.release()  # a training clip is read at most once more: to be encoded
    console.print(
        f"encoder states are kept in {cache.store.folder}: after {cache.cut} of "
        f"{len(run.bundle.core.model.encoder.layers)} layers, {state_format}, {views.domain} view(s), "
        f"{wanted / GIB:.2f} GiB"
    )
    return cache


def _why_not(run: Run, adaptation: Adaptation) -> str:
    config = run.config
    if not adaptation.frozen_encoder_layers:
        return "the adapter changes the encoder from its lowest layer"
    if config.augment and not config.augment_views:
        return "the augmentation is new in every epoch (see --augment-views)"
    return "" if config.feature_cache_gib else "--feature-cache-gib is 0"


def _num_frames(run: Run, training: TrainingData, views: Views) -> int:
    """Return the encoder frames of all views, or of as many as the steps can reach."""
    frames = views.domain * _frames_of(run, training.domain) + views.replay * _frames_of(run, training.replay)
    reached = run.config.max_steps * run.config.batch_seconds
    return math.ceil(frames * min(1.0, reached / views.seconds(training)))


def _frames_of(run: Run, examples: Sequence[Example]) -> int:
    samples = torch.tensor([example.num_samples for example in examples], dtype=torch.int64)
    return int(run.bundle.family.num_frames(samples).sum())
