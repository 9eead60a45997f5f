import numpy as np
import pytest

from lorascope.analyze.figures.scales import log_ticks, whole_ticks
from lorascope.analyze.figures.size_axes import ValueAxis, value_axis


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 0, 1), (0, 11, 1), (0, 12, 2), (3, 33, 5), (0, 99, 10), (0, 120, 20), (0, 2000, 500), (5, 5, 1)],
)
def test_whole_ticks_are_few_and_round(low: int, high: int, step: int) -> None:
    assert whole_ticks(low, high) == {"tick0": 0, "dtick": step}


@pytest.mark.parametrize(
    ("low", "high"), [(-324.5, -323.5), (-323.4, -320), (307.5, 308.5), (308.2, 308.4), (-324, 309)]
)
def test_ticks_at_the_ends_of_float64(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert np.isfinite(ticks).all()
    assert min(ticks) > 0


def test_ticks_are_round() -> None:
    assert log_ticks(-2, 2) == [0.01, 0.1, 1, 10, 100]
    assert log_ticks(0, 1) == [1, 2, 5, 10]
    assert log_ticks(0.05, 0.1) == [10**0.05, 10**0.1]


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


def test_an_axis_is_logarithmic_where_asked_for() -> None:
    assert value_axis(np.array([1.0, 2.0]), is_log=True) == pytest.approx((2**-0.05, 2**1.05, True))
    assert value_axis(np.array([0.0]), is_log=True) == pytest.approx((1 / 1.01, 1.01, True))
    assert not value_axis(np.array([1.0, 1e6]), is_log=False).is_log


def test_values_beyond_an_axis_lie_at_its_ends() -> None:
    axis = ValueAxis(0.1, 1000.0, is_log=True)
    np.testing.assert_array_equal(axis.inside(np.array([0.0, 1.0, np.inf])), [0.1, 1.0, 1000.0])
    layout = axis.layout()
    assert (layout["type"], layout["range"]) == ("log", [-1, 3])
    assert layout["tickvals"] == [0.1, 1, 10, 100, 1000]
    assert layout["ticktext"] == ["0.1", "1", "10", "100", "1000"]
    assert ValueAxis(0.0, 3.0, is_log=False).layout() == {"range": [0.0, 3.0], "nticks": 6}
