"""Tests of whether one variable is correlated more closely with a second than with a third, in one sample."""

import math
from typing import NamedTuple

import numpy as np

__all__ = ["DifferenceTest", "meng", "steiger", "williams"]

ROUNDING = 1e-12
"""How far the determinant of three correlations may lie below 0."""


class DifferenceTest(NamedTuple):
    """A two-sided test of r_12 = r_13."""

    statistic: float
    """Positive where r_12 is the larger."""
    p: float
    df: float
    """Degrees of freedom of Student's t; infinite for a normal statistic."""


def williams(r_12: float, r_13: float, r_23: float, n: int) -> DifferenceTest:
    """Williams' t of two correlations that share variable 1, with n - 3 degrees of freedom.

    Parameters
    ----------
    r_12, r_13
        Pearson correlations that are compared.
    r_23
        That of the two variables which aren't shared.
    n
        Cells; of values centred within G blocks, n - G + 1 makes up for the means.

    Raises
    ------
    ValueError
        If a correlation isn't above -1 and below 1, no three variables have such correlations, or n is below 4.

    Notes
    -----
    t = (r_12 - r_13) sqrt((n - 1)(1 + r_23)/(2 |R| (n - 1)/(n - 3) + r^2 (1 - r_23)^3)), where r = (r_12 + r_13)/2 and
    |R| = 1 - r_12^2 - r_13^2 - r_23^2 + 2 r_12 r_13 r_23. Cells are independent draws of a normal distribution.

    References
    ----------
    Williams (1959), Journal of the Royal Statistical Society B 21, 396; Steiger (1980), Psychological Bulletin 87, 245,
    eq. 7.

    Examples
    --------
    >>> [round(value, 4) for value in williams(0.4, 0.5, 0.1, 103)]
    [-0.8913, 0.3749, 100]
    """
    determinant = _checked(r_12, r_13, r_23, n)
    spread = 2 * determinant * (n - 1) / (n - 3) + ((r_12 + r_13) / 2) ** 2 * (1 - r_23) ** 3
    t = (r_12 - r_13) * math.sqrt((n - 1) * (1 + r_23) / spread)
    from scipy.stats import t as student  # type: ignore[import-untyped]

    return DifferenceTest(t, float(2 * student.sf(abs(t), n - 3)), n - 3)


def meng(r_12: float, r_13: float, r_23: float, n: int) -> DifferenceTest:
    """The z of Meng, Rosenthal and Rubin for two correlations that share variable 1.

    Parameters and Raises are those of `williams`.

    Notes
    -----
    z = (atanh r_12 - atanh r_13) sqrt((n - 3)/(2 (1 - r_23) h)), where h = (1 - f m)/(1 - m), m = (r_12^2 + r_13^2)/2
    and f = min(1, (1 - r_23)/(2 (1 - m))).

    References
    ----------
    Meng, Rosenthal and Rubin (1992), Psychological Bulletin 111, 172.

    Examples
    --------
    >>> round(meng(0.63, -0.03, -0.19, 15).statistic, 2)
    1.68
    """
    _checked(r_12, r_13, r_23, n)
    mean_square = (r_12 * r_12 + r_13 * r_13) / 2
    f = min(1.0, (1 - r_23) / (2 * (1 - mean_square)))
    h = (1 - f * mean_square) / (1 - mean_square)
    return _normal((math.atanh(r_12) - math.atanh(r_13)) * math.sqrt((n - 3) / (2 * (1 - r_23) * h)))


def steiger(r_12: float, r_13: float, r_23: float, n: int) -> DifferenceTest:
    """Steiger's Z for two correlations that share variable 1, its covariance taken at their mean.

    Parameters and Raises are those of `williams`.

    Notes
    -----
    Z = (atanh r_12 - atanh r_13) sqrt((n - 3)/(2 - 2 s)), where r = (r_12 + r_13)/2 and s = (r_23 (1 - 2 r^2) -
    r^2 (1 - 2 r^2 - r_23^2)/2)/(1 - r^2)^2 is the large-sample correlation of the two Fisher transforms if both
    correlations are r.

    References
    ----------
    Steiger (1980), Psychological Bulletin 87, 245: Fisher's transform with pooled correlations. Dunn and Clark (1969),
    Journal of the American Statistical Association 64, 366.

    Examples
    --------
    >>> round(steiger(0.4, 0.5, 0.1, 103).statistic, 4)
    -0.8887
    """
    _checked(r_12, r_13, r_23, n)
    square = ((r_12 + r_13) / 2) ** 2
    covariance = r_23 * (1 - 2 * square) - square * (1 - 2 * square - r_23 * r_23) / 2
    shared = covariance / (1 - square) ** 2
    return _normal((math.atanh(r_12) - math.atanh(r_13)) * math.sqrt((n - 3) / (2 - 2 * shared)))


def _checked(r_12: float, r_13: float, r_23: float, n: int) -> float:
    """The determinant of the three correlations."""
    for name, value in (("r_12", r_12), ("r_13", r_13), ("r_23", r_23)):
        if not -1 < value < 1:
            raise ValueError(f"`{name}` is {float(value)!r}; allowed is what lies between -1 and 1")
    if not n >= 4:
        raise ValueError(f"`n` is {n!r}; the test of two correlations needs 4 cells")
    determinant = 1 - r_12**2 - r_13**2 - r_23**2 + 2 * r_12 * r_13 * r_23
    if determinant < -ROUNDING:
        raise ValueError(f"no three variables have the correlations {float(r_12)!r}, {float(r_13)!r}, {float(r_23)!r}")
    return max(determinant, 0.0)


def _normal(z: float) -> DifferenceTest:
    return DifferenceTest(z, math.erfc(abs(z) / math.sqrt(2)), np.inf)
