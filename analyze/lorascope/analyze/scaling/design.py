"""A study's table as the arrays of a fit, checked against the law: what it can't tell is refused here, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked, group_labels
from .bounds import exponent_bounds
from .columns import Column
from .laws import AXES, Axes, Law, law_named
from .objective import Residual
from .refusals import refuse_constant, refuse_repeated, refuse_roles, refuse_settings, refuse_twice
from .solve import Problem

__all__ = ["Design", "applied", "determined", "level_columns", "make_design", "spanned"]

APART = 1e-9
"""Singular values of the derivatives, each scaled to length 1, below this share of the largest count as zero."""
GENERIC = (0.31, 0.47, 0.83, 1.21)
"""Exponents at which the rank of a design is looked at; any that don't depend on each other would do."""


@dataclass(frozen=True)
class Design:
    """A table and a law as arrays."""

    frame: pd.DataFrame
    """The rows in use, and of their columns those in use."""
    law_name: str
    law: Law
    response: str
    axes: Mapping[str, str]
    """Axis (N, R, D) -> column, of those in the law."""
    references: Mapping[str, float]
    """Axis -> the size whose ratio to itself is 1 in what is printed."""
    within: Mapping[str, float]
    """Axis -> that in the columns, which lies among the sizes; of D/R as well."""
    share: str | None
    group_columns: tuple[str, ...]
    offset_columns: tuple[str, ...]
    groups: np.ndarray
    """(n,) label of each row's group, whose level it has."""
    settings: np.ndarray
    """(n,) label of each row's setting: its sizes and offsets."""
    levels: np.ndarray
    """(n, g) 1 where a row has a level or an offset."""
    level_names: tuple[str, ...]
    n_offsets: int
    """How many of the last levels are offsets."""
    terms: Axes
    """What the columns are made of."""
    columns: tuple[Column, ...]
    exponents: tuple[str, ...]
    bounds: np.ndarray
    """(q, 2)"""
    residual: Residual
    notes: tuple[str, ...]

    @property
    def equation(self) -> str:
        """The law with the terms that are in it."""
        used = [f"{axis}0" for axis in self.terms.logs] + (["share"] if self.terms.share is not None else [])
        used += ["D/R"] if self.terms.log_data_per_rank is not None else []
        head, *terms = self.law.equation.split(" + ")
        if self.law_name == "multiplicative":
            amplitude, *factors = terms[0].split(" ")
            kept = [one for one in factors if any(name in one for name in used)]
            return f"{head} + {' '.join([amplitude, *kept])}" if kept else head
        return " + ".join([head, *(term for term in terms if any(name in term for name in used))])

    @property
    def y(self) -> np.ndarray:
        """(n,) the response, or its logarithm where the law is of that."""
        values = self.frame[self.response].to_numpy(np.float64)
        return np.asarray(np.log(values) if self.law.logarithmic else values)

    @property
    def weights(self) -> np.ndarray:
        """(n,) by which residuals are multiplied."""
        return np.ones(len(self.frame)) if self.residual != "relative" else 1 / self.y

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parameters: levels, amplitudes, exponents."""
        return (*self.level_names, *(column.amplitude for column in self.columns), *self.exponents)

    @property
    def problem(self) -> Problem:
        """Its least squares; of logarithmic residuals those of relative ones, from which the search goes on."""
        weights = 1 / self.y if self.residual == "log" else self.weights
        return Problem(self.y, weights, self.levels, self.columns, self.bounds)

    def take(self, rows: np.ndarray) -> "Design":
        """The same law, references and names of some rows; levels without a row keep their column."""
        return replace(
            self,
            frame=self.frame.iloc[rows],
            groups=self.groups[rows],
            settings=self.settings[rows],
            levels=self.levels[rows],
            terms=self.terms.take(rows),
            columns=tuple(column.take(rows) for column in self.columns),
        )

    def without(self, axis: str) -> "Design":
        """The same without all terms of one axis: N, R, D or share."""
        terms = self.terms.without(axis)
        columns, exponents = self.law.terms(terms)
        places = [self.exponents.index(name) for name in exponents]
        bounds = self.bounds[places].reshape(-1, 2)
        return replace(self, terms=terms, columns=columns, exponents=exponents, bounds=bounds)


def make_design(
    frame: pd.DataFrame,
    response: str,
    N: str | None,
    R: str | None,
    D: str | None,
    *,
    groups: Sequence[str],
    offsets: Sequence[str],
    share: str | None,
    repeat: str | None,
    law: str,
    residuals: str,
    references: Mapping[str, float | None],
    bounds: Mapping[str, tuple[float, float]],
) -> Design:
    """See `fit_scaling_law`."""
    chosen = law_named(law)
    refuse_settings(residuals, groups, offsets)
    roles = {axis: name for axis, name in (("N", N), ("R", R), ("D", D)) if name is not None}
    refuse_roles(roles, law, share)
    numbers = [response, *roles.values(), *([share] if law == "share" and share else [])]
    labels = [*groups, *offsets, *([repeat] if repeat else [])]
    refuse_twice([*numbers, *labels])
    needs_positive = chosen.logarithmic or residuals != "absolute"
    positive = [*numbers[1:], *([response] if needs_positive else [])]
    rows, left_out = checked(frame, numbers=numbers, positive=positive, labels=labels, may_lack=[response])
    refuse_repeated(rows.drop(columns=list(offsets)), response)
    refuse_constant(rows, response, groups)
    axes, dropped = _axes_in_use(rows, roles, law)
    within = _within(rows, axes, law)
    refs = _references(within, axes, references)
    terms = _terms_of(rows, axes, within, refs, share, law)
    columns, exponents = chosen.terms(terms)
    group, levels, names, n_offsets = level_columns(rows, groups, offsets)
    kept = [*axes.values(), *([share] if law == "share" and share else []), *offsets]
    limits, narrowed = exponent_bounds(columns, exponents, bounds)
    design = Design(
        frame=rows, law_name=law, law=chosen, response=response, axes=axes, references=refs,
        within=within,
        share=share if law == "share" else None, group_columns=tuple(groups),
        offset_columns=tuple(offsets), groups=group,
        settings=_setting_labels(rows, kept),
        levels=levels, level_names=names, n_offsets=n_offsets, terms=terms, columns=columns, exponents=exponents,
        bounds=limits,
        residual="absolute" if chosen.logarithmic else residuals,  # type: ignore[arg-type]  # checked above
        notes=(*left_out, *dropped, *narrowed, *_holes(rows, groups, kept)),
    )  # fmt: skip
    _refuse_undetermined(design)
    return design


def applied(design: Design, frame: pd.DataFrame) -> Design:
    """The same law, references and levels of other rows, whose response isn't looked at.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law` for the columns; and if a group or an offset wasn't among the rows of the fit.
    """
    numbers = [*design.axes.values(), *([design.share] if design.share else [])]
    labels = [*design.group_columns, *design.offset_columns]
    rows, _ = checked(frame, numbers=numbers, positive=numbers, labels=labels)
    group, names = group_labels(rows, design.group_columns), design.level_names
    levels = np.zeros((len(rows), len(names)))
    for name in dict.fromkeys(group):
        levels[group == name, _known(names, f"E[{name}]" if design.group_columns else "E")] = 1
    for column in design.offset_columns:
        first = design.frame[column].iloc[0]
        for value in dict.fromkeys(rows[column]):
            if value != first:
                levels[(rows[column] == value).to_numpy(), _known(names, f"offset[{column}={value}]")] = 1
    terms = _terms_of(rows, design.axes, design.within, design.references, design.share, design.law_name)
    kept = [*numbers, *design.offset_columns]
    return replace(
        design, frame=rows, groups=group, settings=_setting_labels(rows, kept), levels=levels, terms=terms,
        columns=design.law.terms(terms)[0],
    )  # fmt: skip


def _known(names: Sequence[str], name: str) -> int:
    if name not in names:
        raise ValueError(f"{name} isn't among the fit's levels: {', '.join(names)}")
    return list(names).index(name)


def _setting_labels(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """(n,) text of each row's setting, such as `N=3.82108e+09 R=32`."""
    parts = [[f"{name}={text}" for text in _short(rows[name])] for name in columns]
    return np.array([" ".join(row) for row in zip(*parts, strict=True)], dtype=object)


