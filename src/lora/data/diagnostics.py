"""What a manifest holds before anyone trains on it: durations, the split it will get, whether that is enough."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import soundfile

from lora.data.manifest import Manifest, Utterance
from lora.data.splits import split_train_validation
from lora.errors import ManifestError
from lora.units import SAMPLE_RATE_HZ, JsonObject, Seconds

SplitKind = Literal["speaker", "random"]


@dataclass(frozen=True)
class DurationProfile:
    """Durations of a manifest.

    Attributes:
        within: for each threshold in seconds, how many utterances are at most that long.
    """

    manifest: str
    samples: int
    mean_seconds: Seconds
    total_seconds: Seconds
    within: dict[Seconds, int]

    def to_json(self) -> JsonObject:
        """Return the profile as a JSON object; shares are fractions."""
        return {
            "manifest": self.manifest,
            "samples": self.samples,
            "mean_seconds": self.mean_seconds,
            "total_seconds": self.total_seconds,
            "within": [
                {"seconds": limit, "samples": count, "share": count / self.samples}
                for limit, count in self.within.items()
            ],
        }


@dataclass(frozen=True)
class SplitSummary:
    """The train/validation split that training would make.

    Attributes:
        filtered: utterances that are at most the longest allowed; train and validation add up to it.
        removed: utterances longer than that.
        reason: what was held out, and for "random" why whole speakers were not.
        source: what the split goes by: `speaker_id (4 speakers)` or `utterance id`.
    """

    manifest: str
    filtered: int
    removed: int
    train: int
    validation: int
    kind: SplitKind
    source: str
    reason: str


@dataclass(frozen=True)
class Sufficiency:
    """Whether a manifest leaves enough to train on."""

    manifest: str
    train: int
    needed: int

    @property
    def enough(self) -> bool:
        """True where the training part has at least the number asked for."""
        return self.train >= self.needed

    @property
    def message(self) -> str:
        """The verdict in words."""
        if self.enough:
            return f"sufficient: {self.train} training utterances, {self.needed} asked for"
        return f"insufficient: {self.train} training utterances; record or add {self.needed - self.train} more"


def measure_durations(manifest: Manifest) -> list[Seconds]:
    """Return each utterance's duration from its file's header; nothing is decoded.

    Raises:
        ManifestError: every file whose header cannot be read, at once.
    """
    durations: list[Seconds] = []
    problems: list[str] = []
    for utterance in manifest.utterances:
        try:
            durations.append(_duration(utterance))
        except (soundfile.LibsndfileError, TypeError, OSError) as error:
            problems.append(f"{utterance.place}: no duration in the audio's header ({error})")
    if problems:
        raise ManifestError(
            f"{manifest.path}: {len(problems)} clip(s) cannot be read. Run `moonshine-lora check` on it.", problems
        )
    return durations


def profile_durations(
    manifest: Manifest, durations: Sequence[Seconds], thresholds: Sequence[Seconds]
) -> DurationProfile:
    """Count the utterances within each threshold."""
    return DurationProfile(
        manifest=str(manifest.path),
        samples=len(durations),
        mean_seconds=sum(durations) / len(durations),
        total_seconds=sum(durations),
        within={limit: sum(seconds <= limit for seconds in durations) for limit in thresholds},
    )


def summarize_split(
    manifest: Manifest, durations: Sequence[Seconds], *, max_seconds: Seconds, fraction: float, seed: int
) -> SplitSummary:
    """Filter by duration and split as training does, and say how.

    Raises:
        ManifestError: fewer than two utterances are left.
    """
    kept = [row for row, seconds in zip(manifest.utterances, durations, strict=True) if seconds <= max_seconds]
    if len(kept) < 2:
        raise ManifestError(
            f"{manifest.path}: {len(kept)} of {len(manifest)} utterances are at most {max_seconds:g} s; a split "
            "needs 2. Cut the clips or raise --max-seconds."
        )
    split = split_train_validation(kept, fraction=fraction, seed=seed)
    speakers = len({str(row.speaker_id) for row in kept})
    return SplitSummary(
        manifest=str(manifest.path),
        filtered=len(kept),
        removed=len(manifest) - len(kept),
        train=len(split.train),
        validation=len(split.validation),
        kind=split.kind,
        source=f"speaker_id ({speakers} speakers)" if split.kind == "speaker" else "utterance id",
        reason=split.reason,
    )


def _duration(utterance: Utterance) -> Seconds:
    if isinstance(utterance.audio, Path):
        return float(soundfile.info(os.fsencode(utterance.audio)).duration)
    return len(utterance.audio) / (utterance.sampling_rate or SAMPLE_RATE_HZ)
