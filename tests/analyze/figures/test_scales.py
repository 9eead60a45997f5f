import numpy as np
import pytest

from lorascope.analyze.figures.scales import log_ticks, whole_ticks


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
