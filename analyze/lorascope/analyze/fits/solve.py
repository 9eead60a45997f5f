"""Solve least squares of a law by variable projection: search exponents, solve linear parameters exactly.

Golub, Pereyra (1973), SIAM J. Numer. Anal. 10, 413; Kaufman (1975), BIT 15, 49, whose gradient is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from .laws import Column

Grid = Literal["fine", "coarse"]
"""Kind of search over exponents; a search with a good start is coarse."""
N_GRID: Mapping[Grid, Mapping[int, int]] = {"fine": {1: 241, 2: 45, 3: 19}, "coarse": {1: 41, 2: 13, 3: 7}}
"""Kind of search -> number of exponents -> grid points for each."""
N_POLISHED: Mapping[Grid, int] = {"fine": 4, "coarse": 2}
"""Kind of search -> number of local minima of the grid that are refined."""
SPREAD = 0.5
"""Exponent below which a grid is even; above it, the grid is even in the logarithm."""
RANK = 1e-12
"""Singular values below this share of the largest count as zero."""
AT_BOUND = 1e-6
"""Distance from an end of the range, as a share of it, below which an exponent counts as being at its bound."""


@dataclass(frozen=True)
class Problem:
    """Least squares of a law: minimise sum (weights * (target - levels @ e - terms))**2 over all parameters.

    Levels and coefficients of the terms are linear; exponents are searched. `target` and `weights` are (n,).
    """

    target: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    """(n, g) columns of groups and offsets, whose span contains the constant."""
    columns: tuple[Column, ...]
    bounds: np.ndarray
    """(q, 2) smallest and largest exponent; a fixed exponent has two equal ends."""
    known: tuple[tuple[Column, float], ...] = ()
    """Printed terms with a fixed amplitude."""

    @cached_property
    def basis(self) -> np.ndarray:
        """Orthonormal basis (n, rank) of the weighted levels, the columns of groups and offsets."""
        return column_basis(self.weights[:, None] * self.levels, RANK)

    @property
    def free(self) -> np.ndarray:
        """Positions of the exponents that aren't fixed."""
        return np.flatnonzero(self.bounds[:, 0] < self.bounds[:, 1])

    def fix(self, position: int, value: float) -> "Problem":
        """Return the problem with the exponent at `position` fixed to `value`."""
        bounds = self.bounds.copy()
        bounds[position] = value
        return replace(self, bounds=bounds)

    def fix_amplitude(self, position: int, value: float) -> "Problem":
        """Return the problem with the printed amplitude of the column at `position` fixed to `value`."""
        rest = self.columns[:position] + self.columns[position + 1 :]
        return replace(self, columns=rest, known=(*self.known, (self.columns[position], value)))

    def at_bound(self, exponents: np.ndarray) -> np.ndarray:
        """Return whether each exponent is free and at an end of its range, bool (q,)."""
        low, high = self.bounds.T
        near = AT_BOUND * (high - low)
        return np.asarray((high > low) & ((exponents - low <= near) | (high - exponents <= near)))

    def weighted(self, exponents: np.ndarray) -> np.ndarray:
        """Return the law's columns times the weights, (..., n, k), at exponents (..., q)."""
        if not self.columns:
            return np.zeros((*exponents.shape[:-1], len(self.target), 0))
        terms = np.stack([column.centred(exponents) for column in self.columns], axis=-1)
        return np.asarray(terms * self.weights[:, None])

    def unexplained(self, exponents: np.ndarray) -> np.ndarray:
        """Return the weighted target minus terms of known amplitude, (..., n), at exponents (..., q)."""
        known = sum(amplitude * column.printed(exponents) for column, amplitude in self.known)
        return np.asarray(self.weights * (self.target - known))

    def without_levels(self, columns: np.ndarray) -> np.ndarray:
        """Return columns (..., n, k) minus their projection on the levels of groups and offsets."""
        return np.asarray(columns - self.basis @ (self.basis.T @ columns))


class Solution(NamedTuple):
    """Solution of a `Problem`: exponents (q,), coefficients of the columns (k,) and levels (g,) of least squares."""

    exponents: np.ndarray
    coefficients: np.ndarray
    levels: np.ndarray
    """(g,) coefficients of the levels, with the least norm if levels overlap."""
    ssr: float
    """Sum of squared residuals."""
    converged: bool


