"""A study's table and a law as arrays; raises if the table can't determine the law."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import Residual
from lorascope.stores.names import require_choice

from .frame import check_columns, group_labels
from .laws import BOUNDS, LAWS, Column, Law
from .solve import Problem, column_basis, slopes

APART = 1e-9
"""Singular values below this share of the largest count as 0, for derivatives scaled to length 1."""
GENERIC = (0.31, 0.47, 0.83, 1.21)
"""Exponents at which the rank of a design is computed; any unrelated numbers would do."""
CONSTANT = 1e-12
"""Differences below this share of the response count as rounding."""
LARGEST = 1e100
"""Largest response, and inverse of the smallest one, whose sum of squares can be computed."""
LARGEST_POWER = 250.0
"""Logarithm of the largest power of a size in a search, which limits the exponents."""


@dataclass(frozen=True)
class Design:
    """Design matrix of a scaling law and its data: the rows of a table as arrays, made by `make_design`."""

    law_name: str
    response: str
    sizes: Mapping[str, str]
    """N, R, D and share, if the law has them -> column."""
    references: Mapping[str, float]
    """N, R, D -> reference size N0, R0, D0."""
    group_columns: tuple[str, ...]
    offset_columns: tuple[str, ...]
    residual: Residual
    limits: Mapping[str, tuple[float, float]]
    """Exponent -> smallest and largest value that is searched."""
    notes: tuple[str, ...]
    frame: pd.DataFrame
    groups: np.ndarray
    """(n,) name of each row's group."""
    settings: np.ndarray
    """(n,) name of each row's setting: its sizes and offsets."""
    levels: np.ndarray
    """(n, g) indicators of groups and offsets: 1 if a row belongs to one, else 0."""
    level_names: tuple[str, ...]
    """(g,) names of the columns of `levels`: groups, such as `E[a]`, then offsets."""
    logs: Mapping[str, np.ndarray]
    """N, R, D, share -> (n,) logarithms of the sizes of the law's terms, see `laws.Logs`."""

    @property
    def law(self) -> Law:
        """Form of the law, its equation and terms, by its name."""
        return LAWS[self.law_name]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Terms of the law for the sizes in use, one `Column` per amplitude."""
        return self.law.terms(self.logs)[0]

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        """Names of the law's exponents, such as `alpha`, in the order of their values in arrays (q,)."""
        return self.law.terms(self.logs)[1]

    @property
    def bounds(self) -> np.ndarray:
        """Smallest and largest value that is searched for each exponent, (q, 2)."""
        return np.array([self.limits[name] for name in self.exponents]).reshape(-1, 2)

    @property
    def equation(self) -> str:
        """Equation of the law as text, with only the terms of sizes in use."""
        return self.law.equation_of(self.logs)

    @property
    def y(self) -> np.ndarray:
        """Response (n,) of each cell, or its logarithm if the law describes the logarithm."""
        values = self.frame[self.response].to_numpy(np.float64)
        return np.asarray(np.log(values) if self.law.logarithmic else values)

    @property
    def weights(self) -> np.ndarray:
        """Weights (n,) that residuals are multiplied by: 1 / response for relative residuals, otherwise 1."""
        return np.ones(len(self.frame)) if self.residual != "relative" else 1 / self.y

    @property
    def n_groups(self) -> int:
        """Number of levels of groups, which come first; further levels are offsets."""
        return sum(not name.startswith("offset[") for name in self.level_names)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the amplitudes and exponents, which all groups share."""
        return (*(column.amplitude for column in self.columns), *self.exponents)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters in the order of their values in arrays (p,): levels, amplitudes, exponents."""
        return (*self.level_names, *self.term_names)

    @property
    def problem(self) -> Problem:
        """Weighted least-squares problem of the law."""
        return Problem(self.y, self.weights, self.levels, self.columns, self.bounds)

    def select_rows(self, rows: np.ndarray) -> "Design":
        """Return the design of some rows with the same law, references and names; empty levels keep their column."""
        arrays = {name: getattr(self, name)[rows] for name in ("groups", "settings", "levels")}
        logs = {name: values[rows] for name, values in self.logs.items()}
        return replace(self, frame=self.frame.iloc[rows], logs=logs, **arrays)

    def without_sizes(self, sizes: Collection[str]) -> "Design":
        """Return the design without the factors of these `sizes`: N, R, D or share."""
        return replace(self, logs={size: values for size, values in self.logs.items() if size not in sizes})


