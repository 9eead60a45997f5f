"""What a design can tell of a law's parameters, before any response is looked at."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked
from .columns import Column, Power, Product, Straight
from .design import level_columns
from .laws import AXES, Axes, law_named

__all__ = ["SUPPOSED", "Identifiability", "cramer_rao", "fisher_root", "identifiability"]

SUPPOSED: Mapping[str, float] = {
    "A": 1.0, "B": 1.0, "C": 1.0, "alpha": 0.31, "beta": 0.47, "gamma": 0.83,
    "slope_N": 1.0, "slope_R": 1.0, "slope_D": 1.0,
}  # fmt: skip
"""Values at which a design is looked at where no others are given; any that don't depend on each other would do."""
ZERO = 1e-9
"""Singular values below this share of the first count as zero."""
NARROW_DECADES = 1.0


class Identifiability(NamedTuple):
    """What follows from the settings alone."""

    axes: pd.DataFrame
    """`axis`, `column`, `n_levels`, `decades`, `n_levels_needed` (for amplitude and exponent beside a level; one more
    lets the shape be checked), `enough`."""
    printed_names: tuple[str, ...]
    """Parameters of the equation as it is printed, references included, levels not."""
    printed_singular_values: np.ndarray
    """Of the derivatives by them, each scaled to length 1, over the first."""
    printed_rank: int
    rank: int
    """Of the derivatives by levels, amplitudes and exponents, references held: what a fit estimates."""
    n_parameters: int
    """Of a fit, levels included."""
    sentences: tuple[str, ...]
    """What isn't determined, in words."""
    cramer_rao: pd.DataFrame | None
    """`name`, `value`, `se` (the least that an unbiased estimate can have; infinite where nothing determines it) and
    `relative_se`, of a fit's parameters; None unless the noise was given."""

    @property
    def determined(self) -> bool:
        """Whether all parameters of a fit follow from the settings."""
        return self.rank == self.n_parameters


def identifiability(
    frame: pd.DataFrame,
    *,
    N: str | None = None,
    R: str | None = None,
    D: str | None = None,
    groups: Sequence[str] = (),
    offsets: Sequence[str] = (),
    law: str = "additive",
    at: Mapping[str, float] | None = None,
    noise: float | None = None,
) -> Identifiability:
    """What a table's settings can tell of a law's parameters; the response isn't needed.

    Parameters
    ----------
    frame
        One row a cell.
    N, R, D
        Columns of sizes.
    groups
        Columns that tell apart groups with a level of their own.
    offsets
        Columns whose values shift the level of all groups alike.
    law
        A law with sizes alone, see `fit_scaling_law`.
    at
        Name -> value of amplitudes and exponents at which derivatives are taken; by default of `SUPPOSED`. The rank
        hardly depends on them.
    noise
        Standard deviation of a cell over its expected value. With it comes a table of the least standard errors, for
        which `at` names every amplitude and exponent, and the level `E` of all groups.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law` for the table; for the law 'share'; and if there is noise, but a parameter is missing, or
        the law's values aren't positive.

    Notes
    -----
    Eq. 8 of arXiv 2501.03152 prints nine parameters. N0, R0 and D0 come only in products with A, B and C, so that no
    design determines more than six of them; fits hold the references.
    """
    chosen = law_named(law)
    if law == "share":
        raise ValueError("`law` is 'share', which isn't about N; look at 'additive'")
    roles = {axis: name for axis, name in (("N", N), ("R", R), ("D", D)) if name is not None}
    if not roles:
        raise ValueError("a design needs at least one of `N`, `R` and `D`: the column of each size that was varied")
    rows, _ = checked(frame, numbers=list(roles.values()), positive=list(roles.values()), labels=[*groups, *offsets])
    values = {**SUPPOSED, **(at or {})}
    logs = {axis: _logs(rows[column], axis) for axis, column in roles.items()}
    ratio = np.log(rows[roles["D"]] / rows[roles["R"]]).to_numpy() if law == "as printed" else None
    terms = Axes(logs, None, ratio)
    printed, names = _printed_jacobian(terms, law, values)
    _, levels, level_names, _ = level_columns(rows, groups, offsets)
    fit = fisher_root(terms, law, values, levels)
    s = _singular_values(printed)
    axes = _axes(rows, roles, chosen.terms(terms)[1], law)
    return Identifiability(
        axes=axes,
        printed_names=names,
        printed_singular_values=s / s[0],
        printed_rank=int((s > ZERO * s[0]).sum()),
        rank=_rank(fit),
        n_parameters=fit.shape[1],
        sentences=_sentences(axes, law, fit, roles),
        cramer_rao=None if noise is None else _least_errors(terms, law, at or {}, fit, noise, level_names),
    )


