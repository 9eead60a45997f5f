"""Estimates of a law's parameters, with residuals, standard errors and predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .design import Design
from .solve import Grid, Solution, least_squares, slopes

ROUNDING = 1e-11
"""Residuals below this share of the response count as rounding."""


@dataclass(frozen=True)
class Estimate:
    """Parameters of a scaling law fitted to a design, with their errors, residuals and predictions."""

    design: Design
    solution: Solution
    """Levels, coefficients of the centred columns and exponents, and whether the search for them converged."""

    @property
    def at_bound(self) -> tuple[str, ...]:
        """Names of exponents at an end of their range."""
        is_at_bound = self.design.problem.at_bound(self.solution.exponents)
        return tuple(self.design.exponents[k] for k in np.flatnonzero(is_at_bound))

    @cached_property
    def values(self) -> dict[str, float]:
        """Value of every parameter by its name, as in the printed law."""
        exponents, printed, amplitudes = self.solution.exponents, self.solution.levels.copy(), []
        for column, coefficient in zip(self.design.columns, self.solution.coefficients, strict=True):
            amplitudes.append(coefficient * column.per_unit(exponents) if coefficient else 0.0)
            printed[: self.design.n_groups] -= amplitudes[-1] if column.exponents else 0.0
        return dict(zip(self.design.names, map(float, [*printed, *amplitudes, *exponents]), strict=True))

    def predicted(self, design: Design) -> np.ndarray:
        """Return the law's value (n,) for each row of any design, in the unit of the fit."""
        exponents, coefficients, levels, *_ = self.solution
        terms = [c * column.centred(exponents) for c, column in zip(coefficients, design.columns, strict=True)]
        return np.asarray(design.levels @ levels + sum(terms))

    @cached_property
    def fitted(self) -> np.ndarray:
        """Values (n,) of the law for the fitted rows, in the unit of the fit."""
        return self.predicted(self.design)

    @cached_property
    def residuals(self) -> np.ndarray:
        """Residuals (n,) of the fitted rows: relative, or in the unit of the fit."""
        return np.asarray((self.design.y - self.fitted) * self.design.weights)

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
        return self.n - len(self.design.names)

    @property
    def sigma(self) -> float:
        """Standard deviation of the residuals, with `df` in the denominator."""
        return math.sqrt(self.ssr / self.df)

    @property
    def is_exact(self) -> bool:
        """Whether all residuals are only rounding, so that the law's error can't be estimated."""
        return self.ssr <= ROUNDING**2 * float(((self.design.y * self.design.weights) ** 2).sum())

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of each printed parameter by name, by linear theory; all NaN if an amplitude is infinite."""
        if not all(map(math.isfinite, self.values.values())):
            return dict.fromkeys(self.design.names, math.nan)
        columns, exponents = self.design.columns, self.solution.exponents
        by_exponents = np.zeros((self.n, len(exponents)))
        for column in columns:
            by_exponents += self.values[column.amplitude] * column.printed_slopes(exponents)
        terms = [column.printed(exponents) for column in columns]
        root = self._covariance_root(np.column_stack([self.design.levels, *terms, by_exponents]))
        return dict(zip(self.design.names, map(float, self.sigma * np.linalg.norm(root, axis=1)), strict=True))

    def prediction_errors(self, design: Design) -> np.ndarray:
        """Return standard errors (n,) of `predicted` for a design's rows, by linear theory."""
        exponents, coefficients, *_ = self.solution
        fitted, rows = (slopes(at.levels, at.columns, coefficients, exponents) for at in (self.design, design))
        return np.asarray(self.sigma * np.linalg.norm(rows @ self._covariance_root(fitted), axis=1))

    def _covariance_root(self, jacobian: np.ndarray) -> np.ndarray:
        """Return a square root (p, p) of the parameters' covariance at sigma 1, from the law's `jacobian` (n, p).

        Times its transpose it is inverse(J' J), for J weighted like the residuals.
        """
        jacobian = jacobian * self.design.weights[:, None]
        norms = np.linalg.norm(jacobian, axis=0)
        norms[norms == 0] = 1
        _, s, vt = np.linalg.svd(jacobian / norms, full_matrices=False)
        return np.asarray((vt.T / np.maximum(s, 1e-300)) / norms[:, None])


def estimate(design: Design, *, starts: Sequence[np.ndarray] = (), grid: Grid = "fine") -> Estimate:
    """Fit a design's law: search the least sum of squares from a grid of exponents and from further `starts` (q,)."""
    return Estimate(design, least_squares(design.problem, starts, grid=grid))