def make_design(
    frame: pd.DataFrame, *, response: str, N: str | None, R: str | None, D: str | None, groups: Sequence[str],
    offsets: Sequence[str], share: str | None, repeat: str | None, law: str, residuals: Any,
) -> Design:  # fmt: skip
    """Return the design of a law on the rows of a table; raise ValueError if they can't determine the law.

    Arguments are those of `fit_scaling_law`.
    """
    require_choice("law", law, LAWS)
    form = LAWS[law]
    columns_of = {"N": N, "R": R, "D": D, "share": share if law == "share" else None}
    roles = {size: column for size, column in columns_of.items() if column is not None}
    require_choice("residuals", residuals, get_args(Residual))
    for name, option in (("groups", groups), ("offsets", offsets)):
        if isinstance(option, str) or not isinstance(option, Sequence):
            raise ValueError(f"`{name}` is {option!r}; give a sequence of columns, which may be empty")
    if law == "share" and share is None:
        raise ValueError("the law 'share' needs `share`: the column of how many layers share their weights")
    if not roles:
        raise ValueError("a law needs at least one of `N`, `R` and `D`: the column of each size that was varied")
    numbers = [response, *roles.values()]
    labels = [*groups, *offsets, *([repeat] if repeat else [])]
    positive = numbers if form.logarithmic or residuals != "absolute" else numbers[1:]
    rows, exclusions = check_columns(frame, numbers=numbers, positive=positive, labels=labels, may_lack=[response])
    _refuse_repeated(rows.drop(columns=list(offsets)), response)
    _refuse_response(rows[response].to_numpy(), response, group_labels(rows, groups), is_grouped=bool(groups))
    sizes, dropped = _sizes_in_use(rows, roles, form)
    ends = {"N": "max", "R": "min", "D": "max"}
    references = {axis: float(rows[sizes[axis]].agg(end)) for axis, end in ends.items() if axis in sizes}
    arrays = _row_arrays(rows, sizes, references, groups, offsets, rows.iloc[0])
    limits, narrowed = _exponent_bounds(*form.terms(arrays["logs"]))
    lacking = (pd.crosstab(arrays["groups"], arrays["settings"]) == 0).any(axis=1)
    gaps = [f"settings that other groups have are missing in {int(lacking.sum())} of {len(lacking)} groups"]
    design = Design(
        law_name=law, response=response, sizes=sizes, references=references, group_columns=tuple(groups),
        offset_columns=tuple(offsets), residual="absolute" if form.logarithmic else residuals, limits=limits,
        notes=(*exclusions, *dropped, *narrowed, *(gaps if lacking.any() else ())), **arrays,
    )  # fmt: skip
    _refuse_undetermined(design)
    return design


def apply_design(design: Design, frame: pd.DataFrame) -> Design:
    """Return the design of other rows with the law, references and levels of a fit; their response isn't used.

    Raises ValueError if the fit has no such group or offset.
    """
    numbers, names = list(design.sizes.values()), design.level_names
    rows, _ = check_columns(
        frame, numbers=numbers, positive=numbers, labels=[*design.group_columns, *design.offset_columns]
    )
    arrays = _row_arrays(
        rows, design.sizes, design.references, design.group_columns, design.offset_columns, design.frame.iloc[0],
    )  # fmt: skip
    levels = pd.DataFrame(arrays["levels"], columns=list(arrays["level_names"]))
    for name in levels.columns.difference(list(names)):
        raise ValueError(f"{name} isn't among the fit's levels: {', '.join(names)}")
    levels = levels.reindex(columns=list(names), fill_value=0.0).to_numpy()
    return replace(design, **arrays | {"levels": levels, "level_names": names})


def is_determined(design: Design, *, spare: int = 1) -> bool:
    """Return whether the rows identify a law's amplitudes and exponents, and exceed the parameters by `spare` or more.

    Levels and offsets may overlap, since predictions of the same rows don't depend on how they are split.
    """
    at, amplitudes = np.array(GENERIC[: len(design.exponents)]), np.ones(len(design.columns))
    jacobian = slopes(column_basis(design.levels, APART), design.columns, amplitudes, at)
    s = np.linalg.svd(jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300), compute_uv=False)
    n, n_parameters = jacobian.shape
    return bool(n >= n_parameters + spare and (s > APART * s[0]).sum() == n_parameters)


