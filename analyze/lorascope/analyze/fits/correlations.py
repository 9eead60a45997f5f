"""Correlations within groups, and tests of them that scipy and statsmodels don't have.

Tables are (group, setting), with NaN where a group lacks a setting.
"""

import math

import numpy as np

ROUNDING = 1e-9
"""Residuals below this share of a table's spread within groups count as 0."""
TIE = 1e-12
"""Correlations that differ by less count as equal; sums of squares below this share count as 0."""


def centred(values: np.ndarray) -> np.ndarray:
    """Values less their group's mean, exactly 0 where a group's values are all equal."""
    means = np.nanmean(values, axis=1, keepdims=True)
    is_constant = np.nanmax(values, axis=1, keepdims=True) == np.nanmin(values, axis=1, keepdims=True)
    return np.where(is_constant & np.isfinite(values), 0.0, values - means)


def pooled_pearson(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Pearson's r (draw,) of two tables less their groups' means; NaN where a table is constant in all groups.

    Groups count as often as `counts` (draw, group) says, once if None. This is the partial correlation given the
    groups: of n cells in G groups it has the distribution of a plain r of n - G + 1 cells.
    """
    x, y = (np.nan_to_num(centred(values)) for values in (first, second))
    times = np.ones((1, len(x))) if counts is None else counts
    xx, yy, xy = (times @ (a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
    return np.asarray(np.clip(_ratio(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def williams(r_12: float, r_13: float, r_23: float, n: int) -> tuple[float, float]:
    """Williams' t of two correlations that share variable 1, positive where r_12 is the larger, and its two-sided p.

    r_23 is that of the two others. Of values centred within G groups, n cells count as n - G + 1, which is at least 4.

    Notes
    -----
    t = (r_12 - r_13) sqrt((n - 1)(1 + r_23)/(2 |R| (n - 1)/(n - 3) + r^2 (1 - r_23)^3)), where r = (r_12 + r_13)/2 and
    |R| = 1 - r_12^2 - r_13^2 - r_23^2 + 2 r_12 r_13 r_23, with n - 3 degrees of freedom; NaN where two of the variables
    are one. Cells are independent draws of a normal distribution.

    References
    ----------
    Williams (1959), Journal of the Royal Statistical Society B 21, 396; Steiger (1980), Psychological Bulletin 87, 245,
    eq. 7.

    Examples
    --------
    >>> [round(value, 4) for value in williams(0.4, 0.5, 0.1, 103)]
    [-0.8913, 0.3749]
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    if max(map(abs, (r_12, r_13, r_23))) > 1 - TIE:
        return math.nan, math.nan
    determinant = max(1 - r_12**2 - r_13**2 - r_23**2 + 2 * r_12 * r_13 * r_23, 0.0)
    spread = 2 * determinant * (n - 1) / (n - 3) + ((r_12 + r_13) / 2) ** 2 * (1 - r_23) ** 3
    t = (r_12 - r_13) * math.sqrt((n - 1) * (1 + r_23) / spread)
    return t, float(2 * student.sf(abs(t), n - 3))


def beyond_setting(values: np.ndarray, sets: np.ndarray | None = None) -> np.ndarray:
    """Residuals of a table from an effect of each group and of each setting, by least squares.

    With `sets`, integers (group,), a setting has an effect of its own in each set of groups. All residuals are 0 if no
    degree of freedom is left, or only rounding. The pooled correlation of two such tables is the
    partial correlation given these effects (Fisher 1924, Metron 3, 329).
    """
    is_known = np.isfinite(values)
    design, cells = _effects(is_known, sets), centred(values)[is_known]
    rest = cells - design @ np.linalg.lstsq(design, cells, rcond=None)[0]
    varies = np.sqrt(rest @ rest) > ROUNDING * np.sqrt(cells @ cells)
    residuals = np.full(values.shape, np.nan)
    residuals[is_known] = rest if varies and freedom_left(values, sets) >= 2 else 0
    return residuals


def freedom_left(values: np.ndarray, sets: np.ndarray | None = None) -> int:
    """Degrees of freedom of the residuals of `beyond_setting`: cells less the effects that they determine."""
    is_known = np.isfinite(values)
    return int(is_known.sum()) - int(np.linalg.matrix_rank(_effects(is_known, sets)))


def _effects(is_known: np.ndarray, sets: np.ndarray | None) -> np.ndarray:
    """Indicators of each group, and of each setting in each set of groups, of the known cells."""
    group, setting = np.nonzero(is_known)
    n_groups, n_settings = is_known.shape
    sets = np.zeros(n_groups, int) if sets is None else sets
    return np.hstack(
        [np.eye(n_groups)[group], np.eye((sets.max() + 1) * n_settings)[sets[group] * n_settings + setting]]
    )


def r_p(r: float, freedom: float) -> float:
    """Two-sided p of Student's t of a correlation, as in scipy's `pearsonr`: with n cells it has n - 2 freedom."""
    from scipy.stats import beta

    return 2 * float(beta.sf(abs(r), freedom / 2, freedom / 2, loc=-1, scale=2)) if freedom > 0 else math.nan


def permuted_pearson(values: np.ndarray, accuracy: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Pooled Pearson (order,) of accuracy with values whose settings are reordered (order, setting).

    An order p pairs the accuracy of setting s with the value of setting p(s), in all groups. A cell without a partner
    in its group is left out, and group means are those of the others. NaN where nothing that is left varies.
    """
    x, y = centred(values), centred(accuracy)
    sums = np.zeros((3, len(orders)))  # of squares of x, of squares of y, of products
    for group_x, group_y in zip(x, y, strict=True):
        moved = group_x[orders]
        is_paired = np.isfinite(moved) & np.isfinite(group_y)
        n = np.maximum(is_paired.sum(axis=1, keepdims=True), 1)
        a, b = (np.where(is_paired, side, 0.0) for side in (moved, group_y))
        a, b = (np.where(is_paired, side - side.sum(axis=1, keepdims=True) / n, 0.0) for side in (a, b))
        sums += np.stack([(a * a).sum(axis=1), (b * b).sum(axis=1), (a * b).sum(axis=1)])
    defined = (sums[0] > TIE * np.nansum(x * x)) & (sums[1] > TIE * np.nansum(y * y))
    return _ratio(sums[2], np.sqrt(sums[0]) * np.sqrt(sums[1]) * defined)


def permutation_p(values: np.ndarray) -> float:
    """Two-sided p of a statistic against 0, from its values under each order (order,), the first of them as observed.

    NaN if the observed value is.

    Notes
    -----
    p is the share of orders with a value at least as far from 0 as the first. If all groups have all settings, it is
    exact under the hypothesis that settings are exchangeable on one side in all groups at once, however similar groups
    are. Orders that leave the statistic undefined count as far, which is conservative. With k settings p is at least
    1/k!.

    References
    ----------
    Mantel (1967), Cancer Research 27, 209: rows of two tables permuted alike.

    Examples
    --------
    >>> permutation_p(np.array([0.9, 0.1, -0.9, 0.3]))
    0.5
    """
    if math.isnan(values[0]):
        return math.nan
    return float((np.isnan(values) | (np.abs(values) >= abs(values[0]) - TIE)).mean())


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """A quotient, NaN where the divisor isn't above 0."""
    return np.asarray(np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0))
