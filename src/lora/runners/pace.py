"""How long a run takes: what it has to do, counted, times how fast its first steps are."""

import math
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from lora.evaluation.score import SetScore, score_set
from lora.runners.inputs import Run, RunData
from lora.training.examples import Example
from lora.units import Seconds

PROBE_STEPS = 3
PROBE_EVALUATION_SECONDS: Seconds = 20.0
"""Audio whose evaluation is timed: one small batch, 0.3 s of work for the builtin model on two cores."""


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Attributes:
        evaluations: passes over the development sets in training and for the choice of the strength.
        evaluated_seconds: audio that is transcribed and scored in the whole run, the baselines included.
    """

    steps: int
    evaluations: int
    evaluated_seconds: Seconds


def count_work(run: Run, data: RunData) -> Work:
    """Count from the configuration; baselines and teacher outputs that a cache holds already cost less."""
    config = run.config
    strengths = 0 if config.strengths == [1.0] else len(config.strengths)
    evaluations = math.ceil(config.max_steps / config.eval_interval) + strengths
    development = sum(item.seconds for item in data.development)
    reported = sum(item.seconds for item in data.reported)
    taught = config.distillation_weight or config.distillation_texts != "transcripts"
    replay = total_seconds(data.training.replay) if taught else 0.0
    return Work(config.max_steps, evaluations, (1 + evaluations) * development + 2 * reported + replay)


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a run.

    Attributes:
        fill_seconds: for the encoder states that are computed once.
        evaluation_seconds: for all evaluations, baseline and tuned scores included.
        peak_mb: peak memory so far, of this process or on its GPU, in MB (10^6 bytes).
    """

    work: Work
    step_seconds: Seconds
    fill_seconds: Seconds
    evaluation_seconds: Seconds
    peak_mb: float

    @property
    def total_seconds(self) -> Seconds:
        """Everything together."""
        return self.work.steps * self.step_seconds + self.fill_seconds + self.evaluation_seconds

    def text(self) -> str:
        """Return one line."""
        return (
            f"estimate: {self.step_seconds:.2f} s a step; {self.work.steps} steps {clock(self.training_seconds)}, "
            f"{self.work.evaluations} evaluations with baseline and tuned scores {clock(self.evaluation_seconds)}, "
            f"about {clock(self.total_seconds)} in all; peak memory so far {self.peak_mb / 1000:.2f} GB"
        )

    @property
    def training_seconds(self) -> Seconds:
        """The steps, and the states that they need once."""
        return self.work.steps * self.step_seconds + self.fill_seconds


class FirstSteps:
    """Tells when the first step was done, and once, some steps later, the estimate.

    Args:
        tell: takes a line.
    """

    def __init__(self, run: Run, data: RunData, tell: Callable[[str], None]) -> None:
        self.run, self.data, self.tell = run, data, tell
        self.times: list[float] = []

    def step_done(self) -> None:
        """Take the time; the first step, which warms everything up, does not count."""
        self.times.append(time.perf_counter())
        if len(self.times) == 1:
            self.tell(f"first step {time.monotonic() - self.run.started:.1f} s after the run began")
        if len(self.times) != PROBE_STEPS + 1:
            return
        steps = [after - before for before, after in pairwise(self.times)]
        rate, _ = time_evaluation(self.run, self.data)
        work = count_work(self.run, self.data)
        seconds = rate * work.evaluated_seconds
        self.tell(Estimate(work, statistics.median(steps), 0.0, seconds, peak_mb(self.run.bundle.device)).text())


def time_evaluation(run: Run, data: RunData) -> tuple[float, SetScore]:
    """Score a few development clips of the domain; return seconds of work for a second of audio, and the score."""
    few = take_seconds(data.domain_dev.examples, PROBE_EVALUATION_SECONDS, seed=run.config.seed)
    module = run.bundle.core
    was_training = module.training
    module.eval()
    started = time.perf_counter()
    score = score_set(run.recognizer, replace(data.domain_dev, examples=tuple(few)), lambda count: None)
    spent = time.perf_counter() - started
    module.train(was_training)
    return spent / total_seconds(few), score


def take_seconds(examples: Sequence[Example], seconds: Seconds, *, seed: int) -> list[Example]:
    """Return examples drawn at random until they have `seconds` of audio together; at least one if there is one."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    taken: list[Example] = []
    have = 0.0
    for example in order:
        if have >= seconds:
            break
        taken.append(example)
        have += example.seconds
    return taken


def total_seconds(examples: Sequence[Example]) -> Seconds:
    """Return the duration of all examples together."""
    return sum(example.seconds for example in examples)


def peak_mb(device: torch.device) -> float:
    """Return the peak memory so far in MB: on a CUDA device its own, elsewhere this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * 1024 / 1e6 if sys.platform != "darwin" else peak / 1e6


def clock(seconds: Seconds) -> str:
    """Return a duration as `45 s`, `12 min` or `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
