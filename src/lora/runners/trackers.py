"""What watches a run from outside: TensorBoard event files always, Trackio, Weights & Biases and MLflow on request.

All through Accelerate's trackers. Nothing is written outside the output folder, and nothing is sent anywhere, unless
`--trackers` asks; their own settings decide where to (`WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora import processes
from lora.config import ExperimentConfig
from lora.errors import SetupError
from lora.runners.provenance import config_values
from lora.units import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lora.runners.inputs import Run

PROJECT = "moonshine-lora"
EVENTS_FOLDER = "tensorboard"
# The keyword by which each tracker takes the run's name; the project's name comes before it.
RUN_NAME_KEYWORDS = {"trackio": "name", "wandb": "name", "mlflow": "run_name"}
COMPARED = ("baseline", "tuned", "delta", "relative_reduction", "probability_of_improvement")


def check_trackers(config: ExperimentConfig) -> None:
    """Refuse to start where a tracker's package is missing.

    Raises:
        SetupError: every missing package, and how to install it.
    """
    missing = [name for name in (EVENTS_FOLDER, *config.trackers) if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"--trackers: {', '.join(missing)} cannot be imported. Run `pip install {' '.join(missing)}`, or leave out "
            "what you do not need; tensorboard comes with `make sync`."
        )


class Tracking:
    """Passes a run's numbers on to its trackers; `accelerator` is the one that trains."""

    def __init__(self, accelerator: "Accelerator") -> None:
        self.accelerator = accelerator

    def log_row(self, row: JsonObject) -> None:
        """Log one row of the history: a step or an evaluation."""
        part, values = ("development", row["eval"]) if "eval" in row else ("train", row)
        self._log({f"{part}/{name}": value for name, value in values.items() if name != "step"}, row["step"])

    def log_strengths(self, curve: Sequence[JsonObject], step: int) -> None:
        """Log the sweep over strengths: for TensorBoard a curve over percent, for the others values by name.

        The others take no step that is below the last one.
        """
        for row in curve:
            values = {name: value for name, value in row.items() if name != "scale" and value is not None}
            for tracker in self.accelerator.trackers:
                if tracker.name == EVENTS_FOLDER:
                    named = {f"strength/{name}": value for name, value in values.items()}
                    tracker.log(named, step=round(100 * row["scale"]))
                else:
                    named = {f"strength/{name}/{row['scale']:g}": value for name, value in values.items()}
                    tracker.log(named, step=step)

    def log_result(self, metrics: JsonObject) -> None:
        """Log what the run ended with."""
        # MLflow takes numbers alone.
        accepted = int(metrics["verdict"]["decision"] == "accept")
        values = {"result/accepted": accepted, "result/train_seconds": metrics["train"]["seconds"]}
        for compared in (metrics["domain"], *metrics["guardrails"]):
            values |= {f"result/{compared['name']}/{name}": compared[name] for name in COMPARED}
            if compared["ci95"] is not None:
                low, high = compared["ci95"]
                values |= {f"result/{compared['name']}/ci95_low": low, f"result/{compared['name']}/ci95_high": high}
        self._log(values, metrics["train"]["steps"])

    def _log(self, values: JsonObject, step: int) -> None:
        known = {name: value for name, value in values.items() if isinstance(value, int | float)}
        self.accelerator.log(known, step=step)


def build_accelerator(run: "Run", log_with: Sequence[Any] = ()) -> "Accelerator":
    """Make the accelerator of a run's precision and device, with trackers or names of trackers.

    Accelerate keeps the first precision, and of a process alone the first device, for good and refuses another; the
    runs of a matrix may have several. Its own tests start anew in this way, and it has no other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=processes.count() == 1)
    precision = "no" if run.precision == "fp32" else run.precision
    return Accelerator(mixed_precision=precision, cpu=run.bundle.device.type == "cpu", log_with=list(log_with) or None)


@contextmanager
def track(run: "Run", folder: Path) -> Iterator[Tracking]:
    """Start the trackers of a run that is written to `folder`, and end them with the block.

    Raises:
        SetupError: Accelerate does not offer a tracker that was asked for.
    """
    from accelerate.tracking import TensorBoardTracker

    config = run.config
    accelerator = build_accelerator(run, [TensorBoardTracker(EVENTS_FOLDER, folder), *config.trackers])
    started = [str(tracker) for tracker in accelerator.log_with[1:]]
    absent = [name for name in config.trackers if name not in started]
    if absent:
        raise SetupError(f"--trackers: Accelerate cannot use {', '.join(absent)} here. Install or repair the package.")
    names = {name: {RUN_NAME_KEYWORDS[name]: config.output_dir.name} for name in config.trackers}
    accelerator.init_trackers(PROJECT, init_kwargs=names)
    try:
        for tracker in accelerator.trackers[1:]:
            tracker.store_init_configuration(config_values(config))
        yield Tracking(accelerator)
    finally:
        # Not end_training(): it would also end the group of processes, which still has to agree on the result.
        for tracker in accelerator.trackers:
            tracker.finish()
