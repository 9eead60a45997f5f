import doctest
import math

import numpy as np
import pytest

from lorascope.analyze.figures import size_axes
from lorascope.analyze.figures.size_axes import log_axis, size_axis, tick_text


def test_each_size_has_a_tick_and_a_text_where_there_is_room() -> None:
    axis = size_axis(np.array([512.0, 32, 128, 32]))
    assert (axis["tickvals"], axis["ticktext"]) == ([32, 128, 512], ["32", "128", "512"])
    assert axis["range"][0] < math.log10(32) < math.log10(512) < axis["range"][1]
    close = size_axis(np.array([2.24e9, 2.46e9, 2.92e9, 3.82e9]))
    assert close["tickvals"] == [2.24e9, 2.46e9, 2.92e9, 3.82e9]
    assert close["ticktext"] == ["2.24·10⁹", "", "2.92·10⁹", "3.82·10⁹"]


def test_many_sizes_have_few_ticks() -> None:
    axis = size_axis(np.geomspace(1, 1e6, 40))
    assert 3 <= len(axis["tickvals"]) < 20
    assert "" not in axis["ticktext"]


def test_a_single_size_has_an_axis() -> None:
    axis = size_axis(np.array([100.0]))
    assert (axis["tickvals"], axis["ticktext"]) == ([100], ["100"])
    assert axis["range"] == pytest.approx([1.8, 2.2])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1510.0, 1900.0, [1500, 1600, 1700, 1800, 1900]),
        (1500.0, 3800.0, [1500, 2000, 2500, 3000, 3500]),
        (0.2, 2.0, [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2]),
        (1e-3, 1e3, [0.001, 0.01, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_responses_have_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    axis = log_axis(np.array([high, low, np.nan, 0.0, -1.0, np.inf]))
    assert axis["tickvals"] == pytest.approx(ticks)
    assert axis["range"][0] < math.log10(low) < math.log10(high) < axis["range"][1]
    assert len(axis["ticktext"]) == len(ticks)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [5.0, 5.0001], []])
def test_responses_that_hardly_differ_have_ticks(values: list[float]) -> None:
    axis = log_axis(np.array(values))
    assert axis["range"][0] < axis["range"][1]
    assert 2 <= len(axis["tickvals"]) <= 7
    assert len(set(axis["ticktext"])) == len(axis["ticktext"])


def test_sizes_are_written_as_they_are() -> None:
    assert [tick_text(value) for value in (8.0, 1024, 0.1 + 0.2, 3_821_079_552)] == ["8", "1024", "0.300", "3.82·10⁹"]
    assert doctest.testmod(size_axes).failed == 0
