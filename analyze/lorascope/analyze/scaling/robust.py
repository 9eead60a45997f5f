"""The least loss over all of a law's parameters at once: Huber's, or squares of residuals of the logarithm."""

import math
from typing import Any

import numpy as np

from .design import Design
from .solve import Problem, slopes

__all__ = ["automatic_delta", "minimise"]

HUBER = 1.345
"""Huber's delta over the standard deviation of normal residuals: 95 % as efficient as least squares."""
MAD_TO_SD = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST = 1e-3
"""Share of the response below which a fitted value's logarithm goes on as a straight line."""
MOST_ROUNDS = 4
"""Searches, each from the end of the one before, until the loss doesn't fall any more."""
NEAR = 1e-3
"""Share of its range within which a search that stays inside of bounds is tried at the bound itself."""


def automatic_delta(residuals: np.ndarray) -> float:
    """Huber's delta for residuals: 1.345 times their median absolute deviation, as a standard deviation.

    Raises ValueError if half of the residuals or more are 0.
    """
    spread = MAD_TO_SD * float(np.median(np.abs(residuals - np.median(residuals))))
    if spread <= 1e-14:
        raise ValueError("half of the residuals are 0, so that no `huber` delta follows from them; give it as a number")
    return HUBER * spread


def minimise(
    design: Design, delta: float, begin: np.ndarray, *, is_rough: bool = False
) -> tuple[np.ndarray, float, bool]:
    """Parameters (p,), summed loss, and whether the search ended by itself, from parameters (p,) to begin with."""
    first = len(begin) - len(design.exponents)
    low, high = design.bounds.T
    every = np.ones(len(begin), bool)
    every[: design.levels.shape[1]] = design.levels.any(axis=0)  # a level without a row stays as it is
    ends = [_searched(design, delta, begin, every, is_rough)]
    if is_rough:
        return ends[0]
    for edge, other in ((low, high), (high, low)):
        at = ends[0][0][first:]
        near = np.abs(at - edge) < NEAR * np.abs(other - edge)
        if near.any():
            moved, free = ends[0][0].copy(), every.copy()
            moved[first:][near], free[first:][near] = edge[near], False
            ends.append(_searched(design, delta, moved, free, is_rough))
    return min(ends, key=lambda end: end[1])


def _searched(
    design: Design, delta: float, begin: np.ndarray, free: np.ndarray, is_rough: bool
) -> tuple[np.ndarray, float, bool]:
    """The search over the parameters that are free, in units in which a derivative has length 1."""
    from scipy import optimize  # type: ignore[import-untyped]

    problem, is_log = design.problem, design.residual == "log"
    ends = np.full((len(begin), 2), (-math.inf, math.inf))
    ends[len(begin) - len(design.exponents) :] = design.bounds
    ends = ends[free]
    at, loss, converged = begin.copy(), math.inf, False
    width = np.where(np.isfinite(ends[:, 0]), ends[:, 1] - ends[:, 0], 0.0)

    def residuals(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parameters = at.copy()
        parameters[free] = some
        values, moved = _residuals(problem, is_log, parameters)
        return values, moved[:, free]

    for _ in range(1 if is_rough else MOST_ROUNDS):
        inside = np.clip(at[free], ends[:, 0] + 1e-9 * width, ends[:, 1] - 1e-9 * width)
        unit = float(np.abs(residuals(inside)[0]).max()) or 1.0  # tolerances are absolute
        done: Any = optimize.least_squares(
            lambda some, unit=unit: residuals(some)[0] / unit,
            inside,
            jac=lambda some, unit=unit: residuals(some)[1] / unit,
            bounds=ends.T,
            x_scale="jac",
            loss="huber" if math.isfinite(delta) else "linear",
            f_scale=delta / unit if math.isfinite(delta) else 1.0,
            xtol=1e-14,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=300,
        )
        found = float(done.cost) * unit**2
        gain = loss - found
        if gain >= 0:
            at[free], loss, converged = done.x, found, bool(done.status > 0)
        if not gain > 1e-9 * found:
            break
    return at, loss, converged


def _residuals(problem: Problem, is_log: bool, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) and their derivatives (n, p)."""
    g, k = problem.levels.shape[1], len(problem.columns)
    levels, coefficients, exponents = np.split(parameters, [g, g + k])
    values = problem.levels @ levels + problem.terms(exponents) @ coefficients
    moved = slopes(problem.levels, problem.columns, coefficients, exponents)
    if not is_log:
        return (problem.target - values) * problem.weights, -moved * problem.weights[:, None]
    ratio = values / problem.target
    low = ratio < LEAST
    safe = np.where(low, LEAST, ratio)
    logs = np.log(safe) + np.where(low, ratio / LEAST - 1, 0)
    return -logs, -moved / (safe * problem.target)[:, None]
