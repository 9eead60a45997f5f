import math

import numpy as np
import pytest

from lorascope.analyze.comparison.cells import StudyCells
from lorascope.analyze.comparison.decisions import within_pairs
from lorascope.analyze.comparison.drawn import (
    Drawn,
    Options,
    can_agree,
    drawn_pearson,
    drawn_share,
    ends,
    floored,
    ordered_pearson,
)
from lorascope.analyze.comparison.relabel import Relabelling
from lorascope.analyze.comparison.resample import Draws, Interval
from lorascope.analyze.comparison.roles import Metric
from lorascope.analyze.comparison.steady import common_cells

CE = Metric("CE", "CE", False, -1)


def drawn(values: list[float]) -> Drawn:
    """Two blocks of three; one draw takes each block once, two take one of them twice."""
    block, setting = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    accuracy = np.array([0.1, 0.2, 0.3, 0.5, 0.5, 0.5])
    cells = StudyCells("all", accuracy, {"CE": np.array(values)}, block, setting, ("a", "b"), ("r", "s", "t"), None)
    draws = Draws(np.array([[1.0, 1], [2, 0], [0, 2]]), np.array([0.5, 0.25, 0.25]), True)
    orders = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    return Drawn(cells, within_pairs(block), common_cells(block, setting), draws, orders, Options(100, 0, 0.05))


def test_correlations_of_draws() -> None:
    made = drawn([3.0, 2, 1, 0, 0, 2])
    found = drawn_pearson(made, made.cells.metrics["CE"])
    assert found[0] == pytest.approx(-0.2 / math.sqrt(0.02 * (2 + 8 / 3)))
    assert found[1] == pytest.approx(-1)
    assert math.isnan(found[2])


def test_shares_of_draws() -> None:
    found = drawn_share(drawn([3.0, 2, 1, 0, 0, 2]), np.array([1, 0.5, np.nan, 0, np.nan, np.nan]))
    np.testing.assert_allclose(found, [0.5, 0.75, 0])


def test_shares_without_pairs() -> None:
    found = drawn_share(drawn([3.0, 2, 1, 0, 0, 2]), np.array([1.0, 0, 1, np.nan, np.nan, np.nan]))
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, np.nan])


def test_agreement_needs_three_settings_that_differ() -> None:
    assert can_agree(drawn([3.0, 2, 1, 0, 0, 2]), CE)
    assert not can_agree(drawn([1.0] * 6), CE)
    made = drawn([3.0, 2, 1, 0, 0, 2])
    assert not can_agree(made._replace(common=made.common[:, :2]), CE)


def test_a_generator_for_each_test() -> None:
    made = drawn([1.0] * 6)
    assert made.rng().integers(1000) == made.rng().integers(1000)


def test_correlations_of_orders() -> None:
    found = ordered_pearson(drawn([3.0, 2, 1, 0, 0, 2]), np.array([3.0, 2, 1, 0, 0, 2]))
    r = -0.2 / math.sqrt(0.02 * (2 + 8 / 3))
    np.testing.assert_allclose(found, [r, -r, r / 2])


def test_a_test_by_orders_of_settings() -> None:
    assert floored(Relabelling(0.2, 0.1)) == {"setting_p": 0.2, "setting_floor": 0.1}


def test_ends_of_an_interval() -> None:
    assert ends("x_", Interval(0.1, 0.2, 0.0)) == {"x_low": 0.1, "x_high": 0.2}
