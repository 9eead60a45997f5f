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
MEMORY, LEAST_SLOPE, LEAST_RISE = 10, 1e-5, 2.2e-9
"""Steps that a climb remembers, and the largest slope and the rise of a step at which it ends: those of SciPy."""
SUFFICIENT_SHARE, STEEPEST_SHARE, NARROWEST, MOST_TRIALS = 1e-3, 0.9, 0.1, 20
"""Shares of the first slope that a step descends by, and that may remain; relative width and trials of a search."""


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


@compiled()
def _cubic_share(f: Any, g: Any, f_end: Any, g_end: Any, length: Any) -> Any:
    """Return where a cubic has its minimum, as a share of `length`, from values and slopes at both of its ends."""
    theta = 3 * (f - f_end) / length + g + g_end
    size = max(abs(theta), abs(g), abs(g_end))
    gamma = size * math.sqrt(max((theta / size) ** 2 - (g / size) * (g_end / size), 0.0))
    gamma = math.copysign(gamma, length)
    return (gamma - g + theta) / (gamma - g + gamma + g_end)


@compiled()
def _next_trial(low: Any, high: Any, trial: Any, is_bracketed: Any, least: Any, most: Any) -> Any:
    """Return the next step of a line search from the best, the other end, and the last one, as (step, value, slope)."""
    (a, f_a, g_a), (t, f, g) = low, trial
    if f > f_a:
        cubic = _cubic_share(f_a, g_a, f, g, t - a) * (t - a)
        parabola = g_a / ((f_a - f) / (t - a) + g_a) / 2 * (t - a)
        return a + (cubic if abs(cubic) < abs(parabola) else cubic + (parabola - cubic) / 2)
    share, secant = _cubic_share(f, g, f_a, g_a, a - t), g / (g - g_a) * (a - t)
    cubic = share * (a - t)
    if g * g_a < 0:
        return t + (cubic if abs(cubic) > abs(secant) else secant)
    farthest = most if t > a else least
    if abs(g) < abs(g_a):
        if not share < 0:
            cubic = farthest - t
        if not is_bracketed:
            return min(max(t + (cubic if abs(cubic) > abs(secant) else secant), least), most)
        nearer, bound = t + (cubic if abs(cubic) < abs(secant) else secant), t + 0.66 * (high[0] - t)
        return min(bound, nearer) if t > a else max(bound, nearer)
    if is_bracketed:
        return t + _cubic_share(f, g, high[1], high[2], high[0] - t) * (high[0] - t)
    return farthest


@compiled()
def _search_line(
    x: Any, y: Any, start: Any, direction: Any, value: Any, slope: Any, step: Any, point: Any, slopes: Any
) -> Any:
    """Return (value, step) that descend enough from `start`, and fill `point` and `slopes`; step 0 if none is found.

    More and Thuente 1994, ACM Trans. Math. Softw. 20, 286, as SciPy's L-BFGS-B has it.
    """
    low = high = (0.0, value, slope)
    is_bracketed = False
    width, width_before, least, most = 1e10, 2e10, 0.0, 5 * step
    for _ in range(MOST_TRIALS):
        point[:] = start + step * direction
        f = wave_covariance_and_slopes(point, x, y, slopes)
        g = np.dot(slopes, direction)
        enough = value + step * SUFFICIENT_SHARE * slope
        is_narrow = is_bracketed and (step <= least or step >= most or most - least <= NARROWEST * most)
        if is_narrow or (f <= enough and abs(g) <= -STEEPEST_SHARE * slope):
            return f, step
        trial = (step, f, g)
        step = _next_trial(low, high, trial, is_bracketed, least, most)
        if f > low[1]:
            high, is_bracketed = trial, True
        else:
            if g * low[2] < 0:
                high, is_bracketed = low, True
            low = trial
        if is_bracketed:
            if abs(high[0] - low[0]) >= 0.66 * width_before:
                step = low[0] + (high[0] - low[0]) / 2
            width_before, width = width, abs(high[0] - low[0])
            least, most = min(low[0], high[0]), max(low[0], high[0])
        else:
            least, most = step + 1.1 * (step - low[0]), step + 4 * (step - low[0])
        if is_bracketed and (step <= least or step >= most or most - least <= NARROWEST * most):
            step = low[0]
    return value, 0.0


@compiled()
def climb_covariance(x: Any, y: Any, both: Any, most_steps: Any) -> Any:
    """Climb to a maximum of the squared covariance of the waves exp(i a.x) and exp(i b.y), and return its value.

    `both`, a and b joined, is changed in place. The steps are those of SciPy's L-BFGS-B without bounds.
    """
    slopes, point = np.empty_like(both), np.empty_like(both)
    moves, turns, weights = np.empty((most_steps, len(both))), np.empty((most_steps, len(both))), np.empty(most_steps)
    value = wave_covariance_and_slopes(both, x, y, slopes)
    n_done = n_known = 0
    while n_done < most_steps and np.abs(slopes).max() > LEAST_SLOPE:
        direction, first_known = -slopes, max(n_known - MEMORY, 0)
        for m in range(n_known - 1, first_known - 1, -1):
            weights[m] = np.dot(moves[m], direction) / np.dot(moves[m], turns[m])
            direction -= weights[m] * turns[m]
        if n_known:
            direction *= np.dot(moves[n_known - 1], turns[n_known - 1]) / np.dot(turns[n_known - 1], turns[n_known - 1])
        for m in range(first_known, n_known):
            direction += (weights[m] - np.dot(turns[m], direction) / np.dot(moves[m], turns[m])) * moves[m]
        first_step = 1.0 if n_done else 1 / math.sqrt(np.dot(direction, direction))
        slope, before = np.dot(slopes, direction), slopes.copy()
        lower, step = _search_line(x, y, both, direction, value, slope, first_step, point, slopes)
        if step == 0:
            if not n_known:
                break
            n_known, slopes = 0, before
            continue
        n_done, rise, value = n_done + 1, value - lower, lower
        moves[n_known], turns[n_known] = point - both, slopes - before
        both[:] = point
        if rise <= LEAST_RISE:
            break
        n_known += int(np.dot(moves[n_known], turns[n_known]) > -2.2e-16 * slope * step)
    return -value
