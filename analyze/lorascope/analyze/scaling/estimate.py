"""A law's parameters from a design, and what follows from them without another fit."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .design import Design
from .robust import minimise
from .solve import Grid, Solution, exponent_grid, least_squares, slopes

__all__ = ["Estimate", "Search", "estimate", "residuals_of"]

ROUNDING = 1e-11
"""Residuals below this share of the response are nothing but rounding."""
AGREE = 1e-5
"""Share of the best loss by which a rough search may miss it and count as having ended there."""


class Search(NamedTuple):
    """How far the optimum can be trusted to be the optimum."""

    converged: bool
    at_bound: tuple[str, ...]
    """Exponents that lie at an end of their range."""
    n_starts: int
    """Random starts, beside those from a grid."""
    share_of_starts: float
    """Share of the random starts that ended at the best optimum; NaN if there were none."""


@dataclass(frozen=True)
class Estimate:
    """Parameters of a design's law."""

    design: Design
    parameters: np.ndarray
    """(p,) levels, coefficients of the centred columns, exponents."""
    loss: float
    """Half the sum of squared residuals, or the sum of Huber's losses."""
    delta: float
    """Huber's delta, in units of the residuals; infinite for least squares."""
    search: Search

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels (g,), coefficients of centred columns (k,) and exponents (q,)."""
        g, k = len(self.design.level_names), len(self.design.columns)
        levels, coefficients, exponents = np.split(self.parameters, [g, g + k])
        return levels, coefficients, exponents

    @cached_property
    def values(self) -> dict[str, float]:
        """Name -> value of every parameter, as the law is printed."""
        levels, coefficients, exponents = self.parts
        printed = levels.copy()
        amplitudes = []
        for column, coefficient in zip(self.design.columns, coefficients, strict=True):
            amplitude = coefficient * column.per_unit(exponents) if coefficient else 0.0
            printed[: len(levels) - self.design.n_offsets] -= amplitude * column.constant(exponents)
            amplitudes.append(amplitude)
        return dict(zip(self.design.names, map(float, [*printed, *amplitudes, *exponents]), strict=True))

    def predicted(self, design: Design) -> np.ndarray:
        """(n,) what the law says of the rows of a design of the same law, in the unit of the fit."""
        levels, coefficients, exponents = self.parts
        terms = [c * one.centred(exponents) for c, one in zip(coefficients, design.columns, strict=True)]
        return np.asarray(design.levels @ levels + sum(terms, start=np.zeros(len(design.frame))))

    @cached_property
    def fitted(self) -> np.ndarray:
        """(n,) what the law says of the rows of the fit."""
        return self.predicted(self.design)

    @cached_property
    def residuals(self) -> np.ndarray:
        """(n,) in units of the fit: relative, of the logarithm, or of the response."""
        return residuals_of(self.design, self.fitted)

    @property
    def ssr(self) -> float:
        """Sum of squared residuals."""
        return float((self.residuals**2).sum())

    @property
    def n(self) -> int:
        """Cells."""
        return len(self.design.frame)

    @property
    def df(self) -> int:
        """Cells less parameters."""
        return self.n - len(self.parameters)

    @property
    def sigma(self) -> float:
        """Standard deviation of the residuals, degrees of freedom taken off."""
        return math.sqrt(self.ssr / self.df)

    @property
    def is_exact(self) -> bool:
        """Whether the law goes through every cell but for rounding, so that nothing tells how far it may be off."""
        unit = float((self.design.y**2).sum()) if self.design.residual == "absolute" else float(self.n)
        return self.ssr <= ROUNDING**2 * unit

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Name -> standard error of the printed parameter, by linear theory; NaN where an amplitude is infinite."""
        if not all(map(math.isfinite, self.values.values())):
            return dict.fromkeys(self.design.names, math.nan)
        columns, exponents = self.design.columns, self.parts[2]
        moved = np.zeros((self.n, len(exponents)))
        for one in columns:
            moved += self.values[one.amplitude] * one.printed_slopes(exponents)
        half = self._half(np.column_stack([self.design.levels, *(one.printed(exponents) for one in columns), moved]))
        return dict(zip(self.design.names, map(float, self.sigma * np.linalg.norm(half, axis=1)), strict=True))

    def prediction_errors(self, design: Design) -> np.ndarray:
        """(n,) standard errors of `predicted`, by linear theory, which doesn't depend on how a law is written."""
        own, asked = (slopes(one.levels, one.columns, *self.parts[1:]) for one in (self.design, design))
        return np.asarray(self.sigma * np.linalg.norm(asked @ self._half(own), axis=1))

    def _half(self, jacobian: np.ndarray) -> np.ndarray:
        """(p, p) half of the inverse of J' J of the residuals, whose product with its transpose is the whole."""
        scale = 1 / self.fitted if self.design.residual == "log" else self.design.weights
        jacobian = jacobian * scale[:, None]
        sizes = np.linalg.norm(jacobian, axis=0)
        sizes[sizes == 0] = 1
        _, s, vt = np.linalg.svd(jacobian / sizes, full_matrices=False)
        return np.asarray((vt.T / np.maximum(s, 1e-300)) / sizes[:, None])


def residuals_of(design: Design, predicted: np.ndarray) -> np.ndarray:
    """(n,) residuals of a design's rows where the law says this; infinite where a logarithm has none."""
    if design.residual != "log":
        return np.asarray((design.y - predicted) * design.weights)
    return np.where(predicted > 0, np.log(design.y / np.where(predicted > 0, predicted, 1)), np.inf)


def estimate(
    design: Design, *, delta: float = math.inf, n_starts: int = 0, random: np.random.Generator | None = None,
    starts: tuple[np.ndarray, ...] = (), grid: Grid = "fine",
) -> Estimate:  # fmt: skip
    """The parameters with the least loss, from a grid, from random exponents, and from further `starts` (q,)."""
    drawn = _random_exponents(design, n_starts, random or np.random.default_rng(0)) if len(design.exponents) else []
    solution = least_squares(design.problem, (*drawn, *starts), grid=grid)
    at, loss, converged = _pack(solution), solution.ssr / 2, solution.converged
    reached = solution.reached[: len(drawn)]
    if math.isfinite(delta) or design.residual == "log":
        begins = [
            at,
            *(
                _pack(least_squares(replace(design.problem, bounds=np.stack([one, one], axis=1))))
                for one in (*drawn, *starts)
            ),
        ]
        ends = [minimise(design, delta, begin, is_rough=True) for begin in begins]
        at, loss, converged = minimise(design, delta, min(ends, key=lambda end: end[1])[0])
        reached = np.array([end[1] <= loss * (1 + AGREE) for end in ends[1 : 1 + len(drawn)]], bool)
    bounded = design.problem.at_bound(at[len(at) - len(design.exponents) :])
    share = float(reached.mean()) if len(reached) else 1.0 if n_starts else math.nan
    names = tuple(name for name, is_at in zip(design.exponents, bounded, strict=True) if is_at)
    return Estimate(design, at, loss, delta, Search(converged, names, n_starts, share))


def _pack(solution: Solution) -> np.ndarray:
    return np.concatenate([solution.levels, solution.coefficients, solution.exponents])


def _random_exponents(design: Design, n: int, random: np.random.Generator) -> list[np.ndarray]:
    """Exponents (q,) drawn over their whole ranges."""
    grids = [exponent_grid(low, high, 1001) for low, high in design.bounds]
    return [np.array([grid[random.integers(1001)] for grid in grids]) for _ in range(n)]
