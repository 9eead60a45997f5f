import doctest
import math

import numpy as np
import pytest

from lorascope.analyze.figures import scales
from lorascope.analyze.figures.scales import (
    MOST_LOG_TICKS,
    ValueAxis,
    size_axis,
    tick_text,
    value_axis,
    whole_ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 0, 1), (5, 5, 1), (3, 12, 1), (0, 10, None), (3, 33, None), (0, 2000, None)],
)
def test_few_whole_numbers_all_have_a_tick(low: int, high: int, step: int | None) -> None:
    assert whole_ticks(low, high).get("dtick") == step


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 21.0], (-0.525, 22.05, False)),
        ([-1.0, 19.0], (-1.5, 20.0, False)),
        ([-3.0, -1.0], (-3.075, 0.15, False)),
        ([0.0, 0.0], (-0.5, 1.0, False)),
        ([np.nan, np.inf], (-0.025, 1.05, False)),
        ([1.0, 30.0], (-0.75, 31.5, False)),
        ([1.0, 31.0], (31**-0.05, 31**1.05, True)),
        ([-5.0, 0.0, 1e-10, 1e10, np.nan, np.inf], (1e-11, 1e11, True)),
    ],
)
def test_an_axis_holds_what_is_finite(values: list[float], expected: tuple[float, float, bool]) -> None:
    assert value_axis(np.array(values)) == pytest.approx(expected)


def test_values_beyond_an_axis_lie_at_its_ends() -> None:
    axis = ValueAxis(0.1, 1000.0, is_log=True)
    np.testing.assert_array_equal(axis.inside(np.array([0.0, 1.0, np.inf])), [0.1, 1.0, 1000.0])
    layout = axis.layout()
    assert (layout["type"], layout["range"]) == ("log", [-1, 3])
    assert layout["ticktext"] == ["0.1", "1", "10", "100", "1000"]
    narrow = ValueAxis(0.0017, 0.031, is_log=True).layout()
    assert narrow["tickvals"] == [0.002, 0.005, 0.01, 0.02]
    assert narrow["ticktext"] == ["0.002", "0.005", "0.01", "0.02"]  # plotly's own: 2 3 5 10⁻² 2
    wide = ValueAxis(1e-20, 1e20, is_log=True).layout()["tickvals"]
    assert len(wide) <= MOST_LOG_TICKS
    assert ValueAxis(0.0, 3.0, is_log=False).layout() == {"range": [0.0, 3.0], "nticks": 6}


def test_each_size_has_a_tick_and_a_text_where_there_is_room() -> None:
    axis = size_axis(np.array([512.0, 32, 128, 32]))
    assert (axis["tickvals"], axis["ticktext"]) == ([32, 128, 512], ["32", "128", "512"])
    assert axis["range"][0] < math.log10(32) < math.log10(512) < axis["range"][1]
    close = size_axis(np.array([2.24e9, 2.46e9, 2.92e9, 3.82e9]))
    assert close["tickvals"] == [2.24e9, 2.46e9, 2.92e9, 3.82e9]
    assert close["ticktext"] == ["2.24·10⁹", "", "2.92·10⁹", "3.82·10⁹"]


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [5.0, 5.0001], []])
def test_responses_that_hardly_differ_have_room(values: list[float]) -> None:
    axis = value_axis(np.array(values), is_log=True).layout()
    assert axis["range"][0] < axis["range"][1]


def test_sizes_are_written_as_they_are() -> None:
    assert [tick_text(value) for value in (8.0, 1024, 0.1 + 0.2, 3_821_079_552)] == ["8", "1024", "0.300", "3.82·10⁹"]
    assert doctest.testmod(scales).failed == 0
