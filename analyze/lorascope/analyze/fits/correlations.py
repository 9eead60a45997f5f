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
    """Return a table (group, setting) minus the mean of each group; exactly 0 if all values of a group are equal."""
    means = np.nanmean(values, axis=1, keepdims=True)
    is_constant = np.nanmax(values, axis=1, keepdims=True) == np.nanmin(values, axis=1, keepdims=True)
    return np.where(is_constant & np.isfinite(values), 0.0, values - means)


def pooled_pearson(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return Pearson's r (draw,) of two tables (group, setting) centred within groups; NaN if one doesn't vary.

    `counts` (draw, group) is how often a bootstrap draw has each group; by default one draw has each group once. This
    is the partial correlation given the groups: with n cells in G groups it has the distribution of a plain r of
    n - G + 1 cells.
    """
    x, y = (np.nan_to_num(centred(values)) for values in (first, second))
    times = np.ones((1, len(x))) if counts is None else counts
    xx, yy, xy = (times @ (a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
    return np.asarray(np.clip(_ratio(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def williams(r_12: float, r_13: float, r_23: float, n: int) -> tuple[float, float]:
    """Return Williams' t, positive if r_12 > r_13, and its two-sided p; variable 1 is shared, r_23 the third r.

    For values centred within G groups, `n` is cells - G + 1, at least 4.

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


def setting_residuals(values: np.ndarray, sets: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Return residuals (group, setting) of a regression on indicators of groups and settings, and their df.

    With `sets`, integers (group,), a setting has a separate effect in each set of groups. `df` is cells minus the
    design's rank. All residuals are 0 if df is below 2, or if they are only rounding. The pooled correlation of two
    such tables is the partial correlation given these effects (Fisher 1924, Metron 3, 329).
    """
    is_known, (n_groups, n_settings) = np.isfinite(values), values.shape
    group, setting = np.nonzero(is_known)
    sets = np.zeros(n_groups, int) if sets is None else sets
    effects = np.eye((sets.max() + 1) * n_settings)[sets[group] * n_settings + setting]
    design, cells = np.hstack([np.eye(n_groups)[group], effects]), centred(values)[is_known]
    coefficients, _, rank, _ = np.linalg.lstsq(design, cells, rcond=None)
    rest, df = cells - design @ coefficients, len(cells) - int(rank)
    varies = np.sqrt(rest @ rest) > ROUNDING * np.sqrt(cells @ cells)
    residuals = np.full(values.shape, np.nan)
    residuals[is_known] = rest if varies and df >= 2 else 0
    return residuals, df


def correlation_p(r: float, df: int) -> float:
    """Return the two-sided p of a correlation by Student's t with `df` degrees of freedom; NaN if `df` isn't above 0.

    It is that of `scipy.stats.pearsonr` for n cells and `df` n - 2.
    """
    from scipy.stats import beta

    return 2 * float(beta.sf(abs(r), df / 2, df / 2, loc=-1, scale=2)) if df > 0 else math.nan


def permuted_pearson(values: np.ndarray, accuracy: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return `pooled_pearson` (order,) of two tables after the settings of `values` are permuted in all groups alike.

    An order p of `orders` (order, setting) pairs the accuracy of setting s with the value of setting p(s). Cells
    without a partner in their group are excluded, also from group means; NaN if the others don't vary.
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
    """Return the two-sided permutation p of a statistic, the first of its `values` (order,); NaN if that is NaN.

    p is the share of orders with a value at least as far from 0 as the first. If all groups have all settings, it is
    exact under the hypothesis that settings are exchangeable on one side in all groups at once, however similar groups
    are (Mantel 1967, Cancer Research 27, 209). Orders with an undefined statistic count as far from 0, which is
    conservative. With k settings, p is at least 1/k!.
    """
    if math.isnan(values[0]):
        return math.nan
    return float((np.isnan(values) | (np.abs(values) >= abs(values[0]) - TIE)).mean())


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient (n,) of two arrays; NaN where the denominator isn't above 0."""
    quotient = np.full(len(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=quotient, where=denominator > 0))
