"""A law's parameters from a design, and what follows from them without another fit."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .design import Design
from .objective import AGREE, Minimum, Objective, descend, minimise, random_starts
from .solve import Grid, Solution, least_squares

__all__ = ["Estimate", "Search", "estimated", "residuals_of", "solved"]

ROUNDING = 1e-11
"""Residuals below this share of the response are nothing but rounding."""


class Search(NamedTuple):
    """How far the optimum can be trusted to be the optimum."""

    converged: bool
    at_bound: tuple[str, ...]
    """Exponents that lie at an end of their range."""
    share_of_minima: float
    """Of the searches from the lowest minima of the grid, those that ended at the best."""
    n_starts: int
    """Random starts of the second method, L-BFGS on all parameters at once."""
    share_of_starts: float
    """Of them, those that ended at the best optimum, to a millionth of its loss; NaN if there were none."""
    found_better: float
    """By what share of the loss the second method was better than the first, before it took over; 0 if it wasn't."""
    spread: float
    """Largest difference of an exponent among the starts that ended at the best."""


@dataclass(frozen=True)
class Estimate:
    """Parameters of a design's law."""

    design: Design
    parameters: np.ndarray
    """(p,) levels, coefficients of the centred columns, exponents."""
    loss: float
    """Half the sum of squared residuals, or the sum of Huber's losses."""
    delta: float
    """Huber's, in units of the residuals; infinite for least squares."""
    counts: np.ndarray | None
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

    def jacobian(self) -> np.ndarray:
        """(n, p) derivatives of what the law says by its parameters as printed."""
        exponents = self.parts[2]
        columns = [one.printed(exponents) for one in self.design.columns]
        slopes = np.zeros((self.n, len(exponents)))
        for one in self.design.columns:
            slopes += self.values[one.amplitude] * one.printed_slopes(exponents)
        return np.column_stack([self.design.levels, *columns, slopes])

    @cached_property
    def covariance(self) -> np.ndarray:
        """(p, p) of the printed parameters: sigma squared times the inverse of J' J of the residuals; linear theory.

        NaN where an exponent is 0, and its amplitude infinite.
        """
        if not all(map(math.isfinite, self.values.values())):
            return np.full((len(self.parameters), len(self.parameters)), math.nan)
        half = self._half(self.jacobian())
        return np.asarray(self.sigma**2 * half @ half.T)

    def _half(self, jacobian: np.ndarray) -> np.ndarray:
        """(p, p) half of the inverse of J' J of the residuals, whose product with its transpose is the whole."""
        jacobian = jacobian * self.residual_scale(self.design, self.fitted)[:, None]
        sizes = np.linalg.norm(jacobian, axis=0)
        sizes[sizes == 0] = 1
        _, s, vt = np.linalg.svd(jacobian / sizes, full_matrices=False)
        return np.asarray((vt.T / np.maximum(s, 1e-300)) / sizes[:, None])

    def prediction_errors(self, design: Design) -> np.ndarray:
        """(n,) standard errors of `predicted`, by linear theory.

        They don't depend on how a law is written; centred columns stay apart also where an exponent is close to 0.
        """
        half = self._half(self._centred_jacobian(self.design))
        return np.asarray(self.sigma * np.linalg.norm(self._centred_jacobian(design) @ half, axis=1))

    def _centred_jacobian(self, design: Design) -> np.ndarray:
        """(n, p) derivatives of what the law says by its parameters as they are searched."""
        _, coefficients, exponents = self.parts
        columns = [one.centred(exponents) for one in design.columns]
        slopes = np.zeros((len(design.frame), len(exponents)))
        for coefficient, one in zip(coefficients, design.columns, strict=True):
            slopes += coefficient * one.centred_slopes(exponents)
        return np.column_stack([design.levels, *columns, slopes])

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Name -> standard error by linear theory."""
        return dict(zip(self.design.names, map(float, np.sqrt(np.diag(self.covariance))), strict=True))

    @staticmethod
    def residual_scale(design: Design, fitted: np.ndarray) -> np.ndarray:
        """(n,) by how much a residual moves with what the law says, without sign."""
        return 1 / fitted if design.residual == "log" else design.weights


def residuals_of(design: Design, predicted: np.ndarray) -> np.ndarray:
    """(n,) residuals of a design's rows where the law says this."""
    if design.residual != "log":
        return np.asarray((design.y - predicted) * design.weights)
    if (predicted <= 0).any():
        return np.where(predicted > 0, np.log(design.y / np.where(predicted > 0, predicted, 1)), np.inf)
    return np.asarray(np.log(design.y / predicted))


def estimated(
    design: Design, *, delta: float = math.inf, counts: np.ndarray | None = None, n_starts: int = 0,
    random: np.random.Generator | None = None, starts: tuple[np.ndarray, ...] = (), grid: Grid = "fine",
) -> Estimate:  # fmt: skip
    """The parameters with the least loss.

    Parameters
    ----------
    design
        What is fitted.
    delta
        Huber's, in units of the residuals.
    counts
        (n,) how often each row counts.
    n_starts
        Random starts of L-BFGS on all parameters at once, as a check.
    random
        Draws these.
    starts
        (q,) exponents from which to search as well.
    grid
        Of exponents at which to look first.
    """
    objective = Objective(design.problem, design.residual, delta, counts)
    solution, found = solved(objective, starts, grid=grid)
    at, value, converged = found.parameters, found.value, found.converged
    begins = random_starts(objective, n_starts, random or np.random.default_rng(0)) if n_starts else []
    ends = [descend(objective, begin) for begin in begins]
    best = min([value, *(end[1] for end in ends)])
    better = (value - best) / value if value > 0 else 0.0
    if better > AGREE:
        at = minimise(objective, solution, [min(ends, key=lambda end: end[1])[0]]).parameters
        value = float(objective.value(at)[0])
    reached = [end[0][len(at) - len(design.exponents) :] for end in ends if end[1] <= value * (1 + AGREE)]
    spread = float(np.ptp(np.stack(reached), axis=0).max()) if reached and design.exponents else 0.0
    search = Search(
        converged=converged,
        at_bound=_at_bound(design, at[len(at) - len(design.exponents) :]),
        share_of_minima=solution.share_at_best,
        n_starts=n_starts,
        share_of_starts=len(reached) / n_starts if n_starts else math.nan,
        found_better=better if better > AGREE else 0.0,
        spread=spread,
    )
    return Estimate(design, at, value, delta, counts, search)


def solved(
    objective: Objective, starts: tuple[np.ndarray, ...] = (), *, grid: Grid = "fine"
) -> tuple[Solution, Minimum]:
    """The least squares of an objective's problem, and the least loss, which is the same where the loss is square."""
    problem = objective.problem
    if objective.counts is not None:
        problem = replace(problem, weights=problem.weights * np.sqrt(objective.counts))
    solution = least_squares(problem, starts, grid=grid)
    if math.isfinite(objective.delta) or objective.residual == "log":
        return solution, minimise(objective, solution)
    at = objective.pack(solution)
    return solution, Minimum(at, float(objective.value(at)[0]), solution.converged, solution.share_at_best)


def _at_bound(design: Design, exponents: np.ndarray) -> tuple[str, ...]:
    low, high = design.bounds.T
    near = 1e-6 * (high - low)
    return tuple(
        name
        for name, at, below, above, margin in zip(design.exponents, exponents, low, high, near, strict=True)
        if at - below <= margin or above - at <= margin
    )
