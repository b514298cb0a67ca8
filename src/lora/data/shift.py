"""A domain manifest out of any manifest: the same utterances, transformed on purpose."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lora.data.audio import encode_flac
from lora.data.manifest import iter_manifest, read_manifest
from lora.data.placement import NewAudio, with_origin, write_placed
from lora.data.transforms import Pipeline, Transform, VoicePool, parse_transforms
from lora.data.transforms.sounds import load_natural
from lora.errors import AudioError, ManifestError
from lora.outputs import check_file
from lora.units import JsonObject, Seconds, Wave, seconds_of

DURATION_KEY = "duration"


@dataclass(frozen=True)
class ShiftSummary:
    """What was written."""

    path: Path
    utterances: int
    seconds: Seconds
    transforms: tuple[Transform, ...]


def shift_manifest(
    path: Path,
    transforms: Sequence[Transform | str],
    output: Path,
    *,
    seed: int = 42,
    allow_outside: bool = False,
    tick: Callable[[], None] | None = None,
) -> ShiftSummary:
    """Write `output`: every utterance of `path` through `transforms`, as 16 kHz FLAC files beside it.

    Ids, texts, speakers and other keys stay; `origin` says which manifest, id, transforms and seed. The result
    depends on the seed and each id, not on the order of the rows. Audio keeps its own level, and is scaled down
    where it would pass full scale.

    Raises:
        ConfigError: a transform that cannot be used, or an output that is the input or is not ours.
        ManifestError: faults of the manifest, or every clip that cannot be used.
    """
    check_file(output, [path])
    parsed = parse_transforms(map(str, transforms))
    voices = None
    if any(transform.kind == "noise:babble" for transform in parsed):
        voices = VoicePool(read_manifest(path, allow_outside=allow_outside).utterances)
    pipeline = Pipeline(parsed, seed=seed, voices=voices)
    recipe: JsonObject = {"transforms": [str(transform) for transform in pipeline.transforms], "seed": seed}
    durations: list[Seconds] = []
    problems: list[str] = []

    def entries() -> Iterator[NewAudio]:
        for utterance in iter_manifest(path, allow_outside=allow_outside):
            try:
                wave = _fit(pipeline.apply(load_natural(utterance), epoch=0, utterance_id=utterance.id))
            except AudioError as error:
                problems.append(str(error) if utterance.place in str(error) else f"{utterance.place}: {error}")
                continue
            durations.append(seconds_of(len(wave)))
            extra = with_origin(utterance, path, **recipe)
            if isinstance(extra.get(DURATION_KEY), float | int):
                extra[DURATION_KEY] = round(durations[-1], 4)  # NeMo's key; speed changes it
            yield NewAudio(replace(utterance, extra=extra), encode_flac(wave))
            if tick is not None:
                tick()
        if problems:
            raise ManifestError(f"{path}: {len(problems)} clip(s) cannot be used", problems)

    write_placed(output, entries())
    return ShiftSummary(output, len(durations), sum(durations), pipeline.transforms)


def _fit(wave: Wave) -> Wave:
    peak = float(np.abs(wave).max(initial=0))
    return wave / np.float32(peak) if peak > 1.0 else wave
