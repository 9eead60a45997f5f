"""Pairs of directions along which two sides depend on each other: found by characteristic functions, then refined."""

import math

import numpy as np

from lorascope.kernels.pair_directions import (
    GRID_POINTS,
    GRID_SPACING,
    turn_pair,
    wave_covariance_and_slopes,
)

from .projections import WhiteSide, whitened

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
    sides = [np.ascontiguousarray(side.T) for side in (x, y)]
    starts = [side.take(some, axis=1) for side in sides]
    climbed = sorted(_find_maxima(starts, waves, N_STARTS, is_sure=False), key=lambda maximum: -maximum[0])
    distinct: list[np.ndarray] = []
    whites = [whitened(side.T, name) for side, name in zip(sides, "xy", strict=True)]
    for _, directions in climbed:
        if not any(_are_alike(directions, other, x.shape[1]) for other in distinct):
            distinct.append(_refine_pair(sides, whites, directions))
    is_sure = climbed[0][0] > 2 * CHANCE / len(some)  # twice, since a climb also raises a chance value
    while is_sure and len(distinct) < MOST_PAIRS:
        pairs = np.stack(distinct, axis=1)
        rests = [_orthogonal_projector(along) for along in (pairs[: x.shape[1]], pairs[x.shape[1] :])]
        if not all(rest.any() for rest in rests):
            break
        of_rest = [rest @ side for rest, side in zip(rests, sides, strict=True)]
        more = _find_maxima(
            [side.take(some, axis=1) for side in of_rest],
            [tried @ rest for tried, rest in zip(waves, rests, strict=True)],
            1,
            is_sure=True,
        )
        if not more:
            break
        whites = [whitened(side.T, name) for side, name in zip(of_rest, "xy", strict=True)]
        turned = np.split(_refine_pair(of_rest, whites, more[0][1]), [x.shape[1]])
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
    sides: list[np.ndarray], waves: list[np.ndarray], most: int, *, is_sure: bool
) -> list[tuple[float, np.ndarray]]:
    """Return up to `most` maxima of the squared covariance of waves exp(i a.x) and exp(i b.y).

    `sides` are x and y, (dimension, n). Each maximum is (value, a and b joined), reached by a climb from one of the
    best pairs in `waves`. Starts not above chance are skipped; without `is_sure` the first start is used in any case.
    """
    dx, n = sides[0].shape
    values, weights = [], np.full(n, 1 / n, np.float32)
    for side, tried in zip(sides, waves, strict=True):
        phase = (tried @ side).astype(np.float32)  # precise enough for choosing starts
        both = np.empty((2, *phase.shape), np.float32)
        np.cos(phase, out=both[0])
        np.sin(phase, out=both[1])
        values.append(both.reshape(-1, n))
    of_x, of_y = values
    squares = (of_x @ of_y.T / n - np.outer(of_x @ weights, of_y @ weights)) ** 2
    squares = squares.reshape(2, len(waves[0]), 2, len(waves[1])).sum(axis=(0, 2))
    units = [_unit_vectors(tried) for tried in waves]
    climbed: list[tuple[float, np.ndarray]] = []
    while len(climbed) < most:
        i, j = np.unravel_index(squares.argmax(), squares.shape)
        if (climbed or is_sure) and squares[i, j] <= CHANCE / n:
            break
        start = np.concatenate([waves[0][i], waves[1][j]])
        climbed.append(_climb_covariance(sides, start, CLIMB_STEPS[0]))
        for done in (start, climbed[-1][1]):  # near pairs would lead to the same maximum
            near = [
                np.abs(tried @ _unit_vectors(along)) > NEAR_COSINE
                for tried, along in zip(units, (done[:dx], done[dx:]), strict=True)
            ]
            squares[np.ix_(*near)] = 0
    return climbed


def _climb_covariance(sides: list[np.ndarray], start: np.ndarray, most_steps: int) -> tuple[float, np.ndarray]:
    """Return the largest squared covariance of exp(i a.x) and exp(i b.y) near `start`, and its a and b joined."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # a quarter of a second

    x, y = sides

    def negative(both: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the squared covariance at a and b, joined, and its gradient."""
        slopes = np.empty(len(both))
        return wave_covariance_and_slopes(both, x, y, slopes), slopes

    maximum = minimize(negative, start, jac=True, method="L-BFGS-B", options={"maxiter": most_steps})
    return -float(maximum.fun), maximum.x


def _refine_pair(sides: list[np.ndarray], whites: list[WhiteSide], pair: np.ndarray) -> np.ndarray:
    """Improve the frequencies `pair` (a and b joined) of two waves on all rows, and return them joined.

    First the covariance is climbed, then `refined_directions` raises mutual information. `sides` are (dimension, n).
    """
    _, maximum = _climb_covariance(sides, pair, CLIMB_STEPS[1])
    a, b = np.split(maximum[:, None], [len(sides[0])])
    return np.concatenate(refined_directions(whites[0], whites[1], a, b, radians=SMOOTHING_RADIANS))[:, 0]


def wave_covariance(u: np.ndarray, v: np.ndarray) -> float:
    """Return the squared covariance of the waves exp(iu) and exp(iv) of two variables (n,), given in radians."""
    return -float(wave_covariance_and_slopes(np.ones(2), u[None], v[None], np.empty(2)))


def _unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., dimension) divided by their lengths."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300))


def _are_alike(first: np.ndarray, second: np.ndarray, d: int) -> bool:
    """Return whether two pairs (a and b joined, a of length d) have nearly the same directions on both sides."""
    return all(
        abs(float(_unit_vectors(first[side]) @ _unit_vectors(second[side]))) > ALIKE_COSINE
        for side in (slice(d), slice(d, None))
    )


SMOOTHING = 0.25
"""Largest width, in standard deviations, over which densities are smoothed."""


def refined_directions(
    x: WhiteSide, y: WhiteSide, a: np.ndarray, b: np.ndarray, *, radians: float = math.inf, is_apart: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return directions (dx, pair) and (dy, pair) near a and b, along which x and y have more mutual information.

    Parameters
    ----------
    x, y
        Both sides, whitened.
    a, b
        Directions to start from, (dx, pair) and (dy, pair). Their lengths are preserved.
    radians
        Largest width of smoothing in radians of the waves along a and b.
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
    whites, places = (x, y), np.arange(GRID_POINTS) * GRID_SPACING
    squares = (places - places[:, None]) ** 2
    starts = [white.to_white @ side for white, side in zip(whites, (a, b), strict=True)]
    directions = [np.zeros((0, len(side))) for side in starts]
    is_open = True
    for j in range(a.shape[1]):
        before = [side if is_apart else side[:0] for side in directions]
        pair = [_orthogonal_unit(side[:, j], done) for side, done in zip(starts, before, strict=True)]
        if is_open:
            widths = [min(SMOOTHING, radians / max(float(np.linalg.norm(side[:, j])), 1e-300)) for side in starts]
            kernels = np.array([np.exp(-squares / (2 * width**2)) for width in widths])
            is_open = turn_pair(x.rows, y.rows, kernels, *before, *pair)
        directions = [np.vstack([side, direction]) for side, direction in zip(directions, pair, strict=True)]
    turned_a, turned_b = (
        white.from_white @ (side.T * np.linalg.norm(start, axis=0))
        for white, side, start in zip(whites, directions, starts, strict=True)
    )
    return turned_a, turned_b


def _orthogonal_unit(along: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the unit vector of `along` after its components along the rows of `before` are removed."""
    rest = along - (before @ along) @ before
    return np.asarray(rest / max(float(np.linalg.norm(rest)), 1e-300))