def column_basis(columns: np.ndarray, rcond: float) -> np.ndarray:
    """Return an orthonormal basis (n, rank) of the columns' span; `rcond` is the cutoff of `np.linalg.lstsq`."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, s > rcond * s[:1].sum()])


def slopes(
    levels: np.ndarray, columns: Sequence[Column], coefficients: np.ndarray, exponents: np.ndarray
) -> np.ndarray:
    """Return the Jacobian (n, p) of a law: its derivatives by levels, coefficients (k,) and exponents (q,)."""
    by_exponents = np.zeros((len(levels), len(exponents)))
    for coefficient, column in zip(coefficients, columns, strict=True):
        by_exponents += coefficient * column.centred_slopes(exponents)
    return np.column_stack([levels, *(column.centred(exponents) for column in columns), by_exponents])


def exponent_grid(low: float, high: float, n: int) -> np.ndarray:
    """Return n exponents from `low` to `high`, evenly spaced in asinh(exponent / SPREAD), so dense near 0."""
    grid = SPREAD * np.sinh(np.linspace(np.arcsinh(low / SPREAD), np.arcsinh(high / SPREAD), n))
    grid[0], grid[-1] = low, high
    return np.asarray(grid)


def least_squares(problem: Problem, starts: Sequence[np.ndarray] = (), *, grid: Grid = "fine") -> Solution:
    """Return the best solution of a problem, from minima of a grid of exponents and from further `starts` (q,)."""
    if not len(problem.free):
        return _solution_at(problem, problem.bounds[:, 0].copy(), True)
    optima = [_polish(problem, np.clip(start, *problem.bounds.T)) for start in (*starts, *_grid_minima(problem, grid))]
    exponents, _, converged = min(optima, key=lambda optimum: optimum[1])
    return _solution_at(problem, exponents, converged)


def _grid_minima(problem: Problem, grid: Grid) -> list[np.ndarray]:
    """Return the exponents (q,) at the lowest local minima of the sum of squares on a grid, lowest first."""
    n = N_GRID[grid].get(len(problem.free), 1)
    axes = [exponent_grid(low, high, n) if low < high else np.array([low]) for low, high in problem.bounds]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    whole = problem.weighted(points)
    columns = problem.without_levels(whole)
    u, s, _ = np.linalg.svd(columns / _projected_norms(columns, whole)[:, None, :], full_matrices=False)
    bases = u * (s > RANK**0.5 * s[:, :1])[:, None, :]  # zeros if columns depend on each other
    rest = problem.without_levels(problem.unexplained(points)[..., None])
    explained = bases.transpose(0, 2, 1) @ rest
    ssr = (rest**2).sum(axis=(-2, -1)) - (explained**2).sum(axis=(-2, -1))
    return list(points[local_minima(ssr.reshape([len(axis) for axis in axes]))[: N_POLISHED[grid]]])


def local_minima(values: np.ndarray) -> np.ndarray:
    """Return flat indices of the local minima of values on a grid, lowest first; neighbours share an edge."""
    from scipy import ndimage  # type: ignore[import-untyped]

    cross = ndimage.generate_binary_structure(values.ndim, 1)
    indices = np.flatnonzero(values == ndimage.minimum_filter(values, footprint=cross, mode="nearest"))
    return np.asarray(indices[np.argsort(values.ravel()[indices], kind="stable")])


def _polish(problem: Problem, start: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Return the exponents (q,) at the local minimum near `start`, half the sum of squares, and convergence."""
    from scipy import optimize

    free = problem.free

    def all_exponents(values: np.ndarray) -> np.ndarray:
        """Return all exponents (q,): `values` for the free ones, and those of the start for the fixed ones."""
        exponents = start.astype(np.float64)
        exponents[free] = values
        return exponents

    scale = float(np.abs(_solve_linear(problem, all_exponents(start[free]))[0]).max()) or 1.0  # tolerances are absolute
    optimum: Any = optimize.least_squares(
        lambda values: _solve_linear(problem, all_exponents(values))[0] / scale, start[free],
        jac=lambda values: _projected_slopes(problem, all_exponents(values))[:, free] / scale,
        bounds=problem.bounds[free].T, method="dogbox", xtol=1e-12, ftol=1e-15, gtol=1e-15,
        x_scale=np.maximum(np.abs(start[free]), 0.1), max_nfev=200,
    )  # fmt: skip
    return all_exponents(optimum.x), float(optimum.cost) * scale**2, bool(optimum.status > 0)


def _solve_linear(problem: Problem, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weighted residuals (n,), coefficients (k,) and an orthonormal basis (n, k) of columns without levels."""
    target = problem.without_levels(problem.unexplained(exponents)[:, None])[:, 0]
    whole = problem.weighted(exponents)
    columns = problem.without_levels(whole)
    norms = _projected_norms(columns, whole)
    u, s, vt = np.linalg.svd(columns / norms, full_matrices=False)
    is_used = s > RANK * s[:1].sum()
    u, s, vt = u[:, is_used], s[is_used], vt[is_used]
    part = u.T @ target
    return target - u @ part, (vt.T @ (part / s)) / norms, u


def _projected_norms(columns: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return norms (..., k) of projected `columns`; infinite if only rounding of the `whole` column remains."""
    norms = np.linalg.norm(columns, axis=-2)
    return np.where(norms > RANK * np.linalg.norm(whole, axis=-2), norms, np.inf)


def _projected_slopes(problem: Problem, exponents: np.ndarray) -> np.ndarray:
    """Return the Jacobian (n, q) of the residuals by exponents, with linear parameters solved (Kaufman)."""
    _, coefficients, u = _solve_linear(problem, exponents)
    derivatives = slopes(problem.levels, problem.columns, coefficients, exponents)[:, -len(exponents) :]
    for column, amplitude in problem.known:
        derivatives += amplitude * column.printed_slopes(exponents)
    derivatives = problem.without_levels(problem.weights[:, None] * derivatives)
    return np.asarray(u @ (u.T @ derivatives) - derivatives)


def _solution_at(problem: Problem, exponents: np.ndarray, converged: bool) -> Solution:
    """Return the solution of a problem at given exponents: its linear parameters are solved exactly."""
    residuals, coefficients, _ = _solve_linear(problem, exponents)
    rest = problem.unexplained(exponents) - problem.weighted(exponents) @ coefficients
    levels = np.linalg.lstsq(problem.weights[:, None] * problem.levels, rest, rcond=RANK)[0]
    return Solution(exponents, coefficients, levels, float((residuals**2).sum()), converged)
