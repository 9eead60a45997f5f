import math

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lorascope.analyze.fits.laws import SMALL, Column

LOGS = np.array([-2.3, -0.4, 0.0, 1e-4, 0.7, 3.1])[:, None]
PAIR = np.hstack([LOGS, LOGS[::-1]])
COLUMNS: dict[str, tuple[Column, np.ndarray]] = {
    "power": (Column("A", LOGS, (0,)), np.array([0.4])),
    "power, falling": (Column("A", LOGS, (0,)), np.array([-1.2])),
    "power, second of two": (Column("B", LOGS, (1,)), np.array([0.4, 1.7])),
    "product": (Column("A", np.column_stack([PAIR, LOGS**2]), (0, 1, 2)), np.array([0.4, -0.3, 0.1])),
    "product in other places": (Column("A", PAIR, (2, 0)), np.array([0.4, 9.0, 0.1])),
    "straight": (Column("slope_N", LOGS), np.array([0.4])),
}
columns = pytest.mark.parametrize(("column", "at"), COLUMNS.values(), ids=COLUMNS.keys())


def exact(log_x: float, e: float) -> tuple[float, float]:
    """(x**e - 1) / e and its derivative by e."""
    with mpmath.workdps(80):
        log, power = mpmath.mpf(log_x), mpmath.mpf(e)
        if abs(e) < 1e-30:
            return float(log), float(log**2 / 2)
        more = mpmath.expm1(log * power)
        return float(more / power), float(((power * log - 1) * more + power * log) / power**2)


def central(column: Column, at: np.ndarray, which: str) -> np.ndarray:
    """(n, q) derivatives by differences over steps of 1e-5 and 2e-5, the error of the first order taken out."""
    slopes = []
    for place in range(len(at)):
        step = np.eye(len(at))[place] * 1e-4
        near, far = (
            (getattr(column, which)(at + k * step) - getattr(column, which)(at - k * step)) / (2e-4 * k) for k in (1, 2)
        )
        slopes.append((4 * near - far) / 3)
    return np.stack(slopes, axis=1)


exponents = st.floats(-1.5, 25.0) | st.floats(-15, 0).flatmap(lambda power: st.sampled_from((10**power, -(10**power))))


@given(exponents, st.floats(-9.0, 9.0).filter(lambda log_x: abs(log_x) > 1e-9))
@example(0.0, 1.3)
@example(1e-20, 1.3)
@example(5e-324, 1.3)
@example(-1e-289, 1.3)
@example(1.0, -9.0)
def test_power_is_box_and_coxs(e: float, log_x: float) -> None:
    value, slope = exact(log_x, e)
    column = Column("A", np.array([[log_x]]), (0,))
    assert column.centred(np.array([e]))[0] == pytest.approx(value, rel=1e-13, abs=1e-300)
    assert column.centred_slopes(np.array([e]))[0, 0] == pytest.approx(slope, rel=2e-12, abs=1e-300)


@pytest.mark.parametrize("e", [0.0, 1e-16, -1e-16, 1e-9, -1e-9])
def test_power_becomes_a_logarithm(e: float) -> None:
    column = Column("A", LOGS, (0,))
    np.testing.assert_allclose(column.centred(np.array([e])), LOGS[:, 0], rtol=1e-8)
    np.testing.assert_allclose(column.centred_slopes(np.array([e])), LOGS**2 / 2, rtol=1e-8)


@pytest.mark.parametrize("share", [0.999, 0.9999999, 1.0000001, 1.001])
def test_both_forms_of_the_slope_meet(share: float) -> None:
    for sign in (-1, 1):
        u = sign * SMALL * share
        slope = Column("A", np.array([[1.0]]), (0,)).centred_slopes(np.array([u]))[0, 0]
        assert slope == pytest.approx(exact(1.0, u)[1], rel=1e-12, abs=0)


@columns
def test_slopes_are_those_of_differences(column: Column, at: np.ndarray) -> None:
    for which in ("centred", "printed"):
        slopes = getattr(column, f"{which}_slopes")(at)
        np.testing.assert_allclose(slopes, central(column, at, which), rtol=1e-9, atol=1e-10)


@columns
def test_printed_term_is_the_centred_one_and_a_constant(column: Column, at: np.ndarray) -> None:
    centred = column.centred(at) / column.per_unit(at)
    np.testing.assert_allclose(column.printed(at) - bool(column.exponents), centred, rtol=1e-13, atol=1e-15)


@columns
def test_many_exponents_at_once(column: Column, at: np.ndarray) -> None:
    points = at + np.linspace(0, 1, 4)[:, None]
    terms = column.centred(points)
    assert terms.shape == (4, len(LOGS))
    np.testing.assert_allclose(terms, [column.centred(point) for point in points], rtol=1e-13)
    assert column.centred(points.reshape(2, 2, -1)).shape == (2, 2, len(LOGS))


def test_values_by_hand() -> None:
    x = np.array([1.0, 2.0, 4.0])[:, None]
    power, both = Column("A", np.log(x), (0,)), Column("A", np.log(np.hstack([x, x[::-1]])), (0, 1))
    np.testing.assert_allclose(power.printed(np.array([0.5])), [1, math.sqrt(2), 2])
    np.testing.assert_allclose(power.centred(np.array([2.0])), [0, 1.5, 7.5])
    np.testing.assert_allclose(both.printed(np.array([1.0, 2.0])), [16, 8, 4])
    np.testing.assert_allclose(both.centred(np.array([1.0, 2.0])), [15, 7, 3])
    np.testing.assert_array_equal(Column("slope_N", x).printed(np.zeros(0)), x[:, 0])
    assert power.per_unit(np.zeros(1)) == math.inf
