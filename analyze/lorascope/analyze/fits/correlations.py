"""Correlations within groups, and the tests of them that scipy and statsmodels don't have.

Tables are (group, setting), with NaN where a group lacks a setting.
"""

import math

import numpy as np

ROUNDING = 1e-9
"""Share of a table's spread within groups below which what is left of it counts as 0."""
TIE = 1e-12
"""How far two correlations may differ and count as the same; sums of squares below this share count as 0."""


def centred(values: np.ndarray) -> np.ndarray:
    """Values less their group's mean, exactly 0 where a group's values are all alike."""
    means = np.nanmean(values, axis=1, keepdims=True)
    alike = np.nanmax(values, axis=1, keepdims=True) == np.nanmin(values, axis=1, keepdims=True)
    return np.where(alike & np.isfinite(values), 0.0, values - means)


def pooled_pearson(first: np.ndarray, second: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Pearson's r (draw,) of two tables after each group's means were taken off; NaN where one varies in no group.

    Groups count as often as `counts` (draw, group) says, once if None. This is the partial correlation given the
    groups: of n cells in G groups it has the distribution of a plain r of n - G + 1 cells.
    """
    x, y = (np.nan_to_num(centred(one)) for one in (first, second))
    times = np.ones((1, len(x))) if counts is None else counts
    xx, yy, xy = (times @ (a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
    return np.asarray(np.clip(_ratio(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def mean_spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation within a group, averaged over groups in which neither table is constant."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    x, y = (rankdata(one, axis=1, nan_policy="omit") for one in (first, second))
    by_group = pooled_pearson(x, y, np.eye(len(x)))
    return float(np.nanmean(by_group)) if np.isfinite(by_group).any() else math.nan


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
    from scipy.stats import t as student

    if max(map(abs, (r_12, r_13, r_23))) > 1 - TIE:
        return math.nan, math.nan
    determinant = max(1 - r_12**2 - r_13**2 - r_23**2 + 2 * r_12 * r_13 * r_23, 0.0)
    spread = 2 * determinant * (n - 1) / (n - 3) + ((r_12 + r_13) / 2) ** 2 * (1 - r_23) ** 3
    t = (r_12 - r_13) * math.sqrt((n - 1) * (1 + r_23) / spread)
    return t, float(2 * student.sf(abs(t), n - 3))


def beyond_setting(values: np.ndarray, sets: np.ndarray | None = None) -> np.ndarray:
    """What is left of a table once an effect of each group and of each setting is taken off by least squares.

    With `sets`, integers (group,), a setting has an effect of its own in each set of groups. What is left is 0
    throughout where no degree of freedom is, or nothing but rounding. The pooled correlation of two such tables is the
    partial correlation given these effects (Fisher 1924, Metron 3, 329).
    """
    there = np.isfinite(values)
    design, inside = _effects(there, sets), centred(values)[there]
    left = inside - design @ np.linalg.lstsq(design, inside, rcond=None)[0]
    is_told = np.sqrt(left @ left) > ROUNDING * np.sqrt(inside @ inside)
    found = np.full(values.shape, np.nan)
    found[there] = left if is_told and freedom_left(values, sets) >= 2 else 0
    return found


def freedom_left(values: np.ndarray, sets: np.ndarray | None = None) -> int:
    """Degrees of freedom of what `beyond_setting` leaves: cells less the effects that they can tell."""
    there = np.isfinite(values)
    return int(there.sum()) - int(np.linalg.matrix_rank(_effects(there, sets)))


def _effects(there: np.ndarray, sets: np.ndarray | None) -> np.ndarray:
    """A column a group, and one a setting of each set of groups, over the cells that are there."""
    group, setting = np.nonzero(there)
    sets = np.zeros(len(there), int) if sets is None else sets
    n_settings = there.shape[1]
    return np.hstack(
        [np.eye(len(there))[group], np.eye((sets.max() + 1) * n_settings)[sets[group] * n_settings + setting]]
    )


def r_p(r: float, freedom: float) -> float:
    """Two-sided p of Student's t of a correlation, as in scipy's `pearsonr`: with n cells it has n - 2 freedom."""
    from scipy.stats import beta

    return 2 * float(beta.sf(abs(r), freedom / 2, freedom / 2, loc=-1, scale=2)) if freedom > 0 else math.nan


def concordance(values: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Kendall's W of a table over the settings that all groups have: 1 where each group orders them alike.

    Groups count as often as `counts` (draw, group) says, once if None. It is (draw,), the share of the variance of
    within-group ranks that is between settings, which is W corrected for ties, and near 0 where no groups agree. It is
    NaN for fewer than three settings in common, or where no group tells these apart.

    References
    ----------
    Kendall and Babington Smith (1939), Annals of Mathematical Statistics 10, 275.

    Examples
    --------
    >>> import numpy as np
    >>> concordance(np.array([[1, 2, 3], [4, 5, 9]])), concordance(np.array([[1, 2, 3], [3, 2, 1]]))
    (array([1.]), array([0.]))
    """
    from scipy.stats import rankdata

    times = np.ones((1, len(values))) if counts is None else counts
    common = values[:, np.isfinite(values).all(axis=0)]
    if common.shape[1] < 3:
        return np.full(len(times), np.nan)
    r = rankdata(common, axis=1) - (common.shape[1] + 1) / 2
    return _ratio(((times @ r) ** 2).sum(axis=1) / times.sum(axis=1), times @ (r * r).sum(axis=1))


def swapped_concordance(a: np.ndarray, b: np.ndarray, swaps: np.ndarray) -> np.ndarray:
    """Difference (swap,) of Kendall's W of two tables, groups' ranks swapped between them where `swaps` says so.

    `swaps` is bool (swap, group). If two metrics order settings equally alike, either could have had the other's ranks
    in each group. NaN where `concordance` is.
    """
    both, kept = np.vstack([a, b]), ~swaps
    one, other = (np.hstack(some).astype(np.float64) for some in ((kept, swaps), (swaps, kept)))
    return np.asarray(concordance(both, one) - concordance(both, other))


def permuted_pearson(values: np.ndarray, accuracy: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Pooled Pearson (order,) of accuracy with values under each order (order, setting) of the values' settings.

    Under an order p, accuracy of setting s stands beside the value of setting p(s) in the same group, in all groups
    alike. A cell whose partner the group lacks is left out, and group means are taken over the others. NaN where
    nothing that is left varies.
    """
    x, y = centred(values), centred(accuracy)
    sums = np.zeros((3, len(orders)))  # of squares of x, of squares of y, of products
    for one, other in zip(x, y, strict=True):
        moved = one[orders]
        both = np.isfinite(moved) & np.isfinite(other)
        n = np.maximum(both.sum(axis=1, keepdims=True), 1)
        a, b = (np.where(both, side, 0.0) for side in (moved, other))
        a, b = (np.where(both, side - side.sum(axis=1, keepdims=True) / n, 0.0) for side in (a, b))
        sums += np.stack([(a * a).sum(axis=1), (b * b).sum(axis=1), (a * b).sum(axis=1)])
    defined = (sums[0] > TIE * np.nansum(x * x)) & (sums[1] > TIE * np.nansum(y * y))
    return _ratio(sums[2], np.sqrt(sums[0]) * np.sqrt(sums[1]) * defined)


def permutation_p(found: np.ndarray) -> float:
    """Two-sided p of a number of 0, from that number under each order (order,), the first of which is the one found.

    NaN if the number found is.

    Notes
    -----
    p is the share of orders that lead as far from 0 as the first. It is exact, where all groups have all settings, if
    settings might as well have had each other's values on one side, in all groups at once, whatever their effects and
    however much groups resemble each other. Orders under which the number isn't defined count as far, which is on the
    safe side. With k settings p can't go below 1/k!.

    References
    ----------
    Mantel (1967), Cancer Research 27, 209: rows of two tables permuted alike.

    Examples
    --------
    >>> permutation_p(np.array([0.9, 0.1, -0.9, 0.3]))
    0.5
    """
    if math.isnan(found[0]):
        return math.nan
    return float((np.isnan(found) | (np.abs(found) >= abs(found[0]) - TIE)).mean())


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """A quotient, NaN where what is below isn't above 0."""
    return np.asarray(np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0))
