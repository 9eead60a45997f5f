"""A law's parameters from a design, and what follows from them without another fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .design import Design
from .solve import Grid, Optimum, Solution, exponent_grid, least_squares, search, slopes

HUBER = 1.345
"""Huber's delta over the standard deviation of normal residuals: 95 % as efficient as least squares."""
MAD_TO_SD = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
ROUNDING = 1e-11
"""Residuals below this share of the response are nothing but rounding."""
LEAST = 1e-3
"""Share of the response below which a fitted value's logarithm goes on as a straight line."""
AGREE = 1e-5
"""Share of the best loss by which a search may miss it and count as having ended there."""


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
        return _parts(self.design, self.parameters)

    @cached_property
    def values(self) -> dict[str, float]:
        """Name -> value of every parameter, as the law is printed."""
        levels, coefficients, exponents = self.parts
        printed, amplitudes = levels.copy(), []
        for column, coefficient in zip(self.design.columns, coefficients, strict=True):
            amplitudes.append(coefficient * column.per_unit(exponents) if coefficient else 0.0)
            printed[: self.design.n_groups] -= amplitudes[-1] if column.exponents else 0.0
        return dict(zip(self.design.names, map(float, [*printed, *amplitudes, *exponents]), strict=True))

    def predicted(self, design: Design) -> np.ndarray:
        """(n,) what the law says of the rows of a design of the same law, in the unit of the fit."""
        levels, coefficients, exponents = self.parts
        terms = [c * one.centred(exponents) for c, one in zip(coefficients, design.columns, strict=True)]
        return np.asarray(design.levels @ levels + sum(terms))

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


def automatic_delta(residuals: np.ndarray) -> float:
    """Huber's delta for residuals: 1.345 times their median absolute deviation, as a standard deviation.

    Raises ValueError if half of the residuals or more are 0.
    """
    spread = MAD_TO_SD * float(np.median(np.abs(residuals - np.median(residuals))))
    if spread <= 1e-14:
        raise ValueError("half of the residuals are 0, so that no `huber` delta follows from them; give it as a number")
    return HUBER * spread


def estimate(
    design: Design, *, delta: float = math.inf, n_starts: int = 0, random: np.random.Generator | None = None,
    starts: Sequence[np.ndarray] = (), grid: Grid = "fine",
) -> Estimate:  # fmt: skip
    """The parameters with the least loss, from a grid, from random exponents, and from further `starts` (q,)."""
    problem, q, drawn = design.problem, len(design.exponents), list[np.ndarray]()
    if q and random is not None:
        grids = [exponent_grid(low, high, 1001) for low, high in design.bounds]
        drawn = [np.array([one[random.integers(1001)] for one in grids]) for _ in range(n_starts)]
    solution = least_squares(problem, (*drawn, *starts), grid=grid)
    at, loss, converged, reached = _pack(solution), solution.ssr / 2, solution.converged, solution.reached
    if math.isfinite(delta) or design.residual == "log":
        held = [replace(problem, bounds=np.stack([one, one], axis=1)) for one in (*drawn, *starts)]
        begins = [at, *(_pack(least_squares(one)) for one in held)]
        ends = [_minimise(design, delta, begin, method="trf", max_nfev=300) for begin in begins]
        at, loss, converged = _minimise(design, delta, min(ends, key=lambda end: end[1])[0])
        reached = np.array([end[1] <= loss * (1 + AGREE) for end in ends[1:]], bool)
    bounded = tuple(design.exponents[place] for place in np.flatnonzero(problem.at_bound(at[len(at) - q :])))
    share = float(reached[: len(drawn)].mean()) if drawn else 1.0 if n_starts else math.nan
    return Estimate(design, at, loss, delta, Search(converged, bounded, n_starts, share))


def _pack(solution: Solution) -> np.ndarray:
    return np.concatenate([solution.levels, solution.coefficients, solution.exponents])


def _parts(design: Design, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g, k = len(design.level_names), len(design.columns)
    return parameters[:g], parameters[g : g + k], parameters[g + k :]


def _minimise(design: Design, delta: float, begin: np.ndarray, **options: Any) -> Optimum:
    """The least loss over all parameters (p,) at once: Huber's, or squares of residuals of the logarithm."""
    bounds = np.full((len(begin), 2), (-math.inf, math.inf))
    bounds[len(begin) - len(design.exponents) :] = design.bounds

    def at(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (n,) and their derivatives (n, p)."""
        levels, coefficients, exponents = _parts(design, parameters)
        moved = slopes(design.levels, design.columns, coefficients, exponents)
        values = moved[:, : len(levels) + len(coefficients)] @ parameters[: len(levels) + len(coefficients)]
        if design.residual != "log":
            return (design.y - values) * design.weights, -moved * design.weights[:, None]
        ratio = values / design.y
        safe = np.maximum(ratio, LEAST)
        return -np.log(safe) - np.minimum(ratio / LEAST - 1, 0), -moved / (safe * design.y)[:, None]

    return search(lambda p: at(p)[0], lambda p: at(p)[1], begin, bounds, delta=delta, x_scale="jac", **options)
