"""Pairs of directions, turned to where they tell most of each other: Fisher scoring on the ratio of densities."""

import math

import numpy as np

SIDE, REACH = 48, 3.5
"""Points along each side of the grid that rows are counted on, and standard deviations from its middle to its edge."""
CELL = 2 * REACH / (SIDE - 1)
"""Standard deviations between points of the grid."""
SMOOTHING = 0.25
"""Standard deviations over which densities are smoothed at most."""
FLOOR = 0.3
"""Share of what a single row gives at its own place that is added to densities before their ratio is taken."""
STEPS, SHORTEST, LONGEST = 8, 0.05, 2.0
"""Most steps that are taken, and shares of a whole one between which they are."""
SMALLEST = 1e-10
"""Share of the largest variance below which a direction counts as one in which a side doesn't vary."""


def refined(
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    radians: float = math.inf,
    ridge: float = 0.0,
    is_apart: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Directions (dx, pair) and (dy, pair) near those given, along which two sides tell more of each other.

    Parameters
    ----------
    x, y
        Float64 (n, dimension).
    a, b
        Directions to begin with, (dx, pair) and (dy, pair). Their lengths are kept.
    radians
        Densities are smoothed over no more radians of a wave.
    ridge
        Added to the variance of each column, as a share of it, against directions in which a side hardly varies.
    is_apart
        Whether what a side has along a direction shall be uncorrelated with what it has along earlier ones.

    Notes
    -----
    For u = a.x and v = b.y, rows are counted on a grid and smoothed, which gives their joint density and the margins.
    The mean of f(u, v), the logarithm of the ratio, is the mutual information that the grid sees. Where x has
    covariance C, it grows fastest along C^-1 E[x df/du]; by Fisher's information, that over E[(df/du)^2] is a whole
    step. One that leads no higher is shortened. By chance, a pair gains half a nat a coordinate over all rows; unless
    it gains twice that, it stays what it was, and so do those after it.
    """
    whites = _white(x, ridge), _white(y, ridge)
    rows = [white for white, _, _ in whites]
    starts = [to @ side for (_, _, to), side in zip(whites, (a, b), strict=True)]
    directions = [np.zeros((len(side), 0)) for side in starts]
    is_open = True
    for j in range(a.shape[1]):
        before = [side if is_apart else side[:, :0] for side in directions]
        pair = [_unit(side[:, j], done) for side, done in zip(starts, before, strict=True)]
        if is_open:
            widths = [min(SMOOTHING, radians / max(float(np.linalg.norm(side[:, j])), 1e-300)) for side in starts]
            pair, is_open = _turned(rows, pair, before, widths)
        directions = [np.column_stack([side, direction]) for side, direction in zip(directions, pair, strict=True)]
    turned_a, turned_b = (
        back @ (side * np.linalg.norm(start, axis=0))
        for (_, back, _), side, start in zip(whites, directions, starts, strict=True)
    )
    return turned_a, turned_b


def _white(x: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in uncorrelated coordinates of variance 1, with what makes directions of x of theirs, and theirs of x's."""
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / len(x)
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    variances, axes = np.linalg.eigh(covariance / scale[:, None] / scale)
    varies = variances > SMALLEST * variances[-1]
    roots, axes = np.sqrt(variances[varies] + ridge), axes[:, varies]
    back = axes / roots / scale[:, None]
    return centred @ back, back, (axes * roots).T * scale


def _unit(along: np.ndarray, before: np.ndarray) -> np.ndarray:
    """A direction of length 1, orthogonal to others (dimension, direction)."""
    rest = along - before @ (before.T @ along)
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-300))


def _turned(
    rows: list[np.ndarray], start: list[np.ndarray], before: list[np.ndarray], widths: list[float]
) -> tuple[list[np.ndarray], bool]:
    """A unit direction of each side near its start, orthogonal to earlier ones, and whether it is another.

    Densities are smoothed over `widths` standard deviations.
    """
    places = np.arange(SIDE) * CELL
    kernels = [np.exp(-((places - places[:, None]) ** 2) / (2 * width**2)) for width in widths]
    at, share = start, 1.0
    first, *slopes = _density_information(rows[0] @ at[0], rows[1] @ at[1], kernels)
    value, by_chance = first, sum(map(len, start)) / len(rows[0]) / 2
    for _ in range(STEPS):
        tried = []
        for side, direction, slope, done in zip(rows, at, slopes, before, strict=True):
            step = side.T @ slope / max(float(slope @ slope), 1e-300)
            tried.append(_unit(direction + share * (step - direction * (direction @ step)), done))
        information, *new_slopes = _density_information(rows[0] @ tried[0], rows[1] @ tried[1], kernels)
        if information > value:
            is_little = information - value < by_chance / 4
            at, value, slopes, share = tried, information, new_slopes, min(1.5 * share, LONGEST)
            if is_little:
                break
        elif (share := share / 3) < SHORTEST:
            break
    is_more = value - first > 2 * by_chance
    return (at if is_more else start), is_more


def _density_information(
    u: np.ndarray, v: np.ndarray, kernels: list[np.ndarray]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean over rows of the logarithm of the ratio of densities, and its slopes along u and v, float64 (n,)."""
    at = [np.clip((side + REACH) / CELL, 0, SIDE - 1.001) for side in (u, v)]
    below = [place.astype(np.int64) for place in at]
    s, t = (place - whole for place, whole in zip(at, below, strict=True))
    corners = [below[0] * SIDE + below[1] + offset for offset in (0, 1, SIDE, SIDE + 1)]
    shares = (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t
    counts = sum(np.bincount(corner, share, SIDE**2) for corner, share in zip(corners, shares, strict=True))
    joint = kernels[0] @ np.reshape(counts, (SIDE, SIDE)) @ kernels[1]
    ratio = np.log((joint + FLOOR) / (joint.sum(axis=1)[:, None] * joint.sum(axis=0) / joint.sum() + FLOOR)).ravel()
    a, b, c, d = (ratio[corner] for corner in corners)
    value = sum(float(share @ part) for share, part in zip(shares, (a, b, c, d), strict=True)) / len(u)
    return value, ((1 - t) * (c - a) + t * (d - b)) / CELL, ((1 - s) * (b - a) + s * (d - c)) / CELL
