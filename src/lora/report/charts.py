"""Charts of the HTML report: lines in SVG, everything with text in HTML.

The plots stretch with the page while their texts keep their size, so that a phone can read them.
Series differ in dash as well as in colour.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
_SIZE = 1000.0  # units of the stretched SVG
_MAX_DRAWN = 600  # points of a line; more cannot be seen


@dataclass(frozen=True)
class Series:
    """One line: `marks` are dots with a tooltip; `faint` is drawn thin, for the noise behind a mean."""

    name: str
    points: Sequence[Point]
    color: int
    marks: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear axis with its tick values."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1; values beyond the ends are put at them."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def build_axis(low: float, high: float, *, count: int = 4) -> Axis:
    """Choose round ticks that cover a range."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_text: Callable[[float], str],
    x_text: Callable[[float], str] = lambda value: f"{value:g}",
    x_name: str = "step",
    marked_x: float | None = None,
) -> str:
    """Return a figure with lines; the vertical axis starts at zero. `marked_x` gets an upright line."""
    drawn = [line for line in series if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points if math.isfinite(y)]
    x_axis, y_axis = build_axis(min(xs), max(xs), count=5), build_axis(0.0, max(*ys, 1e-9))
    x_axis = Axis(min(xs), max(max(xs), min(xs) + 1e-9), x_axis.ticks)
    grid = "".join(_line("grid", [(0, y_axis.place(tick)), (1, y_axis.place(tick))]) for tick in y_axis.ticks)
    upright = "" if marked_x is None else _line("chosen", [(x_axis.place(marked_x), 0), (x_axis.place(marked_x), 1)])
    lines = "".join(_series_line(line, x_axis, y_axis) for line in drawn)
    labels = "".join(
        f'<span class="y" style="top:{_percent(1 - y_axis.place(tick))}">{escape(y_text(tick))}</span>'
        for tick in y_axis.ticks
    )
    labels += "".join(
        f'<span class="x" style="left:{_percent(x_axis.place(tick))}">{escape(x_text(tick))}</span>'
        for tick in x_axis.ticks
        if x_axis.low <= tick <= x_axis.high
    )
    dots = "".join(_dots(line, x_axis, y_axis, lambda x, y: f"{x_name} {x_text(x)}: {y_text(y)}") for line in drawn)
    legend = "".join(
        f'<span><svg class="key" viewBox="0 0 24 6" aria-hidden="true"><line class="line s{line.color}" x1="1" y1="3" '
        f'x2="23" y2="3"/></svg>{escape(line.name)}</span>'
        for line in drawn
        if not line.faint
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="legend">{legend}</div>'
        f'<div class="plot"><svg viewBox="0 0 {_SIZE:g} {_SIZE:g}" preserveAspectRatio="none" aria-hidden="true">'
        f'{grid}{upright}{lines}</svg>{dots}{labels}</div><div class="xname">{escape(x_name)}</div></figure>'
    )


def interval_track(
    axis: Axis,
    value: float | None,
    interval: Sequence[float] | None,
    *,
    kind: str,
    lines: Sequence[tuple[float, str]] = (),
) -> str:
    """Return a value with its interval on an axis; `lines` are upright marks with a class each."""
    parts = [f'<i class="{name}" style="left:{_percent(axis.place(at))}"></i>' for at, name in lines]
    if interval is not None:
        low, high = axis.place(interval[0]), axis.place(interval[1])
        parts.append(f'<i class="ci {kind}" style="left:{_percent(low)};width:{_percent(high - low)}"></i>')
    if value is not None:
        parts.append(f'<i class="pt {kind}" style="left:{_percent(axis.place(value))}"></i>')
    return f'<div class="track" aria-hidden="true">{"".join(parts)}</div>'


def change_track(axis: Axis, before: float | None, after: float | None) -> str:
    """Return two values on an axis, joined: where they were (ring) and where they went (dot)."""
    if before is None or after is None:
        return '<div class="track" aria-hidden="true"></div>'
    old, new = axis.place(before), axis.place(after)
    kind = "better" if after < before else "worse" if after > before else "same"
    join = f'<i class="join {kind}" style="left:{_percent(min(old, new))};width:{_percent(abs(old - new))}"></i>'
    ring = f'<i class="pt base" style="left:{_percent(old)}"></i>'
    dot = f'<i class="pt tuned" style="left:{_percent(new)}"></i>'
    return f'<div class="track" aria-hidden="true">{join}{ring}{dot}</div>'


def removed_added_bar(removed: int, added: int, largest: int) -> str:
    """Return removed errors to the left of the middle and added ones to the right."""
    left, right = (50 * count / max(largest, 1) for count in (removed, added))
    return (
        f'<div class="diverge" aria-hidden="true"><i class="better" style="right:50%;width:{left:.2f}%"></i>'
        f'<i class="worse" style="left:50%;width:{right:.2f}%"></i></div>'
    )


def running_mean(points: Sequence[Point], *, past: float = 0.8) -> list[Point]:
    """Smooth a noisy line; `past` is the weight of what came before, corrected for the start."""
    smoothed, total, weight = [], 0.0, 0.0
    for x, y in points:
        total = past * total + (1 - past) * y
        weight = past * weight + (1 - past)
        smoothed.append((x, total / weight))
    return smoothed


def _series_line(line: Series, x_axis: Axis, y_axis: Axis) -> str:
    stride = max(1, math.ceil(len(line.points) / _MAX_DRAWN))
    kept = [*line.points[:-1:stride], line.points[-1]]
    points = [(x_axis.place(x), y_axis.place(y)) for x, y in kept if math.isfinite(y)]
    return _line(f"line s{line.color}{' faint' if line.faint else ''}", points)


def _dots(line: Series, x_axis: Axis, y_axis: Axis, text: Callable[[float, float], str]) -> str:
    if not line.marks:
        return ""
    return "".join(
        f'<i class="dot s{line.color}" style="left:{_percent(x_axis.place(x))};top:{_percent(1 - y_axis.place(y))}" '
        f'title="{escape(f"{line.name}, {text(x, y)}")}"></i>'
        for x, y in line.points
        if math.isfinite(y)
    )


def _line(kind: str, points: Sequence[Point]) -> str:
    drawn = " ".join(f"{_SIZE * x:.1f},{_SIZE * (1 - y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{drawn}"/>'


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
