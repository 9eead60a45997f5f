"""Least squares of a law by variable projection: exponents on a grid, then polished; everything linear solved exactly.

Golub, Pereyra (1973), SIAM J. Numer. Anal. 10, 413; Kaufman (1975), BIT 15, 49, whose gradient is the exact one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from .laws import Column

Grid = Literal["fine", "coarse"]
Optimum = tuple[np.ndarray, float, bool]
"""Where a loss is least, the loss, and whether the search ended by itself."""
N_GRID: Mapping[Grid, Mapping[int, int]] = {"fine": {1: 241, 2: 45, 3: 19}, "coarse": {1: 41, 2: 13, 3: 7}}
"""Number of exponents -> grid points for each: of a first search, and of one that has a good start."""
N_POLISHED: Mapping[Grid, int] = {"fine": 4, "coarse": 2}
"""Local minima of the grid from which a search goes on."""
SPREAD = 0.5
"""Exponents below it are spaced evenly, those above it by their logarithm."""
RANK = 1e-12
"""Singular values below this share of the largest count as zero."""
AT_BOUND = 1e-6
"""Share of its range within which an exponent counts as being at its bound."""


@dataclass(frozen=True)
class Problem:
    """min over levels, coefficients and exponents of sum (weights * (target - levels @ e - terms))**2."""

    target: np.ndarray
    """(n,)"""
    weights: np.ndarray
    """(n,)"""
    levels: np.ndarray
    """(n, g) columns of groups and offsets; the constant lies in their span."""
    columns: tuple[Column, ...]
    bounds: np.ndarray
    """(q, 2) of exponents; a fixed one has two equal ends."""
    known: tuple[tuple[Column, float], ...] = ()
    """Printed terms of a given amplitude."""

    @cached_property
    def basis(self) -> np.ndarray:
        """(n, rank) an orthonormal basis of the weighted levels."""
        return spanned(self.weights[:, None] * self.levels, RANK)

    @property
    def free(self) -> np.ndarray:
        """Places of exponents that aren't fixed."""
        return np.flatnonzero(self.bounds[:, 0] < self.bounds[:, 1])

    def fix(self, place: int, value: float) -> "Problem":
        """The problem with one exponent held."""
        bounds = self.bounds.copy()
        bounds[place] = value
        return replace(self, bounds=bounds)

    def at_bound(self, exponents: np.ndarray) -> np.ndarray:
        """(q,) whether a free exponent lies at an end of its range."""
        low, high = self.bounds.T
        near = AT_BOUND * (high - low)
        return np.asarray((high > low) & ((exponents - low <= near) | (high - exponents <= near)))

    def weighted(self, exponents: np.ndarray) -> np.ndarray:
        """(..., n, k) columns at exponents (..., q), weighted."""
        if not self.columns:
            return np.zeros((*exponents.shape[:-1], len(self.target), 0))
        terms = np.stack([one.centred(exponents) for one in self.columns], axis=-1)
        return np.asarray(terms * self.weights[:, None])

    def wanted(self, exponents: np.ndarray) -> np.ndarray:
        """(n,) weighted target less what is known."""
        known = sum(amplitude * column.printed(exponents) for column, amplitude in self.known)
        return np.asarray(self.weights * (self.target - known))

    def across(self, columns: np.ndarray) -> np.ndarray:
        """What of columns (..., n, k) the levels leave."""
        return np.asarray(columns - self.basis @ (self.basis.T @ columns))


class Solution(NamedTuple):
    """Where the sum of squares is least."""

    exponents: np.ndarray
    """(q,)"""
    coefficients: np.ndarray
    """(k,) of the columns."""
    levels: np.ndarray
    """(g,) of the levels: of least norm where they overlap."""
    ssr: float
    at_bound: np.ndarray
    """(q,) whether a free exponent lies at an end of its range."""
    converged: bool
    reached: np.ndarray
    """(start,) whether the search from each of the further starts ended here."""


def spanned(columns: np.ndarray, least: float) -> np.ndarray:
    """(n, rank) an orthonormal basis of what columns span, singular values below a share of the largest left out."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, s > least * s[:1].sum()])


def slopes(
    levels: np.ndarray, columns: Sequence[Column], coefficients: np.ndarray, exponents: np.ndarray
) -> np.ndarray:
    """(n, p) derivatives of a law by levels, coefficients (k,) and exponents (q,)."""
    own = np.zeros((len(levels), len(exponents)))
    for coefficient, one in zip(coefficients, columns, strict=True):
        own += coefficient * one.centred_slopes(exponents)
    return np.column_stack([levels, *(one.centred(exponents) for one in columns), own])


def exponent_grid(low: float, high: float, n: int) -> np.ndarray:
    """(n,) exponents from one end to the other, evenly spaced in asinh(exponent / SPREAD)."""
    grid = SPREAD * np.sinh(np.linspace(np.arcsinh(low / SPREAD), np.arcsinh(high / SPREAD), n))
    grid[0], grid[-1] = low, high
    return np.asarray(grid)


def least_squares(problem: Problem, starts: Sequence[np.ndarray] = (), *, grid: Grid = "fine") -> Solution:
    """The least sum of squares, from the lowest minima of a grid over the exponents and from further starts (q,)."""
    if not len(problem.free):
        return _finished(problem, problem.bounds[:, 0].copy(), True, np.ones(len(starts), bool))
    ends = [_polished(problem, np.clip(one, *problem.bounds.T)) for one in (*starts, *_grid_minima(problem, grid))]
    exponents, loss, converged = min(ends, key=lambda end: end[1])
    reached = np.array([end[1] <= loss * (1 + 1e-8) for end in ends[: len(starts)]], bool)
    return _finished(problem, exponents, converged, reached)


def search(
    residuals: Callable[[np.ndarray], np.ndarray], moved: Callable[[np.ndarray], np.ndarray], begin: np.ndarray,
    bounds: np.ndarray, *, delta: float = math.inf, **options: Any,
) -> Optimum:  # fmt: skip
    """The least loss, half of squares or Huber's, of residuals with derivatives `moved`, within bounds (p, 2)."""
    from scipy import optimize  # type: ignore[import-untyped]

    unit = float(np.abs(residuals(begin)).max()) or 1.0  # tolerances are absolute
    is_huber = math.isfinite(delta)
    done: Any = optimize.least_squares(
        lambda at: residuals(at) / unit, begin, jac=lambda at: moved(at) / unit, bounds=bounds.T,
        loss="huber" if is_huber else "linear", f_scale=delta / unit if is_huber else 1.0,
        **{"method": "dogbox", "xtol": 1e-14, "ftol": 1e-15, "gtol": 1e-15, **options},
    )  # fmt: skip
    return done.x, float(done.cost) * unit**2, bool(done.status > 0)


