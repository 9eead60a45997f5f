"""Rows of a linear model in groups, each with its own intercept: checked once, and split into within and between."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

__all__ = ["GroupDesign", "check_level", "group_design"]

CONSTANT = 1e-12
"""Spread of a column within groups, relative to the column, below which it counts as constant there."""
COLLINEAR = 1e-8
"""What is left of a column once those before it are taken out, relative to its spread, below which it adds nothing."""
EXACT = 64 * float(np.finfo(np.float64).eps)
"""Residual, relative to the largest |y|, that is nothing but rounding."""


@dataclass(frozen=True)
class GroupDesign:
    """The rows of groups of two and more; n rows, k columns, G groups."""

    y: np.ndarray
    """(n,) response."""
    x: np.ndarray
    """(n, k) columns as given."""
    names: tuple[str, ...]
    """Of the columns."""
    groups: tuple[Hashable, ...]
    """The labels of the G groups, in the order in which they come."""
    codes: np.ndarray
    """(n,) place of each row's group among `groups`."""
    alone: tuple[Hashable, ...]
    """Labels of groups of a single row. Their intercept takes up all of it, and they aren't in the arrays."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def n_parameters(self) -> int:
        """Intercepts and slopes: G + k."""
        return len(self.groups) + len(self.names)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(G,) rows of each group."""
        return np.bincount(self.codes)

    def means(self, values: np.ndarray) -> np.ndarray:
        """(G, ...) means of values (n, ...) by group."""
        sums = np.zeros((len(self.groups), *values.shape[1:]))
        np.add.at(sums, self.codes, values)
        return np.asarray(sums / self.sizes.reshape(-1, *[1] * (values.ndim - 1)))

    def within(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) values less the mean of their group."""
        return np.asarray(values - self.means(values)[self.codes])

    @cached_property
    def spreads(self) -> np.ndarray:
        """(k,) root of each column's sum of squares within groups."""
        return np.asarray(np.linalg.norm(self.within(self.x), axis=0))

    @cached_property
    def n_varying(self) -> np.ndarray:
        """(k,) in how many groups each column varies."""
        by_group = np.sqrt(self.means(self.within(self.x) ** 2) * self.sizes[:, None])
        return np.asarray((by_group > CONSTANT * np.linalg.norm(self.x, axis=0)).sum(axis=0))

    @cached_property
    def x_unit(self) -> np.ndarray:
        """(n, k) columns within groups, each with a sum of squares of 1: slopes are those of x times `spreads`."""
        return np.asarray(self.within(self.x) / self.spreads)

    @cached_property
    def dummies(self) -> np.ndarray:
        """(n, G) one where the row is of the group."""
        return np.asarray(self.codes[:, None] == np.arange(len(self.groups)), np.float64)


def group_design(y: np.ndarray, x: np.ndarray, names: Sequence[str], groups: Sequence[Hashable]) -> GroupDesign:
    """The arrays of a linear model with an intercept for each group, checked.

    Parameters
    ----------
    y
        (n,) response.
    x
        (n, k) columns whose slopes all groups share.
    names
        Of the k columns.
    groups
        (n,) label of each row's group.

    Raises
    ------
    ValueError
        If shapes don't fit, names are there twice, a number isn't finite, a label is empty, the rows that are left
        without groups of a single row aren't more than G + k, a column is constant within every group or a combination
        of others and the intercepts, or nothing of y is left over once it is fitted.

    References
    ----------
    Correia 2015, Singletons, cluster-robust standard errors and fixed effects: why groups of one row are set aside.
    """
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    codes, found = pd.factorize(_labels(groups), use_na_sentinel=True)
    _refuse_shapes(y, x, names, codes)
    _refuse_numbers(y, x, names, codes)
    sizes = np.bincount(codes, minlength=len(found))
    kept = sizes[codes] > 1
    place = np.cumsum(sizes > 1) - 1
    design = GroupDesign(
        y[kept],
        x[kept],
        tuple(names),
        tuple(label for label, size in zip(found, sizes, strict=True) if size > 1),
        place[codes[kept]],
        tuple(label for label, size in zip(found, sizes, strict=True) if size == 1),
    )
    _refuse_few(design)
    _refuse_collinear(design)
    _refuse_exact(design)
    return design


def check_level(level: float) -> None:
    """Refuse a level of confidence that isn't between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"`level` is {level!r}; allowed is what lies between 0 and 1, such as 0.95")


def _labels(groups: Sequence[Hashable]) -> np.ndarray:
    """The labels as objects; tuples, too, are labels."""
    labels = np.empty(len(groups), dtype=object)
    labels[:] = list(groups)
    return labels


def _refuse_shapes(y: np.ndarray, x: np.ndarray, names: Sequence[str], codes: np.ndarray) -> None:
    if y.ndim != 1 or x.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"`y` has shape {y.shape} and `x` {x.shape}; they must be (rows,) and (rows, columns), of the same rows"
        )
    if len(codes) != len(y):
        raise ValueError(f"`groups` has {len(codes)} labels for {len(y)} rows; give one for each row")
    if isinstance(names, str) or len(names) != x.shape[1] or not len(names):
        raise ValueError(f"`names` is {names!r} for {x.shape[1]} columns of `x`; give one name a column, and a column")
    twice = [name for place, name in enumerate(names) if name in list(names)[:place]]
    if twice:
        raise ValueError(f"`names` holds {twice[0]!r} twice; give each column a name of its own")


def _refuse_numbers(y: np.ndarray, x: np.ndarray, names: Sequence[str], codes: np.ndarray) -> None:
    columns = [("`y`", y), *((f"column {name!r}", x[:, k]) for k, name in enumerate(names))]
    for said, values in columns:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"{said} is {values[bad[0]]} in row {bad[0]}; numbers must be finite: drop such rows")
    if (codes < 0).any():
        raise ValueError(f"`groups` is empty in row {np.flatnonzero(codes < 0)[0]}; each row needs a label")


def _refuse_few(design: GroupDesign) -> None:
    if design.n <= design.n_parameters:
        aside = f", without {len(design.alone)} groups of one row," if design.alone else ""
        raise ValueError(
            f"there are {design.n} rows{aside} for {design.n_parameters} parameters ({len(design.groups)} intercepts, "
            f"{len(design.names)} slopes); more rows than parameters are needed: add rows, drop columns or merge groups"
        )


def _refuse_collinear(design: GroupDesign) -> None:
    flat = design.spreads <= CONSTANT * np.linalg.norm(design.x, axis=0)
    if flat.any():
        raise ValueError(
            f"column {design.names[int(flat.argmax())]!r} is constant within every group, where its slope can't be "
            "told from the groups' intercepts; drop it or group otherwise"
        )
    left = np.abs(np.diag(np.linalg.qr(design.x_unit, mode="r")))
    if (left < COLLINEAR).any():
        raise ValueError(
            f"column {design.names[int((left < COLLINEAR).argmax())]!r} is a combination of the columns before it and "
            "the groups' intercepts; drop one of them"
        )


def _refuse_exact(design: GroupDesign) -> None:
    q = np.linalg.qr(design.x_unit)[0]
    y = design.within(design.y)
    left = float(np.abs(y - q @ (q.T @ y)).max())
    if left <= EXACT * float(np.abs(design.y).max()):
        raise ValueError(
            f"the columns and the groups' intercepts fit `y` to rounding, the largest residual is {left:.2g}; without "
            "residuals there are no standard errors: take columns out, or look whether y is measured"
        )