def _least_errors(
    terms: Axes, law: str, at: Mapping[str, float], root: np.ndarray, noise: float, level_names: Sequence[str]
) -> pd.DataFrame:  # fmt: skip
    """A row a parameter of a fit: name, value, least standard error, that over the value."""
    columns, exponents = law_named(law).terms(terms)
    amplitudes = [one.amplitude for one in columns]
    missing = [name for name in ("E", *amplitudes, *exponents) if name not in at]
    if missing:
        raise ValueError(f"`at` lacks {missing[0]!r}, which the errors of a design depend on where there is `noise`")
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"`noise` is {noise!r}; a standard deviation must be finite and above zero")
    place = np.array([at[name] for name in exponents])
    expected = at["E"] + np.sum([at[one.amplitude] * one.printed(place) for one in columns], axis=0)
    if not law_named(law).logarithmic:
        if (expected <= 0).any():
            raise ValueError(f"the law's value is {expected.min():g} at some settings; it must be positive")
        root = root / expected[:, None]
    levels = [0.0 if name.startswith("offset") else at["E"] for name in level_names]
    values = np.array([*levels, *(at[name] for name in (*amplitudes, *exponents))])
    errors = cramer_rao(root, noise)
    with np.errstate(divide="ignore"):
        relative = errors / np.abs(values)
    table = {"name": [*level_names, *amplitudes, *exponents], "value": values, "se": errors, "relative_se": relative}
    return pd.DataFrame(table)


def fisher_root(terms: Axes, law: str, values: Mapping[str, float], levels: np.ndarray) -> np.ndarray:
    """(n, p) derivatives of the law by levels, amplitudes and exponents, at given values."""
    columns, exponents = law_named(law).terms(terms)
    at = np.array([values[name] for name in exponents])
    slopes = np.zeros((len(levels), len(exponents)))
    for one in columns:
        slopes += values[one.amplitude] * one.printed_slopes(at)
    printed = [one.printed(at) for one in columns]
    return np.column_stack([levels, *printed, slopes])


def cramer_rao(root: np.ndarray, sigma: float) -> np.ndarray:
    """(p,) the least standard errors that unbiased estimates can have; infinite where nothing determines a parameter.

    Parameters
    ----------
    root
        (n, p) derivatives, each row over the standard deviation of its cell in units of `sigma`.
    sigma
        Standard deviation.
    """
    sizes = np.linalg.norm(root, axis=0)
    safe = np.where(sizes > 0, sizes, 1)
    _, s, vt = np.linalg.svd(root / safe, full_matrices=False)
    lost = s <= ZERO * s[0]
    half = vt[~lost].T / s[~lost]
    errors = sigma * np.sqrt((half**2).sum(axis=1)) / safe
    missing = root.shape[1] > len(s)
    involved = (np.abs(vt[lost]) > 1e-6).any(axis=0) | (sizes == 0) | missing
    return np.where(involved, math.inf, errors)


def _logs(column: pd.Series, axis: str) -> np.ndarray:
    values = column.to_numpy()
    return np.asarray(np.log((values.min() if axis == "R" else values.max()) / values))


