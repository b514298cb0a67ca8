"""Plots of a run as PNG: the same record gives the same bytes (no dates, no display, bundled font)."""

import io
import math
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lora.escape import printable
from lora.report.record import DOMAIN_SET, RunRecord, Sample
from lora.units import JsonObject

BETTER, WORSE, NEUTRAL = "#2f6f9f", "#d1702b", "#8a8f98"  # apart for colour-blind readers as well
_LINES = ("#2f6f9f", "#d1702b", "#4d9a6a", "#8c5fa8", "#b5485d")
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bcc4",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "xtick.color": "#4a4f58",
    "ytick.color": "#4a4f58",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_DPI = 130
_SMOOTHING = 0.8  # weight of the past in the running mean; its first values are corrected for the start
_MAX_BARS = 400
_FEW_POINTS = 20


def plot_training(record: RunRecord) -> bytes | None:
    """Draw loss and interval WER over steps as PNG; `None` where the history holds neither."""
    losses = [row for row in record.history if row.get("loss") is not None]
    evaluations = [row for row in record.history if "eval" in row]
    panels = [(draw, rows) for draw, rows in ((_draw_losses, losses), (_draw_rates, evaluations)) if rows]
    if not panels:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 2.9 * len(panels)), dpi=_DPI, layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (draw, rows) in zip(axes, panels, strict=True):
            draw(axis, rows)
        axes[-1].set_xlabel("step")
        return _png(figure)


def plot_changes(record: RunRecord) -> bytes:
    """Draw, for each set, every utterance's change in word errors, best to worst, as PNG."""
    sets = [(name, compared["name"], record.samples_of(name)) for name, compared in record.sets]
    sets = [row for row in sets if row[2]]
    columns = min(2, len(sets))
    rows = math.ceil(len(sets) / columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 2.9 * rows), dpi=_DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axis, (name, title, samples) in zip(axes, sets, strict=False):
            label = "Domain" if name == DOMAIN_SET else "Guardrail"
            _draw_changes(axis, f"{label}: {title}", samples)
        for axis in axes[len(sets) :]:
            axis.set_visible(False)
        for axis in axes[::columns]:
            axis.set_ylabel("change in word errors")
        return _png(figure)


def _draw_losses(axis: Axes, rows: Sequence[JsonObject]) -> None:
    names = {"loss": "training loss", "domain_loss": "domain part", "replay_loss": "replay part"}
    for color, (key, label) in zip(_LINES, names.items(), strict=False):
        steps = [row["step"] for row in rows if row.get(key) is not None]
        values = [float(row[key]) for row in rows if row.get(key) is not None]
        if not values:
            continue
        if len(values) <= _FEW_POINTS:
            axis.plot(steps, values, color=color, linewidth=2, marker="o", markersize=3, label=label)
            continue
        if key == "loss":
            axis.plot(steps, values, color=color, linewidth=1, alpha=0.25)
        axis.plot(steps, _running_mean(values), color=color, linewidth=2, label=f"{label} (running mean)")
    axis.set_ylim(bottom=0)
    axis.set_title("Loss per token")
    axis.legend(loc="upper right")


def _draw_rates(axis: Axes, rows: Sequence[JsonObject]) -> None:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row["eval"]) if key.endswith("wer")]
    for color, key in zip(_LINES, keys, strict=False):
        measured = [(row["step"], row["eval"][key]) for row in rows if row["eval"].get(key) is not None]
        if not measured:
            continue
        steps, rates = zip(*measured, strict=True)
        axis.plot(steps, rates, color=color, linewidth=2, marker="o", markersize=4, label=_readable(key))
        step, best = min(measured, key=lambda pair: pair[1])
        axis.annotate(f"{100 * best:.1f}%", (step, best), (0, 7), textcoords="offset points", ha="center", color=color)
    axis.set_ylim(bottom=0)
    axis.margins(y=0.15)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("WER during training")
    if keys:
        axis.legend(loc="upper right")


def _draw_changes(axis: Axes, title: str, samples: Sequence[Sample]) -> None:
    changes = sorted(sample.change for sample in samples)
    better, worse = sum(change < 0 for change in changes), sum(change > 0 for change in changes)
    positions = range(1, len(changes) + 1)
    if len(changes) <= _MAX_BARS:
        colors = [BETTER if change < 0 else WORSE for change in changes]
        axis.bar(positions, changes, width=0.8 if len(changes) < 60 else 1.0, color=colors)
    else:
        for color, part in ((BETTER, [min(c, 0) for c in changes]), (WORSE, [max(c, 0) for c in changes])):
            axis.fill_between(positions, part, step="mid", color=color, linewidth=0)
    axis.axhline(0, color=NEUTRAL, linewidth=1)
    axis.set_xlim(0.5, len(changes) + 0.5)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_xlabel(f"utterances: {better} better, {len(changes) - better - worse} same, {worse} worse")
    axis.set_title(printable(title), parse_math=False)


def _running_mean(values: Sequence[float]) -> list[float]:
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        means.append(total / weight)
    return means


def _readable(key: str) -> str:
    return key.removesuffix("_wer").replace("_", " ") if key != "wer" else "evaluation"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
