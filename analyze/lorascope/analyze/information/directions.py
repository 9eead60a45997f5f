"""Pairs of directions along which two sides depend on each other: found by characteristic functions, then refined."""

import math

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

OCTAVES = 2.0 ** np.arange(7)
"""Frequencies that are tried along each coordinate, in radians per standard deviation."""
MOST_COORDINATES = 16
"""Largest number of coordinates that are tried one by one; of more, only random directions are tried."""
N_RANDOM = 48
"""Number of random directions of each side, at frequencies of 1 to 4."""
MOST_ROWS = 1200
"""Largest number of rows for choosing the starts and for the first climb."""
N_STARTS = 5
"""Largest number of pairs of waves that a climb starts from."""
MOST_PAIRS = 8
"""Largest number of pairs of directions in the result."""
CHANCE = 6.0
"""Squared covariance times rows that the best of about 10,000 pairs of waves reaches by chance."""
CLIMB_STEPS = (15, 8)
"""Most steps of the climb on few rows, and then on all rows."""
SMOOTHING_RADIANS = 0.8
"""Largest width over which densities are smoothed: an eighth of a wave."""
NEAR_COSINE, ALIKE_COSINE = 0.5, 0.7
"""Cosines above which no climb starts near a found pair, and above which two directions count as the same."""


def characteristic_directions(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return directions a (dx, pair), b (dy, pair), best first, along which exp(i a.x) and exp(i b.y) covary most.

    `x` and `y` are float64 (n, dimension) with columns of about unit variance; `seed` is that of random directions.

    Notes
    -----
    Two sides are independent exactly if the covariance of exp(i a.x) and exp(i b.y) is 0 for all a and b. At its
    maximum a and b are directions of dependence, and their lengths are frequencies: a wave along one of many
    coordinates is found as well as a linear relation. Waves along coordinates, in octaves, and along random directions
    are tried in all pairs. From the best pairs that aren't near each other, a climb leads to maxima, which
    `refined_directions` improves. A pair close to a better one is dropped. Further pairs are searched orthogonally to
    these, on both sides, as long as one covaries more than by chance.

    References
    ----------
    Szekely, Rizzo and Bakirov 2007, Ann. Statist. 35, 2769, who integrate this covariance over all a and b.
    """
    rng = np.random.default_rng(seed)
    waves = [_trial_frequencies(side.shape[1], rng) for side in (x, y)]
    some = rng.permutation(len(x))[:MOST_ROWS]
    climbed = sorted(_find_maxima(x[some], y[some], waves, N_STARTS, is_sure=False), key=lambda maximum: -maximum[0])
    distinct: list[np.ndarray] = []
    for _, directions in climbed:
        if not any(_are_alike(directions, other, x.shape[1]) for other in distinct):
            distinct.append(_refine_pair(x, y, directions))
    is_sure = climbed[0][0] > 2 * CHANCE / len(some)  # twice, since a climb also raises a chance value
    while is_sure and len(distinct) < MOST_PAIRS:
        pairs = np.stack(distinct, axis=1)
        rests = [_orthogonal_projector(along) for along in (pairs[: x.shape[1]], pairs[x.shape[1] :])]
        if not all(rest.any() for rest in rests):
            break
        of_x, of_y = x @ rests[0], y @ rests[1]
        of_rest = [tried @ rest for tried, rest in zip(waves, rests, strict=True)]
        more = _find_maxima(of_x[some], of_y[some], of_rest, 1, is_sure=True)
        if not more:
            break
        turned = np.split(_refine_pair(of_x, of_y, more[0][1]), [x.shape[1]])
        distinct.append(np.concatenate([rest @ along for rest, along in zip(rests, turned, strict=True)]))
    pairs = np.stack(distinct, axis=1)
    return pairs[: x.shape[1]], pairs[x.shape[1] :]


def _orthogonal_projector(along: np.ndarray) -> np.ndarray:
    """Return the matrix (dimension, dimension) that projects onto the complement of the directions `along`."""
    basis, sizes, _ = np.linalg.svd(along)
    rank = int((sizes > 1e-9 * sizes[0]).sum())
    return np.asarray(basis[:, rank:] @ basis[:, rank:].T)


def _trial_frequencies(d: int, rng: np.random.Generator) -> np.ndarray:
    """Return the frequency vectors that a search starts from on a side of d dimensions, float64 (wave, dimension)."""
    along = np.concatenate([octave * np.eye(d) for octave in OCTAVES]) if d <= MOST_COORDINATES else np.eye(0, d)
    if d == 1:
        return np.concatenate([along, np.sqrt(2) * along])
    random = rng.normal(size=(N_RANDOM, d))
    random *= (rng.choice(2 ** np.arange(0, 2.5, 0.5), N_RANDOM) / np.linalg.norm(random, axis=1))[:, None]
    return np.concatenate([along, random])


def _find_maxima(
    x: np.ndarray, y: np.ndarray, waves: list[np.ndarray], most: int, *, is_sure: bool
) -> list[tuple[float, np.ndarray]]:
    """Return up to `most` maxima of the squared covariance of waves exp(i a.x) and exp(i b.y).

    Each is (value, a and b joined), reached by a climb from one of the best pairs in `waves`. Starts not above chance
    are skipped; without `is_sure` the first start is used in any case.
    """
    parts = []
    for side, tried in zip((x, y), waves, strict=True):
        phase = (side @ tried.T).astype(np.float32)  # precise enough for choosing starts
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
        climbed.append(_climb_covariance(x, y, start, CLIMB_STEPS[0]))
        for done in (start, climbed[-1][1]):  # near pairs would lead to the same maximum
            near = [
                np.abs(_unit_vectors(tried) @ _unit_vectors(along)) > NEAR_COSINE
                for tried, along in zip(waves, (done[: x.shape[1]], done[x.shape[1] :]), strict=True)
            ]
            squares[np.ix_(*near)] = 0
    return climbed


def _refine_pair(x: np.ndarray, y: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Improve the frequencies `pair` (a and b joined) of two waves on all rows, and return them joined.

    First the covariance is climbed, then `refined_directions` raises mutual information.
    """
    a, b = np.split(_climb_covariance(x, y, pair, CLIMB_STEPS[1])[1][:, None], [x.shape[1]])
    return np.concatenate(refined_directions(x, y, a, b, radians=SMOOTHING_RADIANS))[:, 0]


def wave_covariance(u: np.ndarray, v: np.ndarray) -> float:
    """Return the squared covariance of the waves exp(iu) and exp(iv) of two variables (n,), given in radians."""
    return -_negative_covariance(np.ones(2), u[:, None], v[:, None])[0]


def _unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., dimension) divided by their lengths."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300))


