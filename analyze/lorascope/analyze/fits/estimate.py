"""Estimates of a law's parameters, with residuals, standard errors and predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from .design import Design
from .solve import Grid, Optimum, exponent_grid, least_squares, search, slopes

ROUNDING = 1e-11
"""Residuals below this share of the response count as rounding."""
LEAST = 1e-3
"""Fitted values below this share of the response have the tangent of the logarithm in place of the logarithm."""
N_STARTS = {1: 9, 2: 5, 3: 3}
"""Number of exponents -> starting values for each, in searches of Huber's loss or of logarithmic residuals."""


@dataclass(frozen=True)
class Estimate:
    """Parameters of a scaling law fitted to a design, with their errors, residuals and predictions."""

    design: Design
    parameters: np.ndarray
    """(p,) levels, coefficients of the centred columns, exponents."""
    loss: float
    """Half the sum of squared residuals, or the sum of Huber's losses."""
    delta: float
    """Huber's delta, in units of the residuals; infinite for least squares."""
    converged: bool
    """Whether the search for the optimum converged."""
    at_bound: tuple[str, ...]
    """Names of exponents at an end of their range."""

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fitted parameters in three arrays: levels (g,), coefficients of centred columns (k,), exponents (q,)."""
        return self.design.split(self.parameters)

    @cached_property
    def values(self) -> dict[str, float]:
        """Value of every parameter by its name, as in the printed law."""
        levels, coefficients, exponents = self.parts
        printed, amplitudes = levels.copy(), []
        for column, coefficient in zip(self.design.columns, coefficients, strict=True):
            amplitudes.append(coefficient * column.per_unit(exponents) if coefficient else 0.0)
            printed[: self.design.n_groups] -= amplitudes[-1] if column.exponents else 0.0
        return dict(zip(self.design.names, map(float, [*printed, *amplitudes, *exponents]), strict=True))

    def predicted(self, design: Design) -> np.ndarray:
        """Return the law's value (n,) for each row of any design, in the unit of the fit."""
        levels, coefficients, exponents = self.parts
        terms = [c * column.centred(exponents) for c, column in zip(coefficients, design.columns, strict=True)]
        return np.asarray(design.levels @ levels + sum(terms))

    @cached_property
    def fitted(self) -> np.ndarray:
        """Values (n,) of the law for the fitted rows, in the unit of the fit."""
        return self.predicted(self.design)

    @cached_property
    def residuals(self) -> np.ndarray:
        """Residuals (n,) of the fitted rows: relative, of the logarithm, or in the unit of the response."""
        return residuals_of(self.design, self.fitted)

    @property
    def ssr(self) -> float:
        """Sum of squared residuals."""
        return float((self.residuals**2).sum())

    @property
    def n(self) -> int:
        """Number of fitted cells, one per row of the table."""
        return len(self.design.frame)

    @property
    def df(self) -> int:
        """Degrees of freedom: number of cells minus number of parameters."""
        return self.n - len(self.parameters)

    @property
    def sigma(self) -> float:
        """Standard deviation of the residuals, with `df` in the denominator."""
        return math.sqrt(self.ssr / self.df)

    @property
    def is_exact(self) -> bool:
        """Whether all residuals are only rounding, so that the law's error can't be estimated."""
        total = float((self.design.y**2).sum()) if self.design.residual == "absolute" else float(self.n)
        return self.ssr <= ROUNDING**2 * total

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of each printed parameter by name, by linear theory; all NaN if an amplitude is infinite."""
        if not all(map(math.isfinite, self.values.values())):
            return dict.fromkeys(self.design.names, math.nan)
        columns, exponents = self.design.columns, self.parts[2]
        by_exponents = np.zeros((self.n, len(exponents)))
        for column in columns:
            by_exponents += self.values[column.amplitude] * column.printed_slopes(exponents)
        terms = [column.printed(exponents) for column in columns]
        root = self._covariance_root(np.column_stack([self.design.levels, *terms, by_exponents]))
        return dict(zip(self.design.names, map(float, self.sigma * np.linalg.norm(root, axis=1)), strict=True))

    def prediction_errors(self, design: Design) -> np.ndarray:
        """Return standard errors (n,) of `predicted` for a design's rows, by linear theory."""
        fitted, rows = (slopes(cells.levels, cells.columns, *self.parts[1:]) for cells in (self.design, design))
        return np.asarray(self.sigma * np.linalg.norm(rows @ self._covariance_root(fitted), axis=1))

    def _covariance_root(self, jacobian: np.ndarray) -> np.ndarray:
        """Return a square root (p, p) of the parameters' covariance at sigma 1, from the law's `jacobian` (n, p).

        Times its transpose it is inverse(J' J), for J weighted like the residuals.
        """
        scale = 1 / self.fitted if self.design.residual == "log" else self.design.weights
        jacobian = jacobian * scale[:, None]
        norms = np.linalg.norm(jacobian, axis=0)
        norms[norms == 0] = 1
        _, s, vt = np.linalg.svd(jacobian / norms, full_matrices=False)
        return np.asarray((vt.T / np.maximum(s, 1e-300)) / norms[:, None])


