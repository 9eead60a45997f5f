"""A study's table as the arrays of a fit, checked against the law: what it can't tell is refused here, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked, group_labels
from .columns import Column
from .laws import AXES, Axes, Law, law_named
from .refusals import Residual, exponent_bounds, refuse_constant, refuse_repeated, refuse_settings
from .solve import Problem

__all__ = [
    "Design",
    "applied",
    "axes_of",
    "determined",
    "level_columns",
    "make_design",
    "rank_of",
    "references_of",
    "term_derivatives",
]

APART = 1e-9
"""Singular values of the derivatives, each scaled to length 1, below this share of the largest count as zero."""
GENERIC = (0.31, 0.47, 0.83, 1.21)
"""Exponents at which the rank of a design is looked at; any that don't depend on each other would do."""


@dataclass(frozen=True)
class Design:
    """A table and a law as arrays."""

    frame: pd.DataFrame
    law_name: str
    response: str
    axes: Mapping[str, str]
    """Axis (N, R, D) -> column, of those in the law."""
    references: Mapping[str, float]
    """Axis -> the size whose ratio to itself is 1; `D/R` as well, where the law has it."""
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
    limits: Mapping[str, tuple[float, float]]
    """Exponent -> where it is looked for."""
    residual: Residual
    notes: tuple[str, ...]

    @property
    def law(self) -> Law:
        """The law's form."""
        return law_named(self.law_name)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The terms."""
        return self.law.terms(self.terms)[0]

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents, in the order of their places."""
        return self.law.terms(self.terms)[1]

    @property
    def bounds(self) -> np.ndarray:
        """(q, 2) where each exponent is looked for."""
        return np.array([self.limits[name] for name in self.exponents]).reshape(-1, 2)

    @property
    def equation(self) -> str:
        """The law with the terms that are in it."""
        used = [f"{name}0" if name in AXES else name for name in self.terms.values]
        head, *terms = self.law.equation.split(" + ")
        if self.law_name == "multiplicative":
            amplitude, *factors = terms[0].split(" ")
            kept = [one for one in factors if any(name in one for name in used)]
            return f"{head} + {' '.join([amplitude, *kept])}" if kept else head
        return " + ".join([head, *(term for term in terms if any(name in term for name in used))])

    @property
    def sizes(self) -> dict[str, str]:
        """N, R, D and share, as far as the law has them -> column."""
        return {**self.axes, **({"share": self.share} if self.share else {})}

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
    def term_names(self) -> tuple[str, ...]:
        """Names of amplitudes and exponents: what all groups share, offsets aside."""
        return (*(column.amplitude for column in self.columns), *self.exponents)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters: levels, amplitudes, exponents."""
        return (*self.level_names, *self.term_names)

    @property
    def problem(self) -> Problem:
        """Its least squares; of logarithmic residuals those of relative ones, from which the search goes on."""
        weights = 1 / self.y if self.residual == "log" else self.weights
        return Problem(self.y, weights, self.levels, self.columns, self.bounds)

    def take(self, rows: np.ndarray) -> "Design":
        """Some rows, with law, references and names as they are; levels without a row keep their column."""
        terms = self.terms._replace(values={name: one[rows] for name, one in self.terms.values.items()})
        arrays = {name: getattr(self, name)[rows] for name in ("groups", "settings", "levels")}
        return replace(self, frame=self.frame.iloc[rows], terms=terms, **arrays)

    def without(self, axis: str) -> "Design":
        """The design less all terms of one axis: N, R, D or share."""
        return replace(self, terms=self.terms.without(axis))


def make_design(
    frame: pd.DataFrame, response: str, N: str | None, R: str | None, D: str | None, *, groups: Sequence[str],
    offsets: Sequence[str], share: str | None, repeat: str | None, law: str, residuals: Any,
    bounds: Mapping[str, tuple[float, float]],
) -> Design:  # fmt: skip
    """See `fit_scaling_law`."""
    chosen = law_named(law)
    roles = {axis: name for axis, name in (("N", N), ("R", R), ("D", D)) if name is not None}
    refuse_settings(residuals, roles, law, share, groups, offsets)
    share = share if law == "share" else None
    numbers = [response, *roles.values(), *([share] if share else [])]
    labels = [*groups, *offsets, *([repeat] if repeat else [])]
    twice = [name for name in (*numbers, *labels) if [*numbers, *labels].count(name) > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} is given two roles; each column has one")
    needs_positive = chosen.logarithmic or residuals != "absolute"
    positive = [*numbers[1:], *([response] if needs_positive else [])]
    rows, left_out = checked(frame, numbers=numbers, positive=positive, labels=labels, may_lack=[response])
    refuse_repeated(rows.drop(columns=list(offsets)), response)
    refuse_constant(rows, response, groups)
    axes, dropped = _axes_in_use(rows, roles, law)
    references = references_of(rows, axes, law)
    terms = axes_of(rows, axes, references, share)
    group, levels, names, n_offsets = level_columns(rows, groups, offsets)
    kept = [*axes.values(), *([share] if share else []), *offsets]
    limits, narrowed = exponent_bounds(*chosen.terms(terms), bounds)
    design = Design(
        frame=rows, law_name=law, response=response, axes=axes, references=references, share=share,
        group_columns=tuple(groups), offset_columns=tuple(offsets), groups=group,
        settings=_setting_labels(rows, kept), levels=levels, level_names=names, n_offsets=n_offsets, terms=terms,
        limits=limits, residual="absolute" if chosen.logarithmic else residuals,
        notes=(*left_out, *dropped, *narrowed, *_holes(rows, groups, kept)),
    )  # fmt: skip
    _refuse_undetermined(design)
    return design


def applied(design: Design, frame: pd.DataFrame) -> Design:
    """Other rows, whose response isn't looked at, with law, references and levels of a design.

    Raises ValueError if a group or an offset wasn't among the rows of the fit.
    """
    numbers = list(design.sizes.values())
    labels = [*design.group_columns, *design.offset_columns]
    rows, _ = checked(frame, numbers=numbers, positive=numbers, labels=labels)
    group, names = group_labels(rows, design.group_columns), design.level_names
    levels = np.zeros((len(rows), len(names)))
    for name in dict.fromkeys(group):
        levels[group == name, _known(names, f"E[{name}]" if design.group_columns else "E")] = 1
    for column in design.offset_columns:
        for value in dict.fromkeys(rows[column]):
            if value != design.frame[column].iloc[0]:
                levels[(rows[column] == value).to_numpy(), _known(names, f"offset[{column}={value}]")] = 1
    terms = axes_of(rows, design.axes, design.references, design.share)
    return replace(
        design, frame=rows, groups=group, settings=_setting_labels(rows, [*numbers, *design.offset_columns]),
        levels=levels, terms=terms,
    )  # fmt: skip


def axes_of(
    rows: pd.DataFrame, axes: Mapping[str, str], references: Mapping[str, float], share: str | None = None
) -> Axes:
    """What terms are made of, in these rows; ln(D/R) if `references` has it."""
    values = {axis: np.log(references[axis] / rows[column].to_numpy()) for axis, column in axes.items()}
    if share is not None:
        values["share"] = rows[share].to_numpy() - 1
    if "D/R" not in references:
        return Axes(values)
    values["D/R"] = np.log(rows[axes["D"]] / rows[axes["R"]] / references["D/R"]).to_numpy()
    return Axes(values, float(np.log(references["D/R"])))


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


def determined(design: Design, *, spare: int = 1) -> bool:
    """Whether a law's amplitudes and exponents follow from the settings, whatever the response.

    Levels need only be determined as far as rows like these go; so many cells must be to spare.
    """
    levels = _spanned(design.levels)
    terms = [term_derivatives(design.columns, len(design.exponents))] if design.columns else []
    whole = np.column_stack([levels, *terms])
    n_parameters = int(whole.shape[1])
    return len(design.frame) >= n_parameters + spare and rank_of(whole) == n_parameters


def term_derivatives(columns: Sequence[Column], n_exponents: int) -> np.ndarray:
    """(n, p) derivatives of a law by amplitudes and exponents, at amplitudes of 1 and exponents of no meaning."""
    at = np.array(GENERIC[:n_exponents])
    slopes = sum(one.centred_slopes(at) for one in columns)
    return np.column_stack([*(one.centred(at) for one in columns), slopes])


def rank_of(columns: np.ndarray) -> int:
    """Rank of columns (n, p), each scaled to length 1."""
    s = np.linalg.svd(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300), compute_uv=False)
    return int((s > APART * s[0]).sum())


def _spanned(levels: np.ndarray) -> np.ndarray:
    """(n, rank) an orthonormal basis of what columns span."""
    u, s, _ = np.linalg.svd(levels, full_matrices=False)
    return np.asarray(u[:, s > APART * s[:1].sum()])


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
            amplitude, exponent = AXES[axis]
            term = f"{amplitude} ({axis}0/{axis})^{exponent}"
            said.append(f"{column!r} is {rows[column].iloc[0]:g} in every row: {term} is part of the level")
    if not used and law != "share":
        sizes = ", ".join(f"{column!r} = {rows[column].iloc[0]:g}" for column in roles.values())
        raise ValueError(f"no size varies ({sizes}); a law needs a column with at least three levels")
    return used, said


def references_of(rows: pd.DataFrame, axes: Mapping[str, str], law: str) -> dict[str, float]:
    """Axis -> the largest N and D, the smallest R; and the largest D/R of the law as printed."""
    found = {axis: float(rows[column].min() if axis == "R" else rows[column].max()) for axis, column in axes.items()}
    return found | ({"D/R": float((rows[axes["D"]] / rows[axes["R"]]).max())} if law == "as printed" else {})


def _holes(rows: pd.DataFrame, groups: Sequence[str], kept: Sequence[str]) -> list[str]:
    """A sentence on groups that lack settings which others have."""
    lacking = (pd.crosstab(group_labels(rows, groups), group_labels(rows, kept)) == 0).any(axis=1)
    if not groups or not lacking.any():
        return []
    return [f"settings that other groups have are missing in {int(lacking.sum())} of {len(lacking)} groups"]


def _refuse_undetermined(design: Design) -> None:
    """Raise where `determined` is False, with the reason."""
    n, n_levels = len(design.frame), len(design.level_names)
    if n <= len(design.names):
        raise ValueError(
            f"{n} cells can't determine {len(design.names)} parameters ({n_levels} levels, "
            f"{', '.join(design.term_names)}) and their error; measure more cells, or take fewer groups or a law of "
            "fewer parameters"
        )
    if _spanned(design.levels).shape[1] < n_levels:
        offsets = ", ".join(design.level_names[n_levels - design.n_offsets :])
        raise ValueError(f"{offsets} can't be told from the levels of the groups; leave `offsets` out")
    if determined(design):
        return
    counts = {axis: int(design.frame[column].nunique()) for axis, column in design.axes.items()}
    levels = ", ".join(f"{design.axes[axis]!r} has {count} levels" for axis, count in counts.items())
    few = [axis for axis, count in counts.items() if count < 3 and design.exponents]
    if few:
        raise ValueError(
            f"{levels}: beside a level, an amplitude and {AXES[few[0]].exponent} need three levels of "
            f"{design.axes[few[0]]!r}; measure another, or take the law 'log' or 'log-log'"
        )
    raise ValueError(
        f"the settings don't determine {', '.join(design.term_names)} apart ({levels}): sizes go along with each other "
        "or with the groups; measure settings in which one varies alone, or leave one out"
    )
