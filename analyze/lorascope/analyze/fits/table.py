"""A design made of a study's table; a table that can't determine the law is refused."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import Residual

from .design import APART, Design, arrays_of, determined, references_of
from .frame import checked, group_labels
from .laws import AXES, BOUNDS, Column, law_named
from .solve import spanned

CONSTANT = 1e-12
"""Differences below this share of the response are rounding."""
LARGEST = 1e100
"""Largest response, and the inverse of the smallest, whose sums of squares can be computed."""
LARGEST_POWER = 250.0
"""Logarithm of the largest power of a size that a search may compute; it limits the exponents."""


def make_design(
    frame: pd.DataFrame, response: str, N: str | None, R: str | None, D: str | None, *, groups: Sequence[str],
    offsets: Sequence[str], share: str | None, repeat: str | None, law: str, residuals: Any,
) -> Design:  # fmt: skip
    """The design of a law on the rows of a table; see `fit_scaling_law`."""
    form = law_named(law)
    roles = {axis: name for axis, name in (("N", N), ("R", R), ("D", D)) if name is not None}
    if residuals not in get_args(Residual):
        raise ValueError(f"`residuals` is {residuals!r}; it is one of {list(get_args(Residual))}")
    for name, option in (("groups", groups), ("offsets", offsets)):
        if isinstance(option, str) or not isinstance(option, Sequence):
            raise ValueError(f"`{name}` is {option!r}; give a sequence of columns, which may be empty")
    if law == "share" and share is None:
        raise ValueError("the law 'share' needs `share`: the column of how many layers share their weights")
    if law != "share":
        share = None
        if not roles:
            raise ValueError("a law needs at least one of `N`, `R` and `D`: the column of each size that was varied")
    numbers = [response, *roles.values(), *([share] if share else [])]
    columns = [*numbers, *groups, *offsets, *([repeat] if repeat else [])]
    positive = numbers if form.logarithmic or residuals != "absolute" else numbers[1:]
    rows, left_out = checked(
        frame, numbers=numbers, positive=positive, labels=columns[len(numbers) :], may_lack=[response]
    )
    _refuse_repeated(rows.drop(columns=list(offsets)), response)
    _refuse_response(rows[response].to_numpy(), response, group_labels(rows, groups), is_grouped=bool(groups))
    sizes, dropped = _sizes_in_use(rows, roles, law)
    sizes |= {"share": share} if share else {}
    references = references_of(rows, sizes)
    arrays = arrays_of(rows, sizes, references, groups, offsets, rows.iloc[0])
    limits, narrowed = _exponent_bounds(*form.terms(arrays["logs"]))
    lacking = (pd.crosstab(arrays["groups"], arrays["settings"]) == 0).any(axis=1)
    gaps = [f"settings that other groups have are missing in {int(lacking.sum())} of {len(lacking)} groups"]
    design = Design(
        law_name=law, response=response, sizes=sizes, references=references, group_columns=tuple(groups),
        offset_columns=tuple(offsets), residual="absolute" if form.logarithmic else residuals, limits=limits,
        notes=(*left_out, *dropped, *narrowed, *(gaps if lacking.any() else ())), **arrays,
    )  # fmt: skip
    _refuse_undetermined(design)
    return design


def _refuse_repeated(rows: pd.DataFrame, response: str) -> None:
    repeated = rows[rows.duplicated(keep=False)]
    if len(repeated):
        same = repeated.index[(repeated == repeated.iloc[0]).all(axis=1)]
        raise ValueError(
            f"rows {', '.join(map(str, same))} are the same, {response!r} = {repeated[response].iloc[0]:g} included: "
            "one run twice? drop one, or name the column that tells repeats apart as `repeat`"
        )


def _refuse_response(values: np.ndarray, response: str, groups: np.ndarray, *, is_grouped: bool) -> None:
    """Raise if a response can't be squared, or doesn't vary within groups."""
    largest = float(np.abs(values).max())
    for end in (largest, float(values.min())):
        if end > 0 and not 1 / LARGEST <= end <= LARGEST:
            raise ValueError(f"{response!r} holds {end:g}, whose square can't be computed; give it in another unit")
    if max(float(np.ptp(values[groups == name])) for name in set(groups)) <= CONSTANT * largest:
        where = "within its groups" if is_grouped else "at all"
        raise ValueError(f"{response!r} doesn't vary {where}, {values[0]:g} in the first row; there is nothing to fit")


def _sizes_in_use(rows: pd.DataFrame, roles: Mapping[str, str], law: str) -> tuple[dict[str, str], list[str]]:
    """Columns of N, R and D that have several levels, and a sentence on each that has just one."""
    used, notes = {}, []
    for axis, column in roles.items():
        if axis == "N" and law == "share":
            continue
        if rows[column].nunique() > 1:
            used[axis] = column
        else:
            term = f"{AXES[axis].amplitude} ({axis}0/{axis})^{AXES[axis].exponent}"
            notes.append(f"{column!r} is {rows[column].iloc[0]:g} in every row: {term} is part of the level")
    if not used and law != "share":
        sizes = ", ".join(f"{column!r} = {rows[column].iloc[0]:g}" for column in roles.values())
        raise ValueError(f"no size varies ({sizes}); a law needs a column with at least three levels")
    return used, notes


def _exponent_bounds(
    columns: Sequence[Column], exponents: Sequence[str]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Range of each exponent, and a sentence on each whose powers can't be computed in all of its range."""
    ends, notes = {}, []
    for position, name in enumerate(exponents):
        widest = max(float(np.abs(column.log_x).max()) for column in columns if position in column.exponents)
        most = LARGEST_POWER / max(widest, 1e-9)
        low, high = ends[name] = (max(BOUNDS[name][0], -most), min(BOUNDS[name][1], most))
        if ends[name] != BOUNDS[name]:
            notes.append(f"{name} is searched from {low:.3g} to {high:.3g} only: powers beyond it can't be computed")
    return ends, notes


def _refuse_undetermined(design: Design) -> None:
    """Raise if the settings don't determine the law, with the reason."""
    n, n_levels, names = len(design.frame), len(design.level_names), ", ".join(design.term_names)
    if n <= len(design.names):
        raise ValueError(
            f"{n} cells can't determine {len(design.names)} parameters ({n_levels} levels, {names}) and their error; "
            "measure more cells, or take fewer groups or a law of fewer parameters"
        )
    if not determined(design) or spanned(design.levels, APART).shape[1] < n_levels:
        counts = [f"{column!r} has {design.frame[column].nunique()} levels" for column in design.sizes.values()]
        raise ValueError(
            f"the settings don't determine {names} apart ({', '.join(counts)}): exponents need three levels of their "
            "size, and sizes and `offsets` must vary apart from each other and from the groups; measure more "
            "settings, leave one out, or take the law 'log' or 'log-log'"
        )
