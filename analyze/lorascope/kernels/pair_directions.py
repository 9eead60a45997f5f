"""Kernels for pairs of directions (a, b): covariance of waves along a.x and b.y, and steps to more mutual information.

Sides x and y are float64 (coordinate, point), contiguous and finite; BLAS does the products.
"""

import math
from typing import Any

import numpy as np

from .compiled import compiled

GRID_POINTS, GRID_EDGE = 48, 3.5
"""Points along each axis of the grid for densities, and its distance from middle to edge in standard deviations."""
GRID_SPACING = 2 * GRID_EDGE / (GRID_POINTS - 1)
"""Distance between points of the grid in standard deviations."""
DENSITY_FLOOR = 0.3
"""Density, in units of a single row at its own place, that is added before a ratio is taken."""
MAX_STEPS, SHORTEST_STEP, LONGEST_STEP = 8, 0.05, 2.0
"""Largest number of Fisher scoring steps, and their smallest and largest length relative to a full step."""
TINY = 1e-300
"""Least divisor of a vector that may be zero."""


@compiled(inline=True)
def _cell(value: Any) -> tuple[int, float]:
    """Return the grid point below a value in standard deviations, and the distance from it in grid spacings."""
    place = min(max((value + GRID_EDGE) / GRID_SPACING, 0.0), GRID_POINTS - 1.001)
    below = int(place)
    return below, place - below


@compiled()
def _information(u: Any, v: Any, kernels: Any, slope_u: Any, slope_v: Any) -> Any:
    """Return the mean log ratio (nats) of smoothed joint and product density; fill its slopes along u and v."""
    counts = np.zeros((GRID_POINTS, GRID_POINTS))
    for j in range(u.shape[0]):
        (i, s), (m, t) = _cell(u[j]), _cell(v[j])
        counts[i, m] += (1 - s) * (1 - t)
        counts[i, m + 1] += (1 - s) * t
        counts[i + 1, m] += s * (1 - t)
        counts[i + 1, m + 1] += s * t
    joint = np.dot(np.dot(kernels[0], counts), kernels[1])
    of_u, of_v = joint.sum(axis=1), joint.sum(axis=0)
    total = of_u.sum()
    for i in range(GRID_POINTS):
        for m in range(GRID_POINTS):
            product = of_u[i] * of_v[m] / total
            joint[i, m] = math.log((joint[i, m] + DENSITY_FLOOR) / (product + DENSITY_FLOOR))
    value = 0.0
    for j in range(u.shape[0]):
        (i, s), (m, t) = _cell(u[j]), _cell(v[j])
        a, b, c, d = joint[i, m], joint[i, m + 1], joint[i + 1, m], joint[i + 1, m + 1]
        value += (1 - s) * ((1 - t) * a + t * b) + s * ((1 - t) * c + t * d)
        slope_u[j] = ((1 - t) * (c - a) + t * (d - b)) / GRID_SPACING
        slope_v[j] = ((1 - s) * (b - a) + s * (d - c)) / GRID_SPACING
    return value / u.shape[0]


@compiled()
def _step(side: Any, at: Any, slope: Any, share: Any, before: Any) -> Any:
    """Return the unit direction, orthogonal to `before`, that `share` of a Fisher scoring step leads to from `at`."""
    step = np.dot(side, slope) / max(np.dot(slope, slope), TINY)
    tried = at + share * (step - np.dot(at, step) * at)
    if len(before):
        tried -= np.dot(np.dot(before, tried), before)
    return tried / max(math.sqrt(np.dot(tried, tried)), TINY)


@compiled()
def turn_pair(x: Any, y: Any, kernels: Any, before_x: Any, before_y: Any, at_x: Any, at_y: Any) -> Any:
    """Turn a pair of unit directions to more mutual information, and return whether it grew enough; else leave them.

    `x` and `y` are whitened. `kernels` (2, grid, grid) are weights that smooth the density along each side. The pair,
    `at_x` and `at_y` (coordinate,), is changed in place, and stays orthogonal to the orthonormal rows of `before_x` and
    `before_y`.
    """
    n = x.shape[1]
    slopes, new_slopes = np.empty((2, n)), np.empty((2, n))
    here_x, here_y = at_x, at_y
    first = value = _information(np.dot(here_x, x), np.dot(here_y, y), kernels, slopes[0], slopes[1])
    by_chance, share = (len(x) + len(y)) / n / 2, 1.0
    for _ in range(MAX_STEPS):
        tried_x = _step(x, here_x, slopes[0], share, before_x)
        tried_y = _step(y, here_y, slopes[1], share, before_y)
        information = _information(np.dot(tried_x, x), np.dot(tried_y, y), kernels, new_slopes[0], new_slopes[1])
        if information > value:
            is_little = information - value < by_chance / 4
            here_x, here_y, value = tried_x, tried_y, information
            slopes, new_slopes, share = new_slopes, slopes, min(1.5 * share, LONGEST_STEP)
            if is_little:
                break
        else:
            share /= 3
            if share < SHORTEST_STEP:
                break
    is_more = value - first > 2 * by_chance
    if is_more:
        at_x[:], at_y[:] = here_x, here_y
    return is_more


@compiled()
def wave_covariance_and_slopes(both: Any, x: Any, y: Any, slopes: Any) -> Any:
    """Return minus the squared covariance of the waves exp(i a.x) and exp(i b.y); fill `slopes`, its gradient.

    `both` has a and b joined, in radians per unit of x and y.
    """
    dx, n = x.shape
    u, v = np.dot(both[:dx], x), np.dot(both[dx:], y)
    cos_u, sin_u, cos_v, sin_v = np.cos(u), np.sin(u), np.cos(v), np.sin(v)
    a, b, c, d = cos_u - cos_u.mean(), sin_u - sin_u.mean(), cos_v - cos_v.mean(), sin_v - sin_v.mean()
    ac, ad, bc, bd = np.dot(a, c) / n, np.dot(a, d) / n, np.dot(b, c) / n, np.dot(b, d) / n
    slopes[:dx] = np.dot(x, cos_u * (bc * c + bd * d) - sin_u * (ac * c + ad * d))
    slopes[dx:] = np.dot(y, cos_v * (ad * a + bd * b) - sin_v * (ac * a + bc * b))
    slopes *= -2 / n
    return -(ac * ac + ad * ad + bc * bc + bd * bd)