def _short(column: pd.Series) -> list[str]:
    """Values as text: numbers with six digits, or as many as tell them apart."""
    if not pd.api.types.is_float_dtype(column):
        return [str(value) for value in column]
    short = {value: f"{value:.6g}" for value in column}
    return [short[value] if len(set(short.values())) == len(short) else repr(float(value)) for value in column]


def _axes_in_use(rows: pd.DataFrame, roles: Mapping[str, str], law: str) -> tuple[dict[str, str], list[str]]:
    """Axes of more than one level, and a sentence on each that has just one."""
    used, said = {}, []
    for axis, column in roles.items():
        if axis == "N" and law == "share":
            continue
        if rows[column].nunique() > 1 or law == "as printed":
            used[axis] = column
        else:
            amplitude, exponent, _ = AXES[axis]
            said.append(
                f"{column!r} is {rows[column].iloc[0]:g} in every row: {amplitude} ({axis}0/{axis})^{exponent} is part "
                "of the level, and its term is left out"
            )
    if not used and law != "share":
        sizes = ", ".join(f"{column!r} = {rows[column].iloc[0]:g}" for column in roles.values())
        raise ValueError(f"no size varies ({sizes}); a law needs a column with at least three levels")
    return used, said


def _within(rows: pd.DataFrame, axes: Mapping[str, str], law: str) -> dict[str, float]:
    """Axis -> the largest N and D, the smallest R; and the largest D/R of the law as printed."""
    found = {axis: float(rows[column].min() if axis == "R" else rows[column].max()) for axis, column in axes.items()}
    return found | ({"D/R": float((rows[axes["D"]] / rows[axes["R"]]).max())} if law == "as printed" else {})


