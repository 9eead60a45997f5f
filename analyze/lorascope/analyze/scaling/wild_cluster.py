"""A test of a slope by turning the signs of whole groups' residuals: exact where groups are few, with an interval."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .group_design import GroupDesign, check_level, group_design

__all__ = ["wild_cluster_test"]

MOST_EXACT = 12
"""Groups up to which all sign vectors are gone through."""
TIED = 1e-9
"""Relative: squared statistics closer than this are equal."""
VANISHED = 1e-8
"""Relative to the plain one, an error by group below this is zero."""
DISTANCES = np.logspace(-3, 6, 361)
"""Standard errors from the estimate at which the test is inverted first."""
HALVINGS = 60


def wild_cluster_test(
    y: np.ndarray,
    x: np.ndarray,
    names: Sequence[str],
    groups: Sequence[Hashable],
    *,
    which: Sequence[str] | None = None,
    n_draws: int = 9999,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """P-value that a slope is 0, and an interval, by the restricted wild cluster bootstrap of its t.

    Parameters
    ----------
    y
        (n,) response.
    x
        (n, k) columns; each group has its own intercept beside them.
    names
        Of the k columns.
    groups
        (n,) label of each row's group.
    which
        Columns to test; all of them if None.
    n_draws
        Sign vectors drawn where more than 12 groups count; up to 12 every one of them is gone through.
    seed
        Of the draws, the same ones for each column.
    level
        Of confidence.

    Returns
    -------
    pd.DataFrame
        A row a column: `slope`, `estimate` and `se` (CR1, as `linear_models`), `t`, `p` (two-sided), `p_floor` (the
        least p that these groups and draws allow), `low`, `high`, `n_groups` (whose signs change anything), `n_signs`,
        `exact` (all sign vectors, or draws).

    Raises
    ------
    ValueError
        If `group_design` refuses the arrays, `which` names no column, `n_draws` is below 1, `level` isn't between 0 and
        1, or the errors by group of a slope vanish, as they do where its column varies in one group only.

    Notes
    -----
    To test slope = b, y - b x is fitted by the other columns and the intercepts; the residuals of each group keep or
    change their sign together, and t is computed again. p is the share of sign vectors whose |t| is at least that
    observed; where they are drawn, the observed one counts among them. Flipping all signs changes t's sign alone, so p
    is never below 2^-(G - 1) with G groups: 0.0625 for 5, which is why a 95 % interval of 5 groups has no ends.

    Let v be the column without what the others and the intercepts account for, e the residuals of the whole fit and d
    the estimate less b. The restricted residuals are u = e + d v, and of signs s the numerator is the sum over groups h
    of s_h v_h'u_h, the score of group g that of s_h v_g'M_gh u_h, M being the projection off all columns. Both are
    formed once for all sign vectors, at e and at v: every b is then a parabola. CR1's factor cancels.

    The interval holds the b that aren't rejected at 1 - level. p moves in steps, and not always one way, so the ends
    are the outermost: looked for at distances from 0.001 to 1e6 standard errors in steps of 6 %, then by bisection. An
    end beyond is infinite.

    References
    ----------
    Cameron, Gelbach and Miller 2008, Review of Economics and Statistics 90, 414, section III.C. Roodman, Nielsen,
    MacKinnon and Webb 2019, Stata Journal 19, 4: the algebra and the inversion.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [2.0]] * 3)
    >>> y = np.array([1.0, 0.6, -0.1, 5.0, 4.4, 4.1, 3.0, 2.9, 2.4])
    >>> found = wild_cluster_test(y, x, ["ln N"], list("aaabbbccc"))
    >>> found.loc[0, ["p", "p_floor", "low"]].tolist()
    [0.25, 0.25, -inf]
    """
    check_level(level)
    if n_draws < 1:
        raise ValueError(f"`n_draws` is {n_draws!r}; allowed is 1 and above, such as 9999")
    design = group_design(y, x, names, groups)
    chosen = design.names if which is None else tuple(which)
    unknown = [name for name in chosen if name not in design.names]
    if unknown or isinstance(which, str) or not chosen:
        raise ValueError(f"`which` is {which!r}; it is a list of some of {list(design.names)}")
    return pd.DataFrame([_tested(design, design.names.index(name), n_draws, seed, 1 - level) for name in chosen])


class _Flips(NamedTuple):
    """Numerators and scores of every sign vector, the observed one first, as functions of d = estimate - b."""

    numerators: tuple[np.ndarray, np.ndarray]
    """(sign vector,) c0 and c1 of c0 + d c1."""
    squares: tuple[np.ndarray, np.ndarray, np.ndarray]
    """(sign vector,) c0, c1 and c2 of the scores' sum of squares, c0 + 2 d c1 + d^2 c2."""
    floor: float
    """The least p-value."""

    def p_value(self, d: float) -> float:
        """Share of sign vectors as far out as the observed one, which is among them."""
        top = (self.numerators[0] + d * self.numerators[1]) ** 2
        below = self.squares[0] + 2 * d * self.squares[1] + d**2 * self.squares[2]
        # without division: a statistic of 0/0 counts as far out
        return float((top * below[0] >= top[0] * below * (1 - TIED)).mean())


