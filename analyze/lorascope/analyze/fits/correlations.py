"""Correlations within groups, and their tests that scipy and statsmodels lack.

Tables are (group, setting), with NaN where a group lacks a setting.
"""

import math

import numpy as np

ROUNDING = 1e-9
"""Residuals below this share of a table's spread within groups count as 0."""
TIE = 1e-12
"""Correlations that differ by less count as equal; sums of squares below this share count as 0."""


def centred(values: np.ndarray) -> np.ndarray:
    """Return values (group, setting) minus their group's mean; exactly 0 if all values of a group are equal."""
    means = np.nanmean(values, axis=1, keepdims=True)
    is_constant = np.nanmax(values, axis=1, keepdims=True) == np.nanmin(values, axis=1, keepdims=True)
    return np.where(is_constant & np.isfinite(values), 0.0, values - means)


def pooled_pearson(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return Pearson's r (draw,) of two tables centred within groups; NaN if a table is constant in all groups.

    `counts` (draw, group) is how often each group counts; once if None. This is the partial correlation given the
    groups: with n cells in G groups it has the distribution of a plain r of n - G + 1 cells.
    """
    x, y = (np.nan_to_num(centred(values)) for values in (first, second))
    times = np.ones((1, len(x))) if counts is None else counts
    xx, yy, xy = (times @ (a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
    return np.asarray(np.clip(_ratio(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def williams(r_12: float, r_13: float, r_23: float, n: int) -> tuple[float, float]:
    """Return Williams' t for r_12 against r_13, correlations that share variable 1, and its two-sided p.

    t is positive if r_12 is the larger. r_23 is the correlation of the other two. For values centred within G groups,
    `n` is cells - G + 1, at least 4.

    Notes
    -----
    t = (r_12 - r_13) sqrt((n - 1)(1 + r_23)/(2 |R| (n - 1)/(n - 3) + r^2 (1 - r_23)^3)), where r = (r_12 + r_13)/2 and
    |R| = 1 - r_12^2 - r_13^2 - r_23^2 + 2 r_12 r_13 r_23, with n - 3 degrees of freedom; NaN if two of the variables
    are equal. Cells are assumed to be independent draws of a normal distribution.

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


def setting_residuals(values: np.ndarray, sets: np.ndarray | None = None) -> np.ndarray:
    """Return residuals of a table (group, setting) after least squares on effects of groups and of settings.

    With `sets`, integers (group,), a setting has a separate effect in each set of groups. All residuals are 0 if no
    degree of freedom is left, or only rounding. The pooled correlation of two such tables is the partial correlation
    given these effects (Fisher 1924, Metron 3, 329).
    """
    is_known = np.isfinite(values)
    design, cells = _effects(is_known, sets), centred(values)[is_known]
    rest = cells - design @ np.linalg.lstsq(design, cells, rcond=None)[0]
    varies = np.sqrt(rest @ rest) > ROUNDING * np.sqrt(cells @ cells)
    residuals = np.full(values.shape, np.nan)
    residuals[is_known] = rest if varies and residual_freedom(values, sets) >= 2 else 0
    return residuals


def residual_freedom(values: np.ndarray, sets: np.ndarray | None = None) -> int:
    """Return the degrees of freedom of `setting_residuals`: cells minus effects that they determine."""
    is_known = np.isfinite(values)
    return int(is_known.sum()) - int(np.linalg.matrix_rank(_effects(is_known, sets)))


def _effects(is_known: np.ndarray, sets: np.ndarray | None) -> np.ndarray:
    """Return the design matrix (cell, effect): indicators of groups, and of settings in each set of groups."""
    group, setting = np.nonzero(is_known)
    n_groups, n_settings = is_known.shape
    sets = np.zeros(n_groups, int) if sets is None else sets
    return np.hstack(
        [np.eye(n_groups)[group], np.eye((sets.max() + 1) * n_settings)[sets[group] * n_settings + setting]]
    )


def correlation_p(r: float, freedom: float) -> float:
    """Return the two-sided p of a correlation by Student's t, as in `pearsonr`; n cells have `freedom` n - 2."""
    from scipy.stats import beta

    return 2 * float(beta.sf(abs(r), freedom / 2, freedom / 2, loc=-1, scale=2)) if freedom > 0 else math.nan


def permuted_pearson(values: np.ndarray, accuracy: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the pooled Pearson correlation (order,) of accuracy with values whose settings are reordered.

    `orders` is (order, setting): an order p pairs the accuracy of setting s with the value of setting p(s), in all
    groups. Cells without a partner in their group are excluded, also from group means. NaN if nothing else varies.
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
    """Return the two-sided p of a statistic, `values[0]`, among its values (order,) by permutation; NaN if NaN.

    Notes
    -----
    p is the share of orders with a value at least as far from 0 as the first. If all groups have all settings, it is
    exact under the hypothesis that settings are exchangeable on one side in all groups at once, however similar groups
    are. Orders with an undefined statistic count as far from 0, which is conservative. With k settings, p is at least
    1/k!.

    References
    ----------
    Mantel (1967), Cancer Research 27, 209: permuting rows of two tables together.

    Examples
    --------
    >>> permutation_p(np.array([0.9, 0.1, -0.9, 0.3]))
    0.5
    """
    if math.isnan(values[0]):
        return math.nan
    return float((np.isnan(values) | (np.abs(values) >= abs(values[0]) - TIE)).mean())


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return the quotient of two arrays; NaN where the divisor isn't above 0."""
    return np.asarray(np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0))
