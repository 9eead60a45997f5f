import pytest

from lorascope.analyze.figures.scales import whole_ticks


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 0, 1), (0, 11, 1), (0, 12, 2), (3, 33, 5), (0, 99, 10), (0, 120, 20), (0, 2000, 500), (5, 5, 1)],
)
def test_whole_ticks_are_few_and_round(low: int, high: int, step: int) -> None:
    assert whole_ticks(low, high) == {"tick0": 0, "dtick": step}
