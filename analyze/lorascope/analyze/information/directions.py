"""Pairs of directions along which two sides depend on each other: found by characteristic functions, then refined."""

import math

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

OCTAVES = 2.0 ** np.arange(7)
"""Frequencies tried along each coordinate, in radians for a standard deviation."""
MOST_COORDINATES = 16
"""Coordinates that are tried each on its own: more are looked at through random directions alone."""
N_RANDOM = 48
"""Random directions of each side, at frequencies up to the third octave."""
MOST_ROWS = 1200
"""Rows that starts are chosen on, and climbed from."""
N_STARTS = 5
"""Pairs of waves that are climbed from at most."""
MOST_PAIRS = 8
"""Pairs of directions that are found at most."""
CHANCE = 6.0
"""Squared covariance times rows that the best of some 10,000 pairs of waves reaches by chance."""
CLIMB_STEPS = (15, 8)
"""Steps of the climb on few rows, and then on all."""
RADIANS = 0.8
"""An eighth of a wave, over which densities may be smoothed."""
NEAR, ALIKE = 0.5, 0.7
"""Cosines from which on no climb begins beside what was found, and from which on two directions count as one."""


def characteristic_directions(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Directions (dx, pair) and (dy, pair) along which exp(i a.x) and exp(i b.y) covary most, the first pair first.

    Parameters
    ----------
    x, y
        Float64 (n, dimension), columns of about unit variance.
    seed
        Seed of the random directions.

    Notes
    -----
    Two sides are independent exactly if the covariance of exp(i a.x) and exp(i b.y) is 0 for all a and b. Where it is
    largest, a and b say in which directions they depend on each other, and their lengths at which frequency: a wave
    along one of many coordinates is found as well as a line. Waves along coordinates, in octaves, and along random
    directions are tried in all pairs; from the best, and then from the best that aren't near, a climb leads to a
    maximum, and is then `refined`. A pair along both directions of a better one is left out. More pairs are looked for
    orthogonally to those, on both sides, as long as one covaries more than by chance.

    References
    ----------
    Szekely, Rizzo and Bakirov 2007, Ann. Statist. 35, 2769, who integrate this covariance over all a and b.
    """
    rng = np.random.default_rng(seed)
    waves = [_waves(side.shape[1], rng) for side in (x, y)]
    some = rng.permutation(len(x))[:MOST_ROWS]
    climbed = sorted(_maxima(x[some], y[some], waves, N_STARTS, is_sure=False), key=lambda maximum: -maximum[0])
    distinct: list[np.ndarray] = []
    for _, directions in climbed:
        if not any(_are_alike(directions, other, x.shape[1]) for other in distinct):
            distinct.append(_refine_pair(x, y, directions))
    is_sure = climbed[0][0] > 2 * CHANCE / len(some)  # a climb adds to what was by chance
    while is_sure and len(distinct) < MOST_PAIRS:
        pairs = np.stack(distinct, axis=1)
        rests = [_orthogonal_projector(along) for along in (pairs[: x.shape[1]], pairs[x.shape[1] :])]
        if not all(rest.any() for rest in rests):
            break
        of_x, of_y = x @ rests[0], y @ rests[1]
        of_rest = [tried @ rest for tried, rest in zip(waves, rests, strict=True)]
        more = _maxima(of_x[some], of_y[some], of_rest, 1, is_sure=True)
        if not more:
            break
        turned = np.split(_refine_pair(of_x, of_y, more[0][1]), [x.shape[1]])
        distinct.append(np.concatenate([rest @ along for rest, along in zip(rests, turned, strict=True)]))
    pairs = np.stack(distinct, axis=1)
    return pairs[: x.shape[1]], pairs[x.shape[1] :]


def _orthogonal_projector(along: np.ndarray) -> np.ndarray:
    """Projector onto all that is orthogonal to directions (dimension, pair), float64 (dimension, dimension)."""
    basis, sizes, _ = np.linalg.svd(along)
    rank = int((sizes > 1e-9 * sizes[0]).sum())
    return np.asarray(basis[:, rank:] @ basis[:, rank:].T)


def _waves(d: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors of frequencies to try, float64 (wave, dimension)."""
    along = np.concatenate([octave * np.eye(d) for octave in OCTAVES]) if d <= MOST_COORDINATES else np.eye(0, d)
    if d == 1:
        return np.concatenate([along, np.sqrt(2) * along])
    random = rng.normal(size=(N_RANDOM, d))
    random *= (rng.choice(2 ** np.arange(0, 2.5, 0.5), N_RANDOM) / np.linalg.norm(random, axis=1))[:, None]
    return np.concatenate([along, random])


def _maxima(
    x: np.ndarray, y: np.ndarray, waves: list[np.ndarray], most: int, *, is_sure: bool
) -> list[tuple[float, np.ndarray]]:
    """Maxima of the squared covariance, climbed to from the pairs of waves where it is largest.

    These have more than by chance, all of them if that is to be sure, or else all but the first.
    """
    parts = []
    for side, tried in zip((x, y), waves, strict=True):
        phase = (side @ tried.T).astype(np.float32)  # precise enough to start from
        both = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
        parts.append(both - both.mean(axis=0))
    squares = (parts[0].T @ parts[1] / len(x)) ** 2
    squares = squares.reshape(2, len(waves[0]), 2, len(waves[1])).sum(axis=(0, 2))
    climbed: list[tuple[float, np.ndarray]] = []
    while len(climbed) < most:
        i, j = np.unravel_index(squares.argmax(), squares.shape)
        if (climbed or is_sure) and squares[i, j] <= CHANCE / len(x):
            break
        start = np.concatenate([waves[0][i], waves[1][j]])
        climbed.append(_climb(x, y, start, CLIMB_STEPS[0]))
        for done in (start, climbed[-1][1]):  # what lies near would lead to the same maximum again
            near = [
                np.abs(_unit(tried) @ _unit(along)) > NEAR
                for tried, along in zip(waves, (done[: x.shape[1]], done[x.shape[1] :]), strict=True)
            ]
            squares[np.ix_(*near)] = 0
    return climbed


def _refine_pair(x: np.ndarray, y: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """The pair of waves turned to where both sides tell more of each other, at its frequencies."""
    a, b = np.split(_climb(x, y, pair, CLIMB_STEPS[1])[1][:, None], [x.shape[1]])
    return np.concatenate(refined(x, y, a, b, radians=RADIANS))[:, 0]


def covariance(u: np.ndarray, v: np.ndarray) -> float:
    """Squared covariance of exp(iu) and exp(iv) and of exp(iu) and exp(-iv), summed, of values (n,) in radians."""
    return -_less(np.ones(2), u[:, None], v[:, None])[0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300))


def _climb(x: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
    """The squared covariance at a maximum near the start, and where that is."""
    optimum = minimize(_less, start, (x, y), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return -float(optimum.fun), np.asarray(optimum.x)


def _less(both: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The squared covariance of both waves, with its gradient, times -1."""
    u, v = x @ both[: x.shape[1]], y @ both[x.shape[1] :]
    cos_u, sin_u, cos_v, sin_v = waves = np.array([np.cos(u), np.sin(u), np.cos(v), np.sin(v)])
    centred = waves - waves.mean(axis=1)[:, None]
    covariance = centred[:2] @ centred[2:].T / len(x)
    of_u, of_v = covariance @ centred[2:], covariance.T @ centred[:2]
    slopes = (cos_u * of_u[1] - sin_u * of_u[0]) @ x, (cos_v * of_v[1] - sin_v * of_v[0]) @ y
    return -float((covariance**2).sum()), -2 / len(x) * np.concatenate(slopes)


def _are_alike(first: np.ndarray, second: np.ndarray, d: int) -> bool:
    """Tell whether both directions of a pair are about those of another."""
    return all(abs(float(_unit(first[side]) @ _unit(second[side]))) > ALIKE for side in (slice(d), slice(d, None)))


GRID_POINTS, GRID_EDGE = 48, 3.5
"""Points along each side of the grid that rows are counted on, and standard deviations from its middle to its edge."""
GRID_SPACING = 2 * GRID_EDGE / (GRID_POINTS - 1)
"""Standard deviations between points of the grid."""
SMOOTHING = 0.25
"""Standard deviations over which densities are smoothed at most."""
FLOOR = 0.3
"""Share of what a single row gives at its own place that is added to densities before their ratio is taken."""
MAX_STEPS, SHORTEST, LONGEST = 8, 0.05, 2.0
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
        pair = [_orthogonal_unit(side[:, j], done) for side, done in zip(starts, before, strict=True)]
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


def _orthogonal_unit(along: np.ndarray, before: np.ndarray) -> np.ndarray:
    """A direction of length 1, orthogonal to others (dimension, direction)."""
    rest = along - before @ (before.T @ along)
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-300))


def _turned(
    rows: list[np.ndarray], start: list[np.ndarray], before: list[np.ndarray], widths: list[float]
) -> tuple[list[np.ndarray], bool]:
    """A unit direction of each side near its start, orthogonal to earlier ones, and whether it is another.

    Densities are smoothed over `widths` standard deviations.
    """
    places = np.arange(GRID_POINTS) * GRID_SPACING
    kernels = [np.exp(-((places - places[:, None]) ** 2) / (2 * width**2)) for width in widths]
    at, share = start, 1.0
    first, *slopes = _density_information(rows[0] @ at[0], rows[1] @ at[1], kernels)
    value, by_chance = first, sum(map(len, start)) / len(rows[0]) / 2
    for _ in range(MAX_STEPS):
        tried = []
        for side, direction, slope, done in zip(rows, at, slopes, before, strict=True):
            step = side.T @ slope / max(float(slope @ slope), 1e-300)
            tried.append(_orthogonal_unit(direction + share * (step - direction * (direction @ step)), done))
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
    at = [np.clip((side + GRID_EDGE) / GRID_SPACING, 0, GRID_POINTS - 1.001) for side in (u, v)]
    below = [place.astype(np.int64) for place in at]
    s, t = (place - whole for place, whole in zip(at, below, strict=True))
    corners = [below[0] * GRID_POINTS + below[1] + offset for offset in (0, 1, GRID_POINTS, GRID_POINTS + 1)]
    shares = (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t
    counts = sum(np.bincount(corner, share, GRID_POINTS**2) for corner, share in zip(corners, shares, strict=True))
    joint = kernels[0] @ np.reshape(counts, (GRID_POINTS, GRID_POINTS)) @ kernels[1]
    ratio = np.log((joint + FLOOR) / (joint.sum(axis=1)[:, None] * joint.sum(axis=0) / joint.sum() + FLOOR)).ravel()
    a, b, c, d = (ratio[corner] for corner in corners)
    value = sum(float(share @ part) for share, part in zip(shares, (a, b, c, d), strict=True)) / len(u)
    return value, ((1 - t) * (c - a) + t * (d - b)) / GRID_SPACING, ((1 - s) * (b - a) + s * (d - c)) / GRID_SPACING