def residuals_of(design: Design, predicted: np.ndarray) -> np.ndarray:
    """Return residuals (n,) of a design's rows from `predicted`; infinite if a prediction has no logarithm."""
    if design.residual != "log":
        return np.asarray((design.y - predicted) * design.weights)
    return np.where(predicted > 0, np.log(design.y / np.where(predicted > 0, predicted, 1)), np.inf)


def estimate(
    design: Design, *, delta: float = math.inf, starts: Sequence[np.ndarray] = (), grid: Grid = "fine"
) -> Estimate:
    """Fit a design's law: search the least loss from a grid of exponents and from further `starts` (q,)."""
    problem, q = design.problem, len(design.exponents)
    solution = least_squares(problem, starts, grid=grid)
    at, loss, converged = solution.parameters, solution.ssr / 2, solution.converged
    if math.isfinite(delta) or design.residual == "log":
        axes = [exponent_grid(low, high, N_STARTS[q] + 2)[1:-1] for low, high in design.bounds]
        fixed = [*starts, *(map(np.array, product(*axes)) if q and grid == "fine" else ())]
        solutions = [solution, *(least_squares(replace(problem, bounds=np.stack([e, e], axis=1))) for e in fixed)]
        optima = [_minimize(design, delta, each.parameters, method="trf", max_nfev=300) for each in solutions]
        at, loss, converged = _minimize(design, delta, min(optima, key=lambda optimum: optimum[1])[0])
    at_bound = tuple(design.exponents[k] for k in np.flatnonzero(problem.at_bound(at[len(at) - q :])))
    return Estimate(design, at, loss, delta, converged, at_bound)


def _minimize(design: Design, delta: float, start: np.ndarray, **options: Any) -> Optimum:
    """Return parameters (p,) of least Huber or logarithmic loss near `start`, the loss, and convergence."""
    bounds = np.full((len(start), 2), (-math.inf, math.inf))
    bounds[len(start) - len(design.exponents) :] = design.bounds

    def residuals_and_jacobian(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return residuals (n,) and their derivatives (n, p) at these parameters (p,)."""
        levels, coefficients, exponents = design.split(parameters)
        derivatives = slopes(design.levels, design.columns, coefficients, exponents)
        n_linear = len(levels) + len(coefficients)
        values = derivatives[:, :n_linear] @ parameters[:n_linear]
        if design.residual != "log":
            return (design.y - values) * design.weights, -derivatives * design.weights[:, None]
        ratio = values / design.y
        safe = np.maximum(ratio, LEAST)
        return -np.log(safe) - np.minimum(ratio / LEAST - 1, 0), -derivatives / (safe * design.y)[:, None]

    return search(
        lambda at: residuals_and_jacobian(at)[0], lambda at: residuals_and_jacobian(at)[1], start, bounds, delta=delta,
        x_scale="jac", **options,
    )  # fmt: skip
