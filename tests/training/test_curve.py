"""The curve of losses: windows of equal length, exact after a resume."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.training.curve import POINTS, LossCurve, write_curve


def filled(iterations, start=0, curve=None, end=None):
    curve = curve or LossCurve(iterations)
    for done in range(start + 1, (iterations if end is None else end) + 1):
        curve.add(done, {"a": float(done), **({"b": 1.0} if done % 2 else {})})
    return curve


@given(st.integers(0, 700))
def test_windows_cover_every_step_once(iterations):
    points = filled(iterations).points
    assert len(points) <= POINTS and (not points or points[-1]["iteration"] == iterations)
    ends = [0, *(point["iteration"] for point in points)]
    for before, point in zip(ends, points, strict=False):
        steps = range(before + 1, point["iteration"] + 1)
        assert point["a"] == pytest.approx(sum(steps) / len(steps))


@given(st.integers(1, 300), st.data())
def test_a_resumed_curve_is_the_same(iterations, data):
    stop = data.draw(st.integers(0, iterations))
    whole, part, rest = filled(iterations), filled(iterations, end=stop), LossCurve(iterations)
    rest.resume(part.state())
    assert filled(iterations, stop, rest).points == whole.points
    rest.resume(None)  # a checkpoint of before
    assert rest.points == []


def test_a_loss_that_some_windows_lack_is_empty_there(tmp_path):
    write_curve(tmp_path / "losses.csv", filled(4).points)
    lines = list(csv.DictReader((tmp_path / "losses.csv").open()))
    assert [line["b"] for line in lines] == ["1", "", "1", ""] and [line["iteration"] for line in lines] == ["1", "2", "3", "4"]
