"""Axes have round ticks that cover the data, and marks lie where the values are."""

import pytest

from lora.report.charts import Series, build_axis, change_track, interval_track, line_chart, running_mean


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 0.43, (0.0, 0.2, 0.4, 0.6)),
        (-0.53, 0.0, (-0.6, -0.4, -0.2, 0.0)),
        (0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (3.0, 3.0, (3.0, 4.0, 5.0, 6.0)),
        (0.0, 0.0, (0.0, 0.25, 0.5, 0.75, 1.0)),
    ],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert build_axis(low, high).ticks == pytest.approx(ticks)


def test_values_beyond_the_axis_are_put_at_its_ends() -> None:
    axis = build_axis(0.0, 1.0)
    assert [axis.place(value) for value in (-1.0, 0.25, 9.0)] == [0.0, 0.25, 1.0]


def test_a_track_shows_value_interval_and_lines() -> None:
    track = interval_track(build_axis(0.0, 1.0), 0.5, (0.25, 0.75), kind="tuned", lines=[(0.0, "zero")])
    assert '<i class="ci tuned" style="left:25.00%;width:50.00%">' in track
    assert '<i class="pt tuned" style="left:50.00%">' in track
    assert '<i class="zero" style="left:0.00%">' in track
    assert "ci" not in interval_track(build_axis(0.0, 1.0), None, None, kind="tuned")


def test_a_change_is_joined_in_the_colour_of_its_direction() -> None:
    axis = build_axis(0.0, 1.0)
    assert '"join better" style="left:25.00%;width:50.00%"' in change_track(axis, 0.75, 0.25)
    assert '"join worse"' in change_track(axis, 0.25, 0.75)
    assert "<i" not in change_track(axis, None, 0.5)


def test_a_chart_of_one_point_has_its_dot_and_tooltip() -> None:
    chart = line_chart("<T>", [Series("a", [(5.0, 0.5)], 0, marks=True)], y_text=lambda y: f"{y:.0%}")
    assert 'title="a, step 5: 50%"' in chart
    assert "&lt;T&gt;" in chart


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    chart = line_chart("T", [Series("a", [(float(x), 1.0) for x in range(5000)], 0)], y_text=str)
    points = chart.split('class="line s0" points="')[1].split('"')[0].split()
    assert len(points) < 700
    assert (points[0][:4], points[-1][:7]) == ("0.0,", "1000.0,")


def test_the_running_mean_starts_at_the_first_value() -> None:
    smoothed = running_mean([(1.0, 2.0), (2.0, 4.0)], past=0.5)
    assert [x for x, _ in smoothed] == [1.0, 2.0]
    assert [y for _, y in smoothed] == pytest.approx([2.0, 10 / 3])
