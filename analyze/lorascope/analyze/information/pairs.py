"""Pairs of rows, checked before any work: arrays from users become pairs, or errors say what is wrong."""

from typing import Any, Literal, NamedTuple

import numpy as np

Unit = Literal["nat", "bit"]
"""Units of mutual information."""
LEAST_PAIRS = 32
"""Least number of pairs for nearest neighbours."""
LEAST_GROUPS = 4
"""Least number of groups: each half needs two, since rows of one group aren't neighbours."""
SMALLEST_VALUE, LARGEST_VALUE = 1e-150, 1e150
"""Limits of absolute values within which squares neither underflow nor overflow float64."""


class Pairs(NamedTuple):
    """Rows of two variables x and y with labels of their groups; row i of x belongs to row i of y."""

    x: np.ndarray
    """Float64 (n, dimension)."""
    y: np.ndarray
    """Float64 (n, dimension)."""
    groups_x: np.ndarray
    """Int64 (n,): label of the group, such as the sample, of each row of x."""
    groups_y: np.ndarray
    """Int64 (n,): label of the group of each row of y, which a shuffle changes."""

    def take(self, rows: np.ndarray) -> "Pairs":
        """Return the pairs at these rows."""
        return Pairs(*(values[rows] for values in self))


class Settings(NamedTuple):
    """Settings that all estimators share: the number of neighbours and the seed."""

    k: int = 3
    """Number of nearest neighbours."""
    seed: int = 0
    """Seed of halves and shuffles."""


def check_pairs(x: Any, y: Any, groups: Any = None) -> Pairs:
    """Return the arguments of `mutual_information` as `Pairs`, or raise ValueError; by default each row is a group."""
    sides = [_check_side(side, name) for side, name in ((x, "x"), (y, "y"))]
    n = len(sides[0])
    if len(sides[1]) != n:
        raise ValueError(f"`x` has {n} rows and `y` {len(sides[1])}; row i of one belongs to row i of the other")
    if n < LEAST_PAIRS:
        raise ValueError(f"there are {n} pairs; give at least {LEAST_PAIRS}")
    labels = _check_groups(groups, n)
    pairs = Pairs(sides[0], sides[1], labels, labels)
    refuse_unusable(pairs)
    return pairs


def least_rows(pairs: Pairs) -> int:
    """Return the fewest rows that estimators need for the dimensions of x and y.

    Directions are found on half of the rows.
    """
    return max(LEAST_PAIRS, 2 * int(pairs.x.shape[1] + pairs.y.shape[1] + 3))


def refuse_unusable(pairs: Pairs) -> None:
    """Raise ValueError for constant columns, too few rows, or repeated pairs of numbers that aren't whole."""
    n = len(pairs.x)
    for side, name in ((pairs.x, "x"), (pairs.y, "y")):
        constant = np.flatnonzero(side.min(axis=0, initial=np.inf) >= side.max(axis=0, initial=-np.inf))
        if len(constant):
            raise ValueError(
                f"{len(constant)} columns of `{name}` are constant, the first is column {constant[0]}; drop them"
            )
    if n < least_rows(pairs):
        raise ValueError(
            f"there are {n} rows for {pairs.x.shape[1]} + {pairs.y.shape[1]} dimensions; give at least "
            f"{least_rows(pairs)}, or project to fewer dimensions first"
        )
    again = is_repeat(pairs)
    is_whole = (pairs.x % 1 == 0).all(axis=1) & (pairs.y % 1 == 0).all(axis=1)
    if n_repeats := int((again & ~is_whole).sum()):
        raise ValueError(
            f"{n_repeats} of {n} pairs occur before: of continuous data, none would (of whole numbers they may), and "
            "estimates from distances and ranks take repeats for dependence; give each pair once"
        )


def is_repeat(pairs: Pairs) -> np.ndarray:
    """Return a mask of pairs that are equal to an earlier pair, bool (n,)."""
    both = np.ascontiguousarray(np.concatenate([pairs.x, pairs.y], axis=1))
    rows = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    again = np.ones(len(rows), np.bool_)
    again[np.unique(rows, return_index=True)[1]] = False
    return again


def _check_side(side: Any, name: str) -> np.ndarray:
    """Return x or y as float64 (n, dimension); raise ValueError unless its values are finite real numbers."""
    if np.ma.is_masked(side):
        raise ValueError(f"`{name}` has masked values; drop those rows from both sides")
    values = np.asarray(side)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"`{name}` is of type {values.dtype}; it must hold real numbers")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"`{name}` has shape {np.shape(side)}; it must be (n, dimension) or (n,)")
    values = np.ascontiguousarray(values, np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(values)} rows of `{name}` contain NaN or infinity, the first is row {bad[0]}; drop "
            "them from both sides"
        )
    sizes = np.abs(values[values != 0])
    if len(sizes) and not (sizes.min() > SMALLEST_VALUE and sizes.max() < LARGEST_VALUE):
        raise ValueError(
            f"`{name}` has absolute values from {sizes.min():.3g} to {sizes.max():.3g}, whose squares can't be "
            f"computed; scale it to between {SMALLEST_VALUE:g} and {LARGEST_VALUE:g}"
        )
    return values + 0.0  # -0.0 becomes 0.0


def _check_groups(groups: Any, n: int) -> np.ndarray:
    """Return labels of groups as int64 (n,), or raise ValueError; without groups every row has its own label."""
    if groups is None:
        return np.arange(n)
    raw = np.asarray(groups)
    if raw.shape != (n,):
        raise ValueError(f"`groups` has shape {raw.shape}; it must be ({n},), a label for each row")
    if raw.dtype.kind in ("f", "O") and any(label != label for label in raw):
        raise ValueError("`groups` contains NaN; every row needs a label")
    try:
        distinct, labels = np.unique(raw, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"`groups` has labels that can't be compared with each other ({error}); give one type"
        ) from error
    if len(distinct) < LEAST_GROUPS:
        raise ValueError(
            f"`groups` has {len(distinct)} labels; halves, shuffles and errors need at least {LEAST_GROUPS}: give "
            "more, or no `groups` if rows are independent of each other"
        )
    return labels.astype(np.int64)
