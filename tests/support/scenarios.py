"""A small working folder of a user, and the commands that write in it, for tests that kill, starve and interrupt.

Everything is relative to the current folder, so that a copy of the place gives the same bytes.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from lora.data.sources.base import Clip, write_clips
from lora.scripts.umbrella import main
from lora.units import SAMPLE_RATE_HZ

COUNTS = {"train": 10, "replay": 6, "domain": 4, "guardrail": 4, "dev": 4, "guard_dev": 4}
EXPERIMENT = (
    "experiment --model-id model --device cpu --rank 2 --dataset-path data/train.jsonl --replay-manifest "
    "data/replay.jsonl --manifest-path data/domain.jsonl --guardrail-manifest data/guardrail.jsonl "
    "--validation-manifest data/dev.jsonl --guardrail-validation-manifest data/guard_dev.jsonl --max-steps 4 "
    "--eval-interval 2 --checkpoint-interval 1 --batch-seconds 3 --strengths 0.5 1.0 --learning-rate 0.003"
).split()
TAKES = 5
OWN = ("notes.md", "out/notes.md", "out/m_audio/mine.wav", "out/.m.jsonl.tmp", "runs/thesis.txt", "voice/me.txt")
"""What a person keeps there."""


@dataclass(frozen=True)
class Scenario:
    """A command that writes, and what stands in its place before.

    Attributes:
        outputs: what it makes, as patterns of paths.
        earlier: the same kind of command, whose output is in the place already.
        again: the command that finishes what was stopped, where that is another.
        again_written: what it makes twice, as patterns: no state of them is old or new.
        grows: it writes its results again and again while it works.
        last: the file that is written last: while it is old all is old, once it is new all is new; a folder stands
            for all that is in it.
    """

    argv: list[str]
    outputs: tuple[str, ...]
    last: tuple[str, ...]
    earlier: list[str] | None = None
    again: list[str] | None = None
    again_written: tuple[str, ...] = ()
    heavy: bool = False
    grows: bool = False


def _words(line: str) -> list[str]:
    return line.split()


def _simple(line: str, *last: str, earlier: str | None = None, outputs: Iterable[str] = ()) -> Scenario:
    return Scenario(_words(line), (*last, *outputs), last, None if earlier is None else _words(earlier))


_FOLDER = "build-manifest --source folder --path recordings --output out/m.jsonl"
_SYNTHETIC = "build-manifest --source synthetic --output out/m.jsonl --split train --voices en-us"
_SHIFT = "shift data/domain.jsonl --output out/m.jsonl --transform noise:white:snr=10"
_SPLIT = "split data/train.jsonl --output-dir out --by utterance --parts a=0.5 b=rest"
_AUDIO = ("out/m_audio-*",)

SCENARIOS: dict[str, Scenario] = {
    "build-manifest folder": _simple(_FOLDER, "out/m.jsonl", earlier=f"{_FOLDER} --samples 3", outputs=_AUDIO),
    "build-manifest inline": _simple(
        f"{_FOLDER} --embed-audio", "out/m.jsonl", earlier=f"{_FOLDER} --samples 3", outputs=_AUDIO
    ),
    "build-manifest synthetic": _simple(
        f"{_SYNTHETIC} --samples 4", "out/m.jsonl", earlier=f"{_SYNTHETIC} --samples 2 --seed 5", outputs=_AUDIO
    ),
    "shift": _simple(_SHIFT, "out/m.jsonl", earlier=f"{_SHIFT} --seed 7", outputs=_AUDIO),
    "split": _simple(_SPLIT, "out/train_a.jsonl", "out/train_b.jsonl", outputs=("out/train_*_audio-*",)),
    "sample": _simple(
        "sample data/train.jsonl --samples 4 --output out/m.jsonl",
        "out/m.jsonl",
        earlier="sample data/train.jsonl --samples 2 --output out/m.jsonl",
        outputs=_AUDIO,
    ),
    "merge-manifests": _simple(
        "merge-manifests data/dev.jsonl data/guard_dev.jsonl --output out/m.jsonl",
        "out/m.jsonl",
        earlier="merge-manifests data/dev.jsonl data/domain.jsonl --output out/m.jsonl",
        outputs=_AUDIO,
    ),
    "check --fix": _simple(
        "check data/faulty.jsonl --fix out/fixed --remove clipping", "out/fixed", outputs=("out/fixed*",)
    ),
    "check": _simple("check data/dev.jsonl --output out/page", outputs=("out/page/check.*",)),
    "manifest-diagnostics": _simple(
        "manifest-diagnostics --manifests data/dev.jsonl --output out/page",
        outputs=("out/page/manifest_diagnostics.*",),
    ),
    "merge": _simple(
        "merge --adapter-dir runs/a/lora_adapter --model-id model --output out/merged",
        "out/merged",
        earlier="merge --adapter-dir runs/b/lora_adapter --model-id model --output out/merged",
    ),
    "average": _simple(
        "average runs/a/lora_adapter runs/b/lora_adapter --output out/average",
        "out/average",
        earlier="average runs/a/lora_adapter runs/b/lora_adapter --output out/average --weights 0.25 0.75",
    ),
    "run-stt": _simple(
        "run-stt --manifest data/dev.jsonl --model-id model --device cpu --output out/texts.json",
        "out/texts.json",
        earlier="run-stt --manifest data/domain.jsonl --model-id model --device cpu --output out/texts.json",
    ),
    "transcribe": _simple(
        "transcribe recordings/take-0.wav recordings/take-1.wav --model-id model --device cpu --output out/texts.json",
        "out/texts.json",
        earlier="transcribe recordings/take-2.wav --model-id model --device cpu --output out/texts.json",
    ),
    "report": _simple("report runs/a", outputs=("runs/a/report.*",)),
    "training-report": _simple("training-report runs/a runs/b --output out/runs.md", "out/runs.md"),
    "teach": Scenario(
        ["teach", "voice"],
        ("voice/history.jsonl", "voice/taught", "voice/.lock"),
        last=(),
        earlier=["open", "voice"],
        grows=True,
    ),
    "experiment": Scenario(
        [*EXPERIMENT, "--output-dir", "out/run"],
        ("out/run", "out/.cache"),
        ("out/run/lora_adapter",),
        earlier=[*EXPERIMENT, "--output-dir", "out/run", "--seed", "1", "--max-steps", "2"],
        again=[*EXPERIMENT, "--output-dir", "out/run", "--resume"],
        again_written=("*/lora_adapter/README.md",),
        heavy=True,
    ),
    "personal": Scenario(
        _words(
            "personal recordings --output-dir out/me --model-id model --guardrail-manifest data/guardrail.jsonl "
            "--replay-manifest data/replay.jsonl --recipe recipe.yaml"
        ),
        ("out/me", "out/me-data", "out/.cache"),
        ("out/me/lora_adapter",),
        again=_words(
            "personal recordings --output-dir out/me --model-id model --guardrail-manifest data/guardrail.jsonl "
            "--replay-manifest data/replay.jsonl --recipe recipe.yaml --resume"
        ),
        again_written=("*/lora_adapter/README.md",),
        heavy=True,
    ),
    "sweep": Scenario(
        _words("sweep sweep.yaml --storage sqlite:///out/sweep.db --trials 2 --output out/sweep"),
        ("out/sweep", "out/sweep.db*", "out/.cache"),
        last=(),
        heavy=True,
        grows=True,
    ),
}


def build_place(place: Path, make_clip: Callable[..., Clip]) -> None:
    """Make the working folder: data, recordings, takes of the voice app, and a person's own files."""
    for seed, (name, count) in enumerate(COUNTS.items(), start=40):
        clips = (make_clip(number, seed=seed) for number in range(count))
        write_clips(clips, place / "data" / f"{name}.jsonl", total=count)
    rows = (place / "data" / "dev.jsonl").read_text()
    (place / "data" / "faulty.jsonl").write_text(
        rows + rows.splitlines()[0].replace('"text": "', '"text": "other ') + "\n"
    )
    (place / "recordings").mkdir()
    for number in range(14):
        clip = make_clip(number, seed=7)
        soundfile.write(place / "recordings" / f"take-{number}.wav", clip.wave, SAMPLE_RATE_HZ)
        (place / "recordings" / f"take-{number}.txt").write_text(clip.text)
    (place / "voice" / "takes").mkdir(parents=True)
    for number in range(TAKES):
        name = f"20260101-1200{number:02d}-000.wav"
        soundfile.write(place / "voice" / "takes" / name, make_clip(number, seed=8).wave, SAMPLE_RATE_HZ)
    (place / "recipe.yaml").write_text(
        "max_steps: 2\neval_interval: 1\nbatch_seconds: 3.0\ndevice: cpu\nrank: 2\nstrengths: [0.5, 1.0]\n"
    )
    (place / "sweep.yaml").write_text(json.dumps(_sweep_file(), indent=1))
    for name in (
        "notes.md",
        "out/notes.md",
        "out/m_audio/mine.wav",
        "runs/thesis.txt",
        "out/.m.jsonl.tmp",
        "voice/me.txt",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"my own {name}")
    (place / "out" / "link.md").symlink_to("../notes.md")


def add_runs(place: Path, checkpoint: Path, chdir: Callable[[Path], object]) -> None:
    """Add a model and two finished runs of it to a place."""
    shutil.copytree(checkpoint, place / "model")
    chdir(place)
    for name in "ab":
        code = main(
            [*EXPERIMENT, "--output-dir", f"runs/{name}", "--seed", str(ord(name)), "--cache-dir", "runs/.cache"]
        )
        assert code == 0, f"the run {name} of the place"


def _sweep_file() -> dict[str, Any]:
    words = iter(EXPERIMENT[1:])
    options: dict[str, Any] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key = word[2:].replace("-", "_")
        else:
            options.setdefault(key, []).append(word)
    lists = {"guardrail_manifest", "strengths"}
    typed = {key: [_typed(value) for value in values] for key, values in options.items()}
    experiment = {key: values if key in lists else values[0] for key, values in typed.items()}
    del experiment["learning_rate"]
    return {
        "experiment": experiment,
        "space": {"learning_rate": {"low": 0.0001, "high": 0.01, "log": True}},
        "search": {"seed": 7},
    }


def _typed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
