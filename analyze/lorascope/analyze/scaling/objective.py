"""The loss of a law over all its parameters: relative, logarithmic or absolute residuals, squared or Huber's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from .solve import Problem, Solution, exponent_grid, least_squares

__all__ = ["HUBER", "MAD_TO_SD", "Minimum", "Objective", "Residual", "automatic_delta", "minimise", "random_starts"]

Residual = Literal["relative", "log", "absolute"]
HUBER = 1.345
"""Huber's delta over the standard deviation of normal residuals: 95 % as efficient as least squares."""
MAD_TO_SD = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST = 1e-3
"""Share of the response below which a fitted value's logarithm goes on as a straight line."""
N_REWEIGHTED = 30
AGREE = 1e-6
"""Two objectives closer than this share of the better one are the same optimum."""


@dataclass(frozen=True)
class Objective:
    """sum over rows of counts * rho(residual), rho half the square up to delta and straight beyond it.

    Parameters stand as levels (g), coefficients of the centred columns (k), exponents (q).
    """

    problem: Problem
    residual: Residual
    delta: float = np.inf
    """Huber's, in units of the residual; infinite for least squares."""
    counts: np.ndarray | None = None
    """(n,) how often each row counts; by default once."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many levels, coefficients and exponents."""
        return self.problem.levels.shape[1], len(self.problem.columns), len(self.problem.bounds)

    def pack(self, solution: Solution) -> np.ndarray:
        """(p,) its parameters."""
        return np.concatenate([solution.levels, solution.coefficients, solution.exponents])

    def fitted(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fitted values (n,) and their derivatives (n, p)."""
        n_levels, n_columns, _ = self.sizes
        levels, coefficients, exponents = np.split(parameters, [n_levels, n_levels + n_columns])
        columns = self.problem.terms(exponents)
        slopes = sum(
            (c * one.centred_slopes(exponents) for c, one in zip(coefficients, self.problem.columns, strict=True)),
            start=np.zeros((len(self.problem.target), len(exponents))),
        )
        values = self.problem.levels @ levels + columns @ coefficients
        return values, np.concatenate([self.problem.levels, columns, slopes], axis=1)

    def residuals(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (n,) and their derivatives (n, p)."""
        values, slopes = self.fitted(parameters)
        target = self.problem.target
        if self.residual == "absolute":
            return target - values, -slopes
        if self.residual == "relative":
            weights = self.problem.weights  # of the response, also where a bootstrap has put another target there
            return (target - values) * weights, -slopes * weights[:, None]
        ratio = values / target
        low = ratio < LEAST
        logs = np.where(low, np.log(LEAST) + ratio / LEAST - 1, np.log(np.where(low, 1, ratio)))
        inner = np.where(low, 1 / LEAST, 1 / np.where(low, 1, ratio)) / target
        return -logs, -slopes * inner[:, None]

    def value(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The summed loss and its gradient (p,)."""
        residuals, slopes = self.residuals(parameters)
        size = np.abs(residuals)
        inside = size <= self.delta
        losses = np.where(inside, residuals**2 / 2, 0)
        if not inside.all():
            losses = np.where(inside, losses, self.delta * (size - self.delta / 2))
        pulls = np.clip(residuals, -self.delta, self.delta)
        if self.counts is not None:
            losses, pulls = losses * self.counts, pulls * self.counts
        return float(losses.sum()), slopes.T @ pulls

    def curvature(self, parameters: np.ndarray) -> np.ndarray:
        """(p, p) Gauss and Newton's part of the second derivatives."""
        residuals, slopes = self.residuals(parameters)
        inside = (np.abs(residuals) <= self.delta) * (1.0 if self.counts is None else self.counts)
        return np.asarray(slopes.T @ (inside[:, None] * slopes))


class Minimum(NamedTuple):
    """Where a loss is least."""

    parameters: np.ndarray
    """(p,) levels, coefficients, exponents."""
    value: float
    """The summed loss."""
    converged: bool
    share_at_best: float
    """Of the starts, those that ended at this value."""


def automatic_delta(residuals: np.ndarray) -> float:
    """Huber's delta for residuals: 1.345 times their median absolute deviation, as a standard deviation.

    Raises
    ------
    ValueError
        If half of the residuals or more are 0.
    """
    spread = MAD_TO_SD * float(np.median(np.abs(residuals - np.median(residuals))))
    if spread <= 1e-14:
        raise ValueError("half of the residuals are 0, so that no `huber` delta follows from them; give it as a number")
    return HUBER * spread


def minimise(objective: Objective, begin: Solution, starts: Sequence[np.ndarray] = ()) -> Minimum:
    """The least summed loss, from a least-squares solution, the same reweighted, and further starts."""
    first = objective.pack(begin)
    begins = [first, objective.pack(_reweighted(objective, begin)), *starts]
    ends = [_descended(objective, one) for one in begins]
    best = min(ends, key=lambda end: end[1])
    share = float(np.mean([end[1] <= best[1] * (1 + AGREE) + 1e-300 for end in ends]))
    return Minimum(best[0], best[1], best[2], share)


def random_starts(objective: Objective, n: int, random: np.random.Generator) -> list[np.ndarray]:
    """Parameters (p,) with exponents drawn over their whole ranges, the rest least squares at these, shaken by 30 %."""
    problem = objective.problem
    starts = []
    for _ in range(n):
        exponents = np.array(
            [
                exponent_grid(low, high, 1001)[random.integers(1001)] if low < high else low
                for low, high in problem.bounds
            ]
        )
        solved = least_squares(replace(problem, bounds=np.stack([exponents, exponents], axis=1)))
        shaken = solved.coefficients * (1 + 0.3 * random.standard_normal(len(solved.coefficients)))
        starts.append(np.concatenate([solved.levels, shaken, exponents]))
    return starts


def descend(objective: Objective, begin: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Parameters, loss and whether it ended by itself, of one L-BFGS search on the summed and scaled loss."""
    from scipy import optimize  # type: ignore[import-untyped]

    scale, bounds = _scales(objective, begin)
    loss_scale = max(objective.value(begin)[0], 1e-300)

    def scaled(inner: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value(inner * scale)
        return value / loss_scale, gradient * scale / loss_scale

    done: Any = optimize.minimize(
        scaled,
        begin / scale,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 5000, "maxfun": 20000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10},
    )
    return done.x * scale, float(objective.value(done.x * scale)[0]), bool(done.success)


def _descended(objective: Objective, begin: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """A search, and Newton's method after it where no exponent is at its bound."""
    at, value, success = descend(objective, begin)
    n_exponents = objective.sizes[2]
    exponents, (low, high) = at[len(at) - n_exponents :], objective.problem.bounds.T
    free = np.ones(len(at), bool)
    width = np.where(high > low, high - low, 1)
    free[len(at) - n_exponents :] = (exponents - low > 1e-6 * width) & (high - exponents > 1e-6 * width)
    moved, better, ended = _newton(objective, at, free)
    return (moved, better, ended or success) if better <= value else (at, value, success)


def _newton(objective: Objective, begin: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Levenberg and Marquardt's steps on the loss, some parameters free; a step is taken only if the loss falls."""
    at, (value, gradient) = begin.copy(), objective.value(begin)
    low, high = objective.problem.bounds.T
    damping = 1e-6
    for _ in range(300):
        curvature = objective.curvature(at)
        some = free & (np.diag(curvature) > 0)  # not the level of a group without rows
        spread = np.sqrt(np.diag(curvature)[some])
        scaled = curvature[np.ix_(some, some)] / np.outer(spread, spread) + damping * np.eye(len(spread))
        step = np.zeros_like(at)
        step[some] = -np.linalg.lstsq(scaled, gradient[some] / spread, rcond=None)[0] / spread
        moved = at + step
        exponents = moved[len(at) - len(low) :]
        inside = bool((exponents >= low).all() and (exponents <= high).all())
        next_value, next_gradient = objective.value(moved) if inside else (np.inf, gradient)
        if next_value < value:
            gain = (value - next_value) / value
            at, value, gradient = moved, next_value, next_gradient
            damping = max(damping / 5, 1e-14)
            if gain < 1e-15:
                return at, value, True
        else:
            damping *= 5
            if damping > 1e8:
                return at, value, True
    return at, value, False


def _reweighted(objective: Objective, begin: Solution) -> Solution:
    """Least squares with weights that make it Huber's loss, some rounds of it."""
    found = begin
    for _ in range(N_REWEIGHTED if np.isfinite(objective.delta) else 0):
        residuals, _ = objective.residuals(objective.pack(found))
        weights = np.minimum(1, objective.delta / np.maximum(np.abs(residuals), 1e-300))
        if objective.counts is not None:
            weights = weights * objective.counts
        problem = replace(objective.problem, weights=objective.problem.weights * np.sqrt(weights))
        found = least_squares(problem, [found.exponents], grid="none")
    return found


def _scales(objective: Objective, at: np.ndarray) -> tuple[np.ndarray, list[tuple[float | None, float | None]]]:
    """(p,) one over the size of each derivative, and bounds of parameters over it."""
    sizes = np.linalg.norm(objective.residuals(at)[1], axis=0)
    scale = 1 / np.where(sizes > 0, sizes, 1)
    ends = objective.problem.bounds / scale[len(at) - len(objective.problem.bounds) :, None]
    unbounded: list[tuple[float | None, float | None]] = [(None, None)] * (len(at) - len(ends))
    return scale, unbounded + [(float(low), float(high)) for low, high in ends]