def _tested(design: GroupDesign, column: int, n_draws: int, seed: int, alpha: float) -> dict[str, object]:
    """A row of the table."""
    name, unit = design.names[column], design.spreads[column]
    y = design.within(design.y)
    off_others = np.linalg.qr(np.delete(design.x_unit, column, axis=1))[0]
    v = _off(design.x_unit[:, column], off_others)
    size = float(v @ v)
    off_all = np.column_stack([off_others, v / np.sqrt(size)])
    e = _off(y, off_all)
    estimate = float(v @ y) / size
    score_e, score_v = _scores(design, v, e, off_all), _scores(design, v, v, off_all)
    error = _error_by_group(design, column, score_e.sum(axis=1), float(e @ e), size)
    counted = (_reach(score_e) > TIED) | (_reach(score_v) > TIED)
    n_groups = int(counted.sum())
    signs, exact = _signs(n_groups, n_draws, seed)
    flips = _flips(
        signs, [_sums(design, v * part)[counted] for part in (e, v)], score_e[:, counted], score_v[:, counted]
    )
    low, high = (estimate + side * _farthest(flips, -side, error, alpha) for side in (-1.0, 1.0))
    return {
        "slope": name,
        "estimate": estimate / unit,
        "se": error / unit,
        "t": estimate / error,
        "p": flips.p_value(estimate),
        "p_floor": flips.floor,
        "low": low / unit,
        "high": high / unit,
        "n_groups": n_groups,
        "n_signs": 2**n_groups if exact else n_draws,
        "exact": exact,
    }


def _off(values: np.ndarray, orthonormal: np.ndarray) -> np.ndarray:
    """(n,) values less their projection on orthonormal columns."""
    return np.asarray(values - orthonormal @ (orthonormal.T @ values))


def _sums(design: GroupDesign, values: np.ndarray) -> np.ndarray:
    """(G, ...) sums by group."""
    return np.asarray((design.means(values).T * design.sizes).T)


def _scores(design: GroupDesign, v: np.ndarray, values: np.ndarray, off_all: np.ndarray) -> np.ndarray:
    """(G, G) v_g'M_gh values_h: what the values of group h, all else 0, add to the score of group g."""
    projected = _sums(design, v[:, None] * off_all) @ _sums(design, values[:, None] * off_all).T
    return np.asarray(np.diag(_sums(design, v * values)) - projected)


def _reach(scores: np.ndarray) -> np.ndarray:
    """(G,) the largest score that a group's values add, relative to the largest of all."""
    return np.asarray(np.abs(scores).max(axis=0) / np.abs(scores).max())


def _error_by_group(design: GroupDesign, column: int, scores: np.ndarray, squares: float, size: float) -> float:
    """Standard error CR1 of the unit column's slope."""
    n_groups, df = len(design.groups), design.n - design.n_parameters
    plain = np.sqrt(squares / df / size)
    error = np.sqrt((scores**2).sum() * (design.n - 1) / df) / size
    if design.n_varying[column] < 2 or error <= VANISHED * plain:
        raise ValueError(
            f"the scores of column {design.names[column]!r} cancel within each group, of which there are {n_groups}; "
            "they do where it varies in one only. A test by group needs two: take the t test of `linear_models`"
        )
    return float(error * np.sqrt(n_groups / (n_groups - 1)))


def _signs(n_groups: int, n_draws: int, seed: int) -> tuple[np.ndarray, bool]:
    """(sign vector, group) of 1 and -1, the first all 1; whether they are all there are but for turning them whole."""
    if n_groups <= MOST_EXACT:
        bits = np.arange(2 ** (n_groups - 1))[:, None] >> np.arange(n_groups) & 1
        return 1.0 - 2.0 * bits, True
    drawn = np.random.default_rng(seed).integers(0, 2, (n_draws, n_groups))
    return 1.0 - 2.0 * np.concatenate([np.zeros((1, n_groups)), drawn]), False


def _flips(signs: np.ndarray, tops: Sequence[np.ndarray], score_e: np.ndarray, score_v: np.ndarray) -> _Flips:
    of_e, of_v = signs @ score_e.T, signs @ score_v.T
    return _Flips(
        (signs @ tops[0], signs @ tops[1]),
        ((of_e**2).sum(axis=1), (of_e * of_v).sum(axis=1), (of_v**2).sum(axis=1)),
        max(2.0 ** (1 - signs.shape[1]), 1 / len(signs)),
    )


def _farthest(flips: _Flips, side: float, error: float, alpha: float) -> float:
    """How far the null value may go from the estimate, in units of the slope, until all beyond is rejected."""
    kept = [flips.p_value(side * error * distance) > alpha for distance in DISTANCES]
    if kept[-1]:
        return float("inf")
    last = max((place for place, one in enumerate(kept) if one), default=-1)
    inside, outside = (error * DISTANCES[last] if last >= 0 else 0.0), error * DISTANCES[last + 1]
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if flips.p_value(side * middle) > alpha:
            inside = middle
        else:
            outside = middle
    return float(outside)
