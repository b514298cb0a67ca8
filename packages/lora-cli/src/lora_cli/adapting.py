"""Adapting: `moonshine-lora personal` on what was taught, in a process of its own.

Every fourth taught take is held out and gives the verdict; the others train. The guardrail is a manifest
of the person's, or clean synthetic digits, which the builtin model reads well.
"""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.bounded import parse_json
from lora.errors import InputError, LoraError, SetupError
from lora.files import read_object
from lora.runners.output import CONFIG_FILE, partial_folder
from lora.runners.personal import DIGITS_MODEL, MIN_HELD_OUT, MIN_TRAIN
from lora_cli.events import AdaptFinished, AdaptProgress
from lora_cli.store import Store

NICE = 10
CANCEL_WAIT_S = 5

Emit = Callable[[AdaptProgress | AdaptFinished], None]


@dataclass(frozen=True)
class AdaptSettings:
    """What to adapt, and against what.

    Attributes:
        guardrail: evaluation manifest that must not get worse; synthetic digits unless given.
        config: YAML file of training options that win over the recipe.
    """

    model_id: str
    guardrail: Path | None = None
    config: Path | None = None


class Adaptation:
    """One training run, started by `start`, watched through `emit`.

    `emit` is called on the run's own thread.
    """

    def __init__(self, store: Store, settings: AdaptSettings, emit: Emit) -> None:
        self._store, self._settings, self._emit = store, settings, emit
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adaptation", daemon=True)

    def start(self) -> None:
        """Start.

        Raises:
            InputError: too little was taught; the message says how much is missing.
        """
        check_enough(self._store)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Tell whether it still runs."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Stop it. The next one goes on from there, unless more was taught meanwhile."""
        self._cancelled.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=CANCEL_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self) -> None:
        try:
            self._emit(self._adapt())
        except (LoraError, OSError) as error:
            stopped = self._cancelled.is_set()
            self._emit(AdaptFinished("cancelled") if stopped else AdaptFinished("failed", error=str(error)))

    def _adapt(self) -> AdaptFinished:
        self._emit(AdaptProgress("preparing"))
        output = next_run_dir(self._store.runs_dir)
        words = ["personal", str(self._store.root), "--output-dir", str(output), *how_to_begin(self._store, output)]
        words += ["--data-dir", str(self._store.runs_dir / "data"), *self._chosen()]
        self._call(words)
        return read_verdict(output)

    def _chosen(self) -> list[str]:
        settings = self._settings
        words = ["--model-id", settings.model_id]
        if settings.guardrail is not None:
            words += ["--guardrail-manifest", str(settings.guardrail)]
            # Synthetic digits would be no replay for another model, and the app has no option for one.
            words += [] if settings.model_id == DIGITS_MODEL else ["--no-replay"]
        if settings.config is not None:
            words += ["--recipe", str(settings.config)]
        return words

    def _call(self, words: Sequence[str]) -> None:
        """Run one of the project's commands and pass on its progress."""
        if self._cancelled.is_set():
            raise SetupError("cancelled")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lora", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"MOONSHINE_LORA_PROGRESS": "json"},
            start_new_session=True,
        )
        if hasattr(os, "setpriority"):
            # Talking goes before training: recording and texts stay quick meanwhile.
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)
        tail: deque[str] = deque(maxlen=6)
        with self._process as process:
            assert process.stderr is not None
            for line in process.stderr:
                progress = parse_progress(line)
                if progress is not None:
                    self._emit(progress)
                elif line.strip():
                    tail.append(line.strip())
        if process.returncode != 0:
            raise SetupError("\n".join(tail) or f"{words[0]} ended without a word")


def parse_progress(line: str) -> AdaptProgress | None:
    """Return the progress that a line of the experiment's stderr reports, None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        row = parse_json(line)
        return AdaptProgress(str(row["stage"]), int(row["done"]), int(row["total"]), str(row["detail"]))
    except (ValueError, KeyError, TypeError):
        return None


def check_enough(store: Store) -> None:
    """Refuse to adapt on too little.

    Raises:
        InputError: how many takes are missing.
    """
    counts = store.taught_counts()
    missing = max(MIN_TRAIN - counts.train, 0) + max(MIN_HELD_OUT - counts.heldout, 0)
    if missing:
        raise InputError(
            f"{counts.train + counts.heldout} takes taught; {missing} more are needed to adapt and to judge it. "
            "Correct takes, or read prompts."
        )


def next_run_dir(runs_dir: Path) -> Path:
    """Return the folder of the next run, `voice-001` and so on, or of the last one where that is unfinished."""
    names = {path.name.removesuffix(".partial")[6:] for path in runs_dir.glob("voice-*")}
    last = runs_dir / f"voice-{max((int(name) for name in names if name.isdigit()), default=0):03d}"
    if partial_folder(last).exists():
        return last
    return runs_dir / f"voice-{int(last.name[6:]) + 1:03d}"


def how_to_begin(store: Store, output: Path) -> list[str]:
    """Return the options by which an unfinished run goes on, or by which one of fewer takes is discarded."""
    began = partial_folder(output) / CONFIG_FILE
    if not began.is_file():
        return []
    is_newer = store.manifest_path.stat().st_mtime_ns > began.stat().st_mtime_ns
    return ["--restart" if is_newer else "--resume"]


def read_verdict(run_dir: Path) -> AdaptFinished:
    """Return the verdict of a finished run."""
    metrics = read_object(run_dir / "experiment_metrics.json", "verdict", "baseline_wer", "tuned_wer", "guardrails")
    verdict = metrics["verdict"]
    return AdaptFinished(
        decision=verdict["decision"],
        reasons=tuple(verdict["reasons"]),
        baseline_wer=metrics["baseline_wer"],
        tuned_wer=metrics["tuned_wer"],
        adapter_dir=str(run_dir / "lora_adapter"),
        guardrails=tuple((item["name"], item["baseline"], item["tuned"]) for item in metrics["guardrails"]),
    )