def _grid_minima(problem: Problem, grid: Grid) -> list[np.ndarray]:
    """Exponents (q,) at the lowest local minima of the sum of squares over a grid."""
    n = N_GRID[grid].get(len(problem.free), 1)
    axes = [exponent_grid(low, high, n) if low < high else np.array([low]) for low, high in problem.bounds]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    whole = problem.weighted(points)
    columns = problem.across(whole)
    u, s, _ = np.linalg.svd(columns / _lengths(columns, whole)[:, None, :], full_matrices=False)
    bases = u * (s > RANK**0.5 * s[:, :1])[:, None, :]  # zeros where columns depend on each other
    each = points if problem.known else points[:1]
    rest = problem.across(np.stack([problem.wanted(point) for point in each])[..., None])
    kept = np.matmul(bases.transpose(0, 2, 1), rest)
    ssr = (rest**2).sum(axis=(1, 2)) - (kept**2).sum(axis=(1, 2))
    return list(points[minima(ssr.reshape([len(axis) for axis in axes]))[: N_POLISHED[grid]]])


def minima(values: np.ndarray) -> np.ndarray:
    """Flat places of the local minima of values on a grid, the lowest first; neighbours share an edge."""
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(values.ndim, 1)
    places = np.flatnonzero(values == ndimage.minimum_filter(values, footprint=cross, mode="nearest"))
    return np.asarray(places[np.argsort(values.ravel()[places], kind="stable")])


def _polished(problem: Problem, begin: np.ndarray) -> Optimum:
    """The least half sum of squares from exponents (q,) to begin with."""
    free = problem.free

    def whole(some: np.ndarray) -> np.ndarray:
        exponents = begin.astype(np.float64)
        exponents[free] = some
        return exponents

    at, loss, converged = search(
        lambda some: _solve_linear(problem, whole(some))[0],
        lambda some: _projected_slopes(problem, whole(some))[:, free],
        begin[free], problem.bounds[free], x_scale=np.maximum(np.abs(begin[free]), 0.1), xtol=1e-12, max_nfev=200,
    )  # fmt: skip
    return whole(at), loss, converged


def _solve_linear(problem: Problem, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted residuals (n,), coefficients (k,) and an orthonormal basis (n, k) of the columns across the levels."""
    wanted = problem.across(problem.wanted(exponents)[:, None])[:, 0]
    whole = problem.weighted(exponents)
    columns = problem.across(whole)
    sizes = _lengths(columns, whole)
    u, s, vt = np.linalg.svd(columns / sizes, full_matrices=False)
    keep = s > RANK * s[:1].sum()
    u, s, vt = u[:, keep], s[keep], vt[keep]
    part = u.T @ wanted
    return wanted - u @ part, (vt.T @ (part / s)) / sizes, u


def _lengths(columns: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(..., k) of columns across the levels; infinite where the levels hold all but a rounding of the whole ones."""
    left = np.linalg.norm(columns, axis=-2)
    return np.where(left > RANK * np.linalg.norm(whole, axis=-2), left, np.inf)


def _projected_slopes(problem: Problem, exponents: np.ndarray) -> np.ndarray:
    """(n, q) Kaufman's Jacobian of the residuals."""
    _, coefficients, u = _solve_linear(problem, exponents)
    moved = slopes(problem.levels, problem.columns, coefficients, exponents)[:, -len(exponents) :]
    for column, amplitude in problem.known:
        moved += amplitude * column.printed_slopes(exponents)
    moved = problem.across(problem.weights[:, None] * moved)
    return np.asarray(u @ (u.T @ moved) - moved)


def _finished(problem: Problem, exponents: np.ndarray, converged: bool, reached: np.ndarray) -> Solution:
    residuals, coefficients, _ = _solve_linear(problem, exponents)
    rest = problem.wanted(exponents) - problem.weighted(exponents) @ coefficients
    levels = np.linalg.lstsq(problem.weights[:, None] * problem.levels, rest, rcond=RANK)[0]
    ssr = float((residuals**2).sum())
    return Solution(exponents, coefficients, levels, ssr, problem.at_bound(exponents), converged, reached)
