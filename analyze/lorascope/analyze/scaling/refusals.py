"""What a fit refuses of its settings and its table, in words."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import group_labels
from .objective import Residual

__all__ = ["refuse_constant", "refuse_repeated", "refuse_roles", "refuse_settings", "refuse_twice"]

CONSTANT = 1e-12
"""Share of the response below which differences are nothing but rounding."""


def refuse_settings(residuals: str, groups: Sequence[str], offsets: Sequence[str]) -> None:
    """Raise if residuals or columns of labels aren't what they may be."""
    if residuals not in get_args(Residual):
        raise ValueError(f"`residuals` is {residuals!r}; it is one of {list(get_args(Residual))}")
    for name, given in (("groups", groups), ("offsets", offsets)):
        if isinstance(given, str):
            raise ValueError(f"`{name}` is {given!r}; give a sequence of columns, such as [{given!r}]")
        if not isinstance(given, Sequence):
            raise ValueError(f"`{name}` is {given!r}; give a sequence of columns, which may be empty")


def refuse_roles(roles: Mapping[str, str], law: str, share: str | None) -> None:
    """Raise if the law lacks a size that it is about."""
    if not roles and not (law == "share" and share):
        raise ValueError("a law needs at least one of `N`, `R` and `D`: the column of each size that was varied")
    if law == "as printed" and not {"R", "D"} <= roles.keys():
        raise ValueError("the law 'as printed' has a term of D/R, which needs `R` and `D`; or take 'additive'")
    if law == "share" and share is None:
        raise ValueError("the law 'share' needs `share`: the column of how many layers share their weights")


def refuse_twice(names: Sequence[str]) -> None:
    """Raise if a column is given two roles."""
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} is given two roles; each column has one")


def refuse_repeated(rows: pd.DataFrame, response: str) -> None:
    """Raise if two rows are the same, the response included."""
    again = rows.duplicated(keep=False)
    if not again.any():
        return
    first = rows[again].iloc[0]
    same = rows.index[(rows == first).all(axis=1)]
    raise ValueError(
        f"rows {', '.join(str(label) for label in same)} are the same, {response!r} = {first[response]:g} included: "
        "one run twice? drop one (`frame.drop_duplicates()`), or name the column that tells repeats apart as `repeat`"
    )


def refuse_constant(rows: pd.DataFrame, response: str, groups: Sequence[str]) -> None:
    """Raise if the response doesn't vary within groups."""
    values = rows[response].to_numpy()
    label = group_labels(rows, groups)
    spread = max(float(np.ptp(values[label == name])) for name in dict.fromkeys(label))
    if spread <= CONSTANT * float(np.abs(values).max()):
        where = "within its groups" if groups else "at all"
        raise ValueError(f"{response!r} doesn't vary {where}, {values[0]:g} in the first row; there is nothing to fit")
