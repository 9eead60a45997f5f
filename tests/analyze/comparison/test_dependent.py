import doctest
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lorascope.analyze.comparison import dependent
from lorascope.analyze.comparison.dependent import DifferenceTest, meng, steiger, williams

ALL = [williams, meng, steiger]
Compare = Callable[[float, float, float, int], DifferenceTest]


def normal_covariance(r: np.ndarray, i: int, j: int, k: int, m: int) -> float:
    """n times the large-sample covariance of two correlations, of any four variables (Olkin and Siotani 1976)."""
    ends = r[i, k] ** 2 + r[i, m] ** 2 + r[j, k] ** 2 + r[j, m] ** 2
    crossed = r[i, k] * r[j, m] + r[i, m] * r[j, k]
    triples = (
        r[i, j] * r[i, k] * r[i, m]
        + r[j, i] * r[j, k] * r[j, m]
        + r[k, i] * r[k, j] * r[k, m]
        + r[m, i] * r[m, j] * r[m, k]
    )
    return float(r[i, j] * r[k, m] * ends / 2 + crossed - triples)


def matrix(r_12: float, r_13: float, r_23: float) -> np.ndarray:
    return np.array([[1, r_12, r_13], [r_12, 1, r_23], [r_13, r_23, 1]])


def test_published_example_of_williams() -> None:
    t, p, df = williams(0.4, 0.5, 0.1, 103)  # that of psych's manual
    assert (t, p, df) == (pytest.approx(-0.8913, abs=5e-5), pytest.approx(0.3749, abs=5e-5), 100)


def test_published_example_of_meng() -> None:
    z, p, df = meng(0.63, -0.03, -0.19, 15)  # Meng, Rosenthal and Rubin 1992
    assert z == pytest.approx(1.68, abs=5e-3)
    assert p / 2 == pytest.approx(0.047, abs=5e-4)
    assert df == math.inf


@pytest.mark.parametrize(("r_12", "r_13", "r_23"), [(0.4, 0.5, 0.1), (-0.7, -0.2, 0.3), (0.0, 0.3, -0.5)])
def test_steiger_divides_by_the_general_covariance_at_pooled_correlations(
    r_12: float, r_13: float, r_23: float
) -> None:
    mean = (r_12 + r_13) / 2
    pooled = matrix(mean, mean, r_23)
    variance, covariance = normal_covariance(pooled, 0, 1, 0, 1), normal_covariance(pooled, 0, 1, 0, 2)
    z = (math.atanh(r_12) - math.atanh(r_13)) / math.sqrt(2 * (variance - covariance) / (1 - mean**2) ** 2 / 97)
    assert steiger(r_12, r_13, r_23, 100).statistic == pytest.approx(z)


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_meng_and_steiger_agree_where_correlations_nearly_do(r: float, r_23: float) -> None:
    assume(1 - 2 * r * r - r_23 * r_23 + 2 * r * r * r_23 > 0.01)
    assume((1 - r_23) / (2 * (1 - r * r)) < 0.99)
    one, other = (test(r + 1e-5, r - 1e-5, r_23, 50).statistic for test in (meng, steiger))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("test", ALL, ids=lambda test: test.__name__)
def test_large_samples_agree_with_the_general_covariance(test: Compare) -> None:
    r = matrix(0.51, 0.5, 0.3)
    spread = [normal_covariance(r, 0, a, 0, b) for a, b in ((1, 1), (2, 2), (1, 2))]
    z = 0.01 / math.sqrt((spread[0] + spread[1] - 2 * spread[2]) / 10_000)
    assert test(0.51, 0.5, 0.3, 10_000).statistic == pytest.approx(z, rel=0.01)


@pytest.mark.parametrize("test", ALL, ids=lambda test: test.__name__)
@pytest.mark.parametrize("r", [0.0, 0.6])
def test_p_is_uniform_where_there_is_no_difference(test: Compare, r: float) -> None:
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(matrix(r, r, 0.5))
    draws = rng.normal(size=(2000, 40, 3)) @ root.T
    found = np.array([test(c[0, 1], c[0, 2], c[1, 2], 40).p for c in (np.corrcoef(d.T) for d in draws)])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 2000))


@given(st.floats(-0.95, 0.95), st.floats(-0.95, 0.95), st.floats(-0.95, 0.95), st.integers(4, 500))
def test_turning_it_round_turns_the_sign(r_12: float, r_13: float, r_23: float, n: int) -> None:
    assume(np.linalg.det(matrix(r_12, r_13, r_23)) > 1e-6)
    for test in ALL:
        one, other = test(r_12, r_13, r_23, n), test(r_13, r_12, r_23, n)
        assert one.statistic == pytest.approx(-other.statistic)
        assert one.p == pytest.approx(other.p)
        assert 0 <= one.p <= 1
        assert math.copysign(1, one.statistic) == math.copysign(1, r_12 - r_13) or r_12 == r_13


@pytest.mark.parametrize("test", ALL, ids=lambda test: test.__name__)
def test_equal_correlations(test: Compare) -> None:
    assert test(0.4, 0.4, 0.2, 20)[:2] == (0, 1)


@pytest.mark.parametrize("test", ALL, ids=lambda test: test.__name__)
@pytest.mark.parametrize("size", [1e-1, 1e-3])
def test_p_falls_with_cells(test: Compare, size: float) -> None:
    found = [test(0.3 + size, 0.3, 0.2, n).p for n in (4, 10, 100, 10_000)]
    assert found == sorted(found, reverse=True)


def test_three_in_a_plane() -> None:
    r_12, r_13 = 0.8, 0.6  # variable 1 is 0.8 of the one and 0.6 of the other
    assert williams(r_12, r_13, 0.0, 10).statistic == pytest.approx(0.2 * math.sqrt(9) / 0.7)


@pytest.mark.parametrize("test", ALL, ids=lambda test: test.__name__)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, 0.5, 0.1, 10), "`r_12` is 1.0; allowed is what lies between -1 and 1"),
        ((0.5, -1.0, 0.1, 10), "`r_13` is -1.0; allowed is what lies between -1 and 1"),
        ((0.5, 0.5, math.nan, 10), "`r_23` is nan; allowed is what lies between -1 and 1"),
        ((0.5, 0.4, math.inf, 10), "`r_23` is inf; allowed is what lies between -1 and 1"),
        ((0.5, 0.4, 0.1, 3), "`n` is 3; the test of two correlations needs 4 cells"),
        ((0.9, 0.9, -0.9, 10), "no three variables have the correlations 0.9, 0.9, -0.9"),
    ],
)
def test_what_no_sample_has(test: Compare, given: tuple[float, float, float, int], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        test(*given)


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(dependent) == (0, 3)
