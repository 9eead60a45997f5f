"""What a fit refuses of its settings and its table, in words."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Literal, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import group_labels
from .columns import Column
from .laws import BOUNDS

__all__ = ["Residual", "exponent_bounds", "refuse_constant", "refuse_repeated", "refuse_settings", "refuse_sizes"]

Residual = Literal["relative", "log", "absolute"]
CONSTANT = 1e-12
"""Share of the response below which differences are nothing but rounding."""
LARGEST_POWER = 250.0
"""Logarithm of the largest power of a size that a search may meet: exponents are held below it."""


def refuse_settings(
    residuals: str, roles: Mapping[str, str], law: str, share: str | None, groups: Sequence[str], offsets: Sequence[str]
) -> None:
    """Raise if residuals or columns of labels aren't what they may be, or the law lacks a size that it is about."""
    if residuals not in get_args(Residual):
        raise ValueError(f"`residuals` is {residuals!r}; it is one of {list(get_args(Residual))}")
    for name, given in (("groups", groups), ("offsets", offsets)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"`{name}` is {given!r}; give a sequence of columns, which may be empty")
    if law == "share" and share is None:
        raise ValueError("the law 'share' needs `share`: the column of how many layers share their weights")
    if law != "share":
        refuse_sizes(roles, law)


def refuse_sizes(roles: Mapping[str, str], law: str) -> None:
    """Raise if no size is given, or not those that the law is about."""
    if not roles:
        raise ValueError("a law needs at least one of `N`, `R` and `D`: the column of each size that was varied")
    if law == "as printed" and not {"R", "D"} <= roles.keys():
        raise ValueError("the law 'as printed' has a term of D/R, which needs `R` and `D`; or take 'additive'")


def refuse_repeated(rows: pd.DataFrame, response: str) -> None:
    """Raise if two rows are the same, the response included."""
    again = rows.duplicated(keep=False)
    if not again.any():
        return
    first = rows[again].iloc[0]
    same = rows.index[(rows == first).all(axis=1)]
    raise ValueError(
        f"rows {', '.join(str(label) for label in same)} are the same, {response!r} = {first[response]:g} included: "
        "one run twice? drop one, or name the column that tells repeats apart as `repeat`"
    )


def refuse_constant(rows: pd.DataFrame, response: str, groups: Sequence[str]) -> None:
    """Raise if the response doesn't vary within groups."""
    values = rows[response].to_numpy()
    label = group_labels(rows, groups)
    spread = max(float(np.ptp(values[label == name])) for name in dict.fromkeys(label))
    if spread <= CONSTANT * float(np.abs(values).max()):
        where = "within its groups" if groups else "at all"
        raise ValueError(f"{response!r} doesn't vary {where}, {values[0]:g} in the first row; there is nothing to fit")


def exponent_bounds(
    columns: Sequence[Column], exponents: Sequence[str], given: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Where exponents are looked for, and a sentence on each that can't be looked for as far as was asked."""
    unknown = set(given) - set(BOUNDS)
    if unknown:
        raise ValueError(f"`bounds` names {sorted(unknown)[0]!r}; exponents are {list(BOUNDS)}")
    ends, said = {}, []
    for place, name in enumerate(exponents):
        own = given.get(name, BOUNDS[name])
        if not _is_range(own):
            raise ValueError(f"`bounds` of {name!r} are {own!r}; give two finite numbers, the lower first")
        least, most = _computable([one for one in columns if place in one.exponents])
        low, high = max(own[0], least), min(own[1], most)
        if low >= high:
            raise ValueError(
                f"`bounds` of {name!r} are {own!r}, where powers of these sizes, over their reference, can't be "
                f"computed; they can from {least:.3g} to {most:.3g}"
            )
        if (low, high) != tuple(own):
            said.append(f"{name} is looked for from {low:.3g} to {high:.3g} only: powers beyond it can't be computed")
        ends[name] = (float(low), float(high))
    return ends, said


def _computable(columns: Sequence[Column]) -> tuple[float, float]:
    """Exponents between which the powers of these columns stay below e**LARGEST_POWER, also as they are printed."""
    widest = max(float(np.abs(one.log_x).max()) for one in columns)
    up, down = (widest + max(0.0, *(sign * one.shift for one in columns)) for sign in (1, -1))
    return -LARGEST_POWER / max(down, 1e-9), LARGEST_POWER / max(up, 1e-9)


def _is_range(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return False
    return all(isinstance(end, Real) and math.isfinite(end) for end in value) and bool(value[0] < value[1])