def _references(
    within: Mapping[str, float], axes: Mapping[str, str], given: Mapping[str, float | None]
) -> dict[str, float]:
    """Axis -> what its sizes are taken relative to in what is printed."""
    found = {}
    for axis in axes:
        own = given.get(axis)
        is_number = isinstance(own, Real) and not isinstance(own, bool)
        if own is not None and not (is_number and np.isfinite(own) and own > 0):
            raise ValueError(f"`{axis}0` is {own!r}; a reference must be a finite number above zero")
        found[axis] = within[axis] if own is None else float(own)
    return found


def _terms_of(
    rows: pd.DataFrame, axes: Mapping[str, str], within: Mapping[str, float], references: Mapping[str, float],
    share: str | None, law: str,
) -> Axes:  # fmt: skip
    logs = {axis: np.log(within[axis] / rows[column].to_numpy()) for axis, column in axes.items()}
    shifts = {axis: float(np.log(references[axis] / within[axis])) for axis in axes}
    shared = rows[share].to_numpy() - 1 if law == "share" and share else None
    if law != "as printed":
        return Axes(logs, shared, None, shifts)
    ratio = np.log(rows[axes["D"]] / rows[axes["R"]] / within["D/R"]).to_numpy()
    return Axes(logs, shared, ratio, {**shifts, "D/R": float(np.log(within["D/R"]))})


def level_columns(
    rows: pd.DataFrame, groups: Sequence[str], offsets: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], int]:
    """Groups (n,), levels (n, g), their names, and how many of them are offsets."""
    label = group_labels(rows, groups)
    kinds = list(dict.fromkeys(label))
    columns = [label == kind for kind in kinds]
    names = [f"E[{kind}]" if groups else "E" for kind in kinds]
    for column in offsets:
        others = list(dict.fromkeys(rows[column]))[1:]
        columns += [(rows[column] == other).to_numpy() for other in others]
        names += [f"offset[{column}={other}]" for other in others]
    return label, np.stack(columns, axis=1).astype(np.float64), tuple(names), len(columns) - len(kinds)


def _holes(rows: pd.DataFrame, groups: Sequence[str], kept: Sequence[str]) -> list[str]:
    """A sentence on groups that lack settings which others have."""
    if not groups:
        return []
    counts = pd.crosstab(group_labels(rows, groups), group_labels(rows, kept))
    lacking = (counts == 0).sum(axis=1)
    if not lacking.any():
        return []
    named = ", ".join(f"{name} ({n})" for name, n in lacking[lacking > 0].items())
    return [f"settings that other groups have are missing in {named}; cells that are there are used"]


def determined(design: Design, *, spare: int = 1) -> bool:
    """Whether a law's amplitudes and exponents follow from the settings, whatever the response.

    Levels need only be determined as far as rows like these go; so many cells must be to spare.
    """
    place = np.array(GENERIC[: len(design.exponents)])
    used = spanned(design.levels)
    columns = [one.centred(place) for one in design.columns]
    slopes = [sum(one.centred_slopes(place)[:, q] for one in design.columns) for q in range(len(place))]
    whole = np.column_stack([used, *columns, *slopes])
    if len(design.frame) < whole.shape[1] + spare:
        return False
    s = np.linalg.svd(whole / np.maximum(np.linalg.norm(whole, axis=0), 1e-300), compute_uv=False)
    return bool(s[-1] > APART * s[0])


def spanned(levels: np.ndarray) -> np.ndarray:
    """(n, rank) an orthonormal basis of what columns span."""
    u, s, _ = np.linalg.svd(levels, full_matrices=False)
    return np.asarray(u[:, s > APART * s[:1].sum()])


def _refuse_undetermined(design: Design) -> None:
    """Raise where `determined` is False, with the reason."""
    n, n_parameters = len(design.frame), len(design.names)
    if n <= n_parameters:
        raise ValueError(
            f"{n} cells can't determine {n_parameters} parameters ({', '.join(design.names)}) and their error; "
            "measure more cells, or take fewer groups or a law of fewer parameters"
        )
    if spanned(design.levels).shape[1] < design.levels.shape[1]:
        offsets = design.level_names[len(design.level_names) - design.n_offsets :]
        raise ValueError(f"{', '.join(offsets)} can't be told from the levels of the groups; leave `offsets` out")
    if determined(design):
        return
    counts = {axis: int(design.frame[column].nunique()) for axis, column in design.axes.items()}
    levels = ", ".join(f"{design.axes[axis]!r} has {count} levels" for axis, count in counts.items())
    few = [axis for axis, count in counts.items() if count < 3 and design.exponents]
    if few:
        _, exponent, _ = AXES[few[0]]
        raise ValueError(
            f"{levels}: beside a level, an amplitude and {exponent} need three levels of {design.axes[few[0]]!r}; "
            "measure another, or take the law 'log' or 'log-log'"
        )
    raise ValueError(
        f"the settings don't determine {', '.join(design.names)} apart ({levels}): sizes go along with each other or "
        "with the groups; measure settings in which one varies alone, or leave one out"
    )
