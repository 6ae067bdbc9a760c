"""Figures of curves: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest

from speechprune.curves import Curve, Panel, draw_panel, style_of
from speechprune.figures import new_figure
from speechprune.intervals import Interval


def test_values_at_one_place_are_drawn_over_it_alone():
    figure, axes = new_figure((3, 3))
    curves = {"a": Curve([49.999], [0.7]), "by chance": Curve([49.999], [0.3], dashed=True)}
    draw_panel(axes, Panel("sparsity (%)", "IOU", curves), ["a"])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50"]
    (chance,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert list(chance.get_xdata()) == [0, 1] and list(chance.get_ydata()) == [0.3, 0.3]


@pytest.mark.parametrize(
    ("places", "marked"),
    [([10.0, 50.0, 70.0, 90.0], True), ([49.0, 50.0, 90.0], False), ([*range(0, 70, 10)], False)],
)
def test_few_places_are_marked_themselves_unless_their_names_would_meet(
    places: list[float], marked: bool
) -> None:
    figure, axes = new_figure((3, 3))
    draw_panel(axes, Panel("x", "y", {"RP": Curve(places, places)}), ["RP"])
    figure.canvas.draw()
    assert (list(axes.get_xticks()) == places) is marked


def test_bars_reach_from_the_least_to_the_most_and_never_beyond() -> None:
    """A mean of 41 with a deviation of 33 would reach below 0: rates that nothing gave."""
    seeds = {50.0: [3.0, 24.0, 100.0], 90.0: [99.0, 100.0, 100.0]}
    figure, axes = new_figure((3, 3))
    found = [Interval.of(values) for values in seeds.values()]
    levels = {"dense control": Interval.of([2.0, 5.0, 13.0])}
    draw_panel(
        axes, Panel("x", "y", {"RP": Curve.of_intervals(list(seeds), found)}, levels), ["RP"]
    )
    (container,) = axes.containers
    (bars,) = container[2]
    ends = [sorted(y for _, y in segment) for segment in bars.get_segments()]
    assert np.allclose(ends, [[3.0, 100.0], [99.0, 100.0]])
    assert list(container[0].get_ydata()) == [24.0, 100.0]
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (2.0, 13.0)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("count", [2, 9, 100])
def test_bars_of_several_curves_do_not_hide_each_other(count: int, logarithmic: bool) -> None:
    figure, axes = new_figure((3, 3))
    seeds = [Interval.of([3.0, 24.0, 100.0]), Interval.of([4.0, 30.0, 110.0])]
    names = [f"method {number}" for number in range(count)]
    curves = {name: Curve.of_intervals([250.0, 500.0], seeds) for name in names}
    draw_panel(axes, Panel("updates", "WER (%)", curves, logarithmic=logarithmic), names)
    figure.canvas.draw()
    places, ends = [], []
    for container in axes.containers:
        (bars,) = container[2]
        drawn = [bars.get_transform().transform(segment) for segment in bars.get_segments()]
        places.append([segment[0][0] for segment in drawn])
        ends.append([sorted(segment[:, 1]) for segment in drawn])
        assert list(container[0].get_xdata()) == [250.0, 500.0]
    steps = np.diff(places, axis=0)
    assert steps.min() > 0 and np.allclose(steps, steps[0])
    assert np.allclose(ends, ends[0])
    own = axes.transData.transform([(250.0, 9.0), (500.0, 9.0)])[:, 0]
    assert np.allclose(np.mean(places, axis=0), own)
    # Those of one place stay clear of those of the next, and of the edges.
    edges = axes.get_window_extent()
    assert edges.x0 < np.min(places) and np.max(places) < edges.x1
    assert places[-1][0] < places[0][1]
    assert axes.get_ylim()[0] < 3.0 and axes.get_ylim()[1] > 110.0


def test_a_logarithmic_scale_is_read_in_plain_numbers() -> None:
    figure, axes = new_figure((3, 3))
    curves = {"PARP": Curve([250.0, 500.0], [3.5, 110.0])}
    draw_panel(axes, Panel("updates", "WER (%)", curves, logarithmic=True), ["PARP"])
    figure.canvas.draw()
    labels = {label.get_text() for label in axes.get_yticklabels()}
    assert {"5", "10", "20", "50", "100"} <= labels


def test_values_of_one_seed_have_no_bars() -> None:
    figure, axes = new_figure((3, 3))
    curve = Curve.of_intervals([50.0], [Interval.of([24.0])])
    draw_panel(axes, Panel("x", "y", {"RP": curve}), ["RP"])
    assert not axes.containers[0].has_yerr


def test_as_many_curves_as_two_rounds_of_colours_are_told_apart() -> None:
    styles = [style_of(number) for number in range(16)]
    marks = {(each["color"], each["marker"], each["markerfacecolor"]) for each in styles}
    assert len(marks) == len(styles)