def _printed_jacobian(terms: Axes, law: str, values: Mapping[str, float]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, p) and the names: derivatives by amplitudes, by logarithms of the references, and by exponents."""
    columns, exponents = law_named(law).terms(terms)
    at = np.array([values[name] for name in exponents])
    found: dict[str, np.ndarray] = {one.amplitude: one.printed(at) for one in columns}
    for axis in terms.logs:
        moved = [values[one.amplitude] * _by_log(one, axis, terms, at) for one in columns]
        found[f"{axis}0"] = np.sum(moved, axis=0)
    for place, name in enumerate(exponents):
        found[name] = np.sum([values[one.amplitude] * one.printed_slopes(at)[:, place] for one in columns], axis=0)
    kept = {name: column for name, column in found.items() if not (name.endswith("0") and not column.any())}
    return np.stack(list(kept.values()), axis=1), tuple(kept)


def _by_log(column: Column, axis: str, terms: Axes, at: np.ndarray) -> np.ndarray:
    """(n,) derivative of a term at amplitude 1 by the logarithm of an axis's reference."""
    logs = terms.logs[axis]
    if isinstance(column, Product):
        return np.asarray(at[column.exponents[list(terms.logs).index(axis)]] * column.printed(at))
    if isinstance(column, Power) and column.log_x is logs:
        return np.asarray(at[column.place] * column.printed(at))
    return np.full(len(logs), float(isinstance(column, Straight) and column.x is logs))


def _singular_values(jacobian: np.ndarray) -> np.ndarray:
    sizes = np.linalg.norm(jacobian, axis=0)
    return np.asarray(np.linalg.svd(jacobian / np.where(sizes > 0, sizes, 1), compute_uv=False))


def _rank(jacobian: np.ndarray) -> int:
    s = _singular_values(jacobian)
    return int((s > ZERO * s[0]).sum())


def _axes(rows: pd.DataFrame, roles: Mapping[str, str], exponents: Sequence[str], law: str) -> pd.DataFrame:
    found = []
    for axis, column in roles.items():
        sizes = rows[column]
        n_needed = 3 if AXES[axis].exponent in exponents and not (law == "multiplicative" and len(roles) > 1) else 2
        found.append(
            {
                "axis": axis,
                "column": column,
                "n_levels": int(sizes.nunique()),
                "decades": math.log10(sizes.max() / sizes.min()),
                "n_levels_needed": n_needed,
                "enough": bool(sizes.nunique() >= n_needed),
            }
        )
    return pd.DataFrame(found)


def _sentences(axes: pd.DataFrame, law: str, fit: np.ndarray, roles: Mapping[str, str]) -> tuple[str, ...]:
    said = []
    powers = law in ("additive", "as printed")
    for row in axes.itertuples():
        amplitude, exponent, _ = AXES[row.axis]
        printed_alone = not (law == "as printed" and row.axis == "D")
        if powers and printed_alone and row.n_levels > 1:
            said.append(f"only {amplitude} {row.axis}0^{exponent} is determined, not {amplitude} and {row.axis}0 apart")
        if row.n_levels == 1:
            said.append(f"{row.column!r} has one level: its term is a constant, part of the level")
        elif not row.enough:
            said.append(
                f"{row.column!r} has {row.n_levels} levels: level, amplitude and exponent need {row.n_levels_needed}"
            )
        elif row.n_levels == row.n_levels_needed and row.n_levels_needed == 3:
            said.append(
                f"{row.column!r} has 3 levels for 3 parameters: any smooth curve goes through, so its shape isn't put "
                "to a test"
            )
        if row.n_levels > 1 and row.decades < NARROW_DECADES:
            said.append(
                f"{row.column!r} spans {row.decades:.2g} decades: an exponent describes this range and says little "
                "beyond it"
            )
    if _rank(fit) < fit.shape[1] and axes["enough"].all():
        said.append(
            f"{', '.join(repr(column) for column in roles.values())} go along with each other or with the groups"
        )
    return tuple(said)
