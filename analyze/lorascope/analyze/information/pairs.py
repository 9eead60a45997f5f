"""Arrays as a user gives them, made into pairs: every mistake in words, before any work."""

from typing import Any, Literal, NamedTuple

import numpy as np

Unit = Literal["nat", "bit"]
"""Units of mutual information."""
LEAST_PAIRS = 32
"""Fewer pairs say nothing about nearest neighbours."""
LEAST_GROUPS = 4
"""Each half needs two groups, since rows of one group are no neighbours of each other."""
SMALLEST, LARGEST = 1e-150, 1e150
"""Values between these sizes have squares that float64 can hold."""


class Pairs(NamedTuple):
    """Rows of two sides that belong together."""

    x: np.ndarray
    """Float64 (n, dimension)."""
    y: np.ndarray
    """Float64 (n, dimension)."""
    groups_x: np.ndarray
    """Int64 (n,): the sample of each row of x."""
    groups_y: np.ndarray
    """Int64 (n,): the sample of each row of y, which is another one after a shuffle."""

    def take(self, rows: np.ndarray) -> "Pairs":
        """Some of the pairs."""
        return Pairs(*(values[rows] for values in self))


class Settings(NamedTuple):
    """Settings of estimators."""

    k: int = 3
    """Nearest neighbours."""
    seed: int = 0
    """Seed of halves and shuffles."""


def check_pairs(x: Any, y: Any, groups: Any = None) -> Pairs:
    """`Pairs` of what `mutual_information` was given, which says what is raised; by default each row is a group."""
    sides = [_numbers(side, name) for side, name in ((x, "x"), (y, "y"))]
    n = len(sides[0])
    if len(sides[1]) != n:
        raise ValueError(f"`x` has {n} rows and `y` {len(sides[1])}; row i of one belongs to row i of the other")
    if n < LEAST_PAIRS:
        raise ValueError(f"there are {n} pairs; give at least {LEAST_PAIRS}")
    labels = _labels(groups, n)
    pairs = Pairs(sides[0], sides[1], labels, labels)
    refuse_unusable(pairs)
    return pairs


def least_rows(pairs: Pairs) -> int:
    """Number of rows that an estimate of this many dimensions needs: directions are found on half of them."""
    return max(LEAST_PAIRS, 2 * int(pairs.x.shape[1] + pairs.y.shape[1] + 3))


def refuse_unusable(pairs: Pairs) -> None:
    """Raise ValueError unless estimates from distances, ranks and covariances mean something; see `check_pairs`."""
    n = len(pairs.x)
    for side, name in ((pairs.x, "x"), (pairs.y, "y")):
        constant = np.flatnonzero(side.min(axis=0, initial=np.inf) >= side.max(axis=0, initial=-np.inf))
        if len(constant):
            raise ValueError(
                f"{len(constant)} columns of `{name}` are constant, the first is column {constant[0]}; leave them out"
            )
    if n < least_rows(pairs):
        raise ValueError(
            f"there are {n} rows for {pairs.x.shape[1]} + {pairs.y.shape[1]} dimensions; give at least "
            f"{least_rows(pairs)}, or project to fewer dimensions first"
        )
    again = repeats(pairs)
    is_whole = (pairs.x % 1 == 0).all(axis=1) & (pairs.y % 1 == 0).all(axis=1)
    if n_repeats := int((again & ~is_whole).sum()):
        raise ValueError(
            f"{n_repeats} of {n} pairs occur before: of continuous data, none would (of whole numbers they may), and "
            "estimates from distances and ranks take repeats for dependence; give each pair once"
        )


def repeats(pairs: Pairs) -> np.ndarray:
    """Tell which pairs equal an earlier one in all their numbers, bool (n,)."""
    both = np.ascontiguousarray(np.concatenate([pairs.x, pairs.y], axis=1))
    rows = both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()
    again = np.ones(len(rows), np.bool_)
    again[np.unique(rows, return_index=True)[1]] = False
    return again


def _numbers(side: Any, name: str) -> np.ndarray:
    if np.ma.is_masked(side):
        raise ValueError(f"`{name}` has masked values; leave those rows out, of both sides")
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
            f"{len(bad)} of {len(values)} rows of `{name}` hold NaN or infinity, the first is row {bad[0]}; leave them "
            "out, of both sides"
        )
    sizes = np.abs(values[values != 0])
    if len(sizes) and not (sizes.min() > SMALLEST and sizes.max() < LARGEST):
        raise ValueError(
            f"`{name}` holds values from {sizes.min():.3g} to {sizes.max():.3g} in size; squares of such can't be "
            f"computed: scale it to between {SMALLEST:g} and {LARGEST:g}"
        )
    return values + 0.0  # -0.0 becomes 0.0, which is the same number


def _labels(groups: Any, n: int) -> np.ndarray:
    if groups is None:
        return np.arange(n)
    raw = np.asarray(groups)
    if raw.shape != (n,):
        raise ValueError(f"`groups` has shape {raw.shape}; it must be ({n},), a label for each row")
    if raw.dtype.kind in ("f", "O") and any(label != label for label in raw):
        raise ValueError("`groups` holds NaN; every row needs a label")
    try:
        distinct, labels = np.unique(raw, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"`groups` holds labels that can't be compared with each other ({error}); give one type"
        ) from error
    if len(distinct) < LEAST_GROUPS:
        what = "all rows are of one group" if len(distinct) == 1 else f"there are {len(distinct)} groups"
        raise ValueError(
            f"{what}; halves, shuffles and errors need at least {LEAST_GROUPS}: give more, or leave `groups` out where "
            "rows are independent of each other"
        )
    return labels.astype(np.int64)