def _climb_covariance(x: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
    """Climb from `start` to a maximum of two waves' squared covariance; return the value, and a and b joined."""
    optimum = minimize(_negative_covariance, start, (x, y), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return -float(optimum.fun), np.asarray(optimum.x)


def _negative_covariance(both: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return minus the squared covariance of the waves of a.x and b.y, and its gradient by `both`, a and b joined."""
    u, v = x @ both[: x.shape[1]], y @ both[x.shape[1] :]
    cos_u, sin_u, cos_v, sin_v = waves = np.array([np.cos(u), np.sin(u), np.cos(v), np.sin(v)])
    centred = waves - waves.mean(axis=1)[:, None]
    covariance = centred[:2] @ centred[2:].T / len(x)
    of_u, of_v = covariance @ centred[2:], covariance.T @ centred[:2]
    slopes = (cos_u * of_u[1] - sin_u * of_u[0]) @ x, (cos_v * of_v[1] - sin_v * of_v[0]) @ y
    return -float((covariance**2).sum()), -2 / len(x) * np.concatenate(slopes)


def _are_alike(first: np.ndarray, second: np.ndarray, d: int) -> bool:
    """Return whether two pairs (a and b joined, a of length d) have nearly the same directions on both sides."""
    return all(
        abs(float(_unit_vectors(first[side]) @ _unit_vectors(second[side]))) > ALIKE_COSINE
        for side in (slice(d), slice(d, None))
    )


GRID_POINTS, GRID_EDGE = 48, 3.5
"""Points along each axis of the grid for densities, and its distance from middle to edge in standard deviations."""
GRID_SPACING = 2 * GRID_EDGE / (GRID_POINTS - 1)
"""Distance between points of the grid in standard deviations."""
SMOOTHING = 0.25
"""Largest width, in standard deviations, over which densities are smoothed."""
DENSITY_FLOOR = 0.3
"""Density, in units of a single row at its own place, that is added before a ratio is taken."""
MAX_STEPS, SHORTEST_STEP, LONGEST_STEP = 8, 0.05, 2.0
"""Largest number of Fisher scoring steps, and their smallest and largest length relative to a full step."""
LEAST_VARIANCE = 1e-10
"""Share of the largest variance below which a side counts as constant along a direction."""


def refined_directions(
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    radians: float = math.inf,
    ridge: float = 0.0,
    is_apart: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return directions (dx, pair) and (dy, pair) near a and b, along which x and y have more mutual information.

    Parameters
    ----------
    x, y
        Float64 (n, dimension).
    a, b
        Directions to start from, (dx, pair) and (dy, pair). Their lengths are preserved.
    radians
        Largest width of smoothing in radians of the waves along a and b.
    ridge
        Share of its variance that is added to each column's variance, against directions of little variance.
    is_apart
        Whether the projections of a side onto its directions must be uncorrelated.

    Notes
    -----
    For u = a.x and v = b.y, a smoothed two-dimensional histogram gives the joint density and the marginals. The mean of
    f(u, v), the log ratio of joint and product density, estimates their mutual information. If x has covariance C, it
    grows fastest along C^-1 E[x df/du]; Fisher scoring divides this by E[(df/du)^2] for a full step. A step without
    gain is shortened. By chance, a pair gains half a nat per coordinate, summed over all rows. A pair that gains less
    than twice that stays unchanged, and so do all later pairs.
    """
    whites = _whitened(x, ridge), _whitened(y, ridge)
    rows = [white for white, _, _ in whites]
    starts = [to @ side for (_, _, to), side in zip(whites, (a, b), strict=True)]
    directions = [np.zeros((len(side), 0)) for side in starts]
    is_open = True
    for j in range(a.shape[1]):
        before = [side if is_apart else side[:, :0] for side in directions]
        pair = [_orthogonal_unit(side[:, j], done) for side, done in zip(starts, before, strict=True)]
        if is_open:
            widths = [min(SMOOTHING, radians / max(float(np.linalg.norm(side[:, j])), 1e-300)) for side in starts]
            pair, is_open = _refine_one_pair(rows, pair, before, widths)
        directions = [np.column_stack([side, direction]) for side, direction in zip(directions, pair, strict=True)]
    turned_a, turned_b = (
        back @ (side * np.linalg.norm(start, axis=0))
        for (_, back, _), side, start in zip(whites, directions, starts, strict=True)
    )
    return turned_a, turned_b


def _whitened(x: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return whitened rows, the matrix from whitened to original directions, and the matrix back."""
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / len(x)
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    variances, axes = np.linalg.eigh(covariance / scale[:, None] / scale)
    varies = variances > LEAST_VARIANCE * variances[-1]
    roots, axes = np.sqrt(variances[varies] + ridge), axes[:, varies]
    back = axes / roots / scale[:, None]
    return centred @ back, back, (axes * roots).T * scale


def _orthogonal_unit(along: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the unit vector of `along` after its components along `before` (dimension, direction) are removed."""
    rest = along - before @ (before.T @ along)
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-300))


def _refine_one_pair(
    rows: list[np.ndarray], start: list[np.ndarray], before: list[np.ndarray], widths: list[float]
) -> tuple[list[np.ndarray], bool]:
    """Return a unit direction per side near `start`, orthogonal to `before`, and whether information grew enough.

    Densities are smoothed over `widths` standard deviations. Without enough gain the start itself is returned.
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
            at, value, slopes, share = tried, information, new_slopes, min(1.5 * share, LONGEST_STEP)
            if is_little:
                break
        elif (share := share / 3) < SHORTEST_STEP:
            break
    is_more = value - first > 2 * by_chance
    return (at if is_more else start), is_more


def _density_information(
    u: np.ndarray, v: np.ndarray, kernels: list[np.ndarray]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the mean log ratio of smoothed joint and product density (nats), and its slopes along u and v, (n,)."""
    at = [np.clip((side + GRID_EDGE) / GRID_SPACING, 0, GRID_POINTS - 1.001) for side in (u, v)]
    below = [place.astype(np.int64) for place in at]
    s, t = (place - whole for place, whole in zip(at, below, strict=True))
    corners = [below[0] * GRID_POINTS + below[1] + offset for offset in (0, 1, GRID_POINTS, GRID_POINTS + 1)]
    shares = (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t
    counts = sum(np.bincount(corner, share, GRID_POINTS**2) for corner, share in zip(corners, shares, strict=True))
    joint = kernels[0] @ np.reshape(counts, (GRID_POINTS, GRID_POINTS)) @ kernels[1]
    ratio = np.log(
        (joint + DENSITY_FLOOR) / (joint.sum(axis=1)[:, None] * joint.sum(axis=0) / joint.sum() + DENSITY_FLOOR)
    ).ravel()
    a, b, c, d = (ratio[corner] for corner in corners)
    value = sum(float(share @ part) for share, part in zip(shares, (a, b, c, d), strict=True)) / len(u)
    return value, ((1 - t) * (c - a) + t * (d - b)) / GRID_SPACING, ((1 - s) * (b - a) + s * (d - c)) / GRID_SPACING