def _row_arrays(
    rows: pd.DataFrame, sizes: Mapping[str, str], references: Mapping[str, float], groups: Sequence[str],
    offsets: Sequence[str], first: pd.Series,
) -> dict[str, Any]:  # fmt: skip
    """Return by name the fields of a `Design` that depend on its rows; offsets are relative to the row `first`."""
    label = group_labels(rows, groups)
    levels = {f"E[{kind}]" if groups else "E": label == kind for kind in dict.fromkeys(label)}
    for column in offsets:
        others = [value for value in dict.fromkeys(rows[column]) if value != first[column]]
        levels |= {f"offset[{column}={value}]": (rows[column] == value).to_numpy() for value in others}
    logs = {}
    for name, column in sizes.items():
        values = rows[column].to_numpy()
        logs[name] = values - 1 if name == "share" else np.log(references[name] / values)
    settings = [[f"{name}={text}" for text in _short_texts(rows[name])] for name in (*sizes.values(), *offsets)]
    return {
        "frame": rows, "groups": label, "logs": logs, "level_names": tuple(levels),
        "levels": np.column_stack(list(levels.values())).astype(np.float64),
        "settings": np.array([" ".join(row) for row in zip(*settings, strict=True)], dtype=object),
    }  # fmt: skip


def _refuse_repeated(rows: pd.DataFrame, response: str) -> None:
    """Raise ValueError if two rows of a table are the same, response included."""
    repeated = rows[rows.duplicated(keep=False)]
    if len(repeated):
        same = repeated.index[(repeated == repeated.iloc[0]).all(axis=1)]
        raise ValueError(
            f"rows {', '.join(map(str, same))} are the same, {response!r} = {repeated[response].iloc[0]:g} included: "
            "one run twice? drop one, or name the column that distinguishes repeats as `repeat`"
        )


def _refuse_response(values: np.ndarray, response: str, groups: np.ndarray, *, is_grouped: bool) -> None:
    """Raise ValueError if a response can't be squared in float64, or doesn't vary within groups."""
    largest = float(np.abs(values).max())
    for end in (largest, float(values.min())):
        if end > 0 and not 1 / LARGEST <= end <= LARGEST:
            raise ValueError(f"{response!r} holds {end:g}, whose square can't be computed; give it in another unit")
    if max(float(np.ptp(values[groups == name])) for name in set(groups)) <= CONSTANT * largest:
        where = "within its groups" if is_grouped else "at all"
        raise ValueError(f"{response!r} doesn't vary {where}, {values[0]:g} in the first row; there is nothing to fit")


def _sizes_in_use(rows: pd.DataFrame, roles: Mapping[str, str], law: Law) -> tuple[dict[str, str], list[str]]:
    """Return the columns of the law's sizes that vary, and a sentence on each that doesn't; raise if none varies."""
    used, notes = {}, []
    for axis, column in roles.items():
        _, _, term = law.equation_of([axis]).partition(" + ")
        if term and rows[column].nunique() > 1:
            used[axis] = column
        elif term:
            notes.append(f"{column!r} is {rows[column].iloc[0]:g} in every row: {term} is part of the level")
    if not used:
        sizes = ", ".join(f"{column!r} = {rows[column].iloc[0]:g}" for column in roles.values())
        raise ValueError(f"no size varies ({sizes}); a law needs a column with at least three levels")
    return used, notes


def _exponent_bounds(
    columns: Sequence[Column], exponents: Sequence[str]
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Return the searched range of each exponent, and a sentence on each range that is cut against overflow."""
    ends, notes = {}, []
    for position, name in enumerate(exponents):
        widest = max(float(np.abs(column.log_x).max()) for column in columns if position in column.exponents)
        most = LARGEST_POWER / widest
        low, high = ends[name] = (max(BOUNDS[name][0], -most), min(BOUNDS[name][1], most))
        if ends[name] != BOUNDS[name]:
            notes.append(f"{name} is searched from {low:.3g} to {high:.3g} only: powers beyond it can't be computed")
    return ends, notes


def _refuse_undetermined(design: Design) -> None:
    """Raise ValueError with the reason if a design's settings don't determine its law."""
    n, n_levels, names = len(design.frame), len(design.level_names), ", ".join(design.term_names)
    if n <= len(design.names):
        raise ValueError(
            f"{n} cells can't determine {len(design.names)} parameters ({n_levels} levels, {names}) and their error; "
            "measure more cells, or take fewer groups or a law of fewer parameters"
        )
    if not is_determined(design) or column_basis(design.levels, APART).shape[1] < n_levels:
        counts = [f"{column!r} has {design.frame[column].nunique()} levels" for column in design.sizes.values()]
        raise ValueError(
            f"the settings don't determine {names} apart ({', '.join(counts)}): exponents need three levels of their "
            "size, and sizes and `offsets` must vary apart from each other and from the groups; measure more "
            "settings, leave one out, or take the law 'log' or 'log-log'"
        )


def _short_texts(column: pd.Series) -> list[str]:
    """Return values as text: numbers with six digits, or with all digits if six don't distinguish them."""
    if not pd.api.types.is_float_dtype(column):
        return [str(value) for value in column]
    short = column.map("{:.6g}".format)
    return list(short if short.nunique() == column.nunique() else column.map(repr))
