"""Pairs of directions along which two sides depend on each other, at any frequency, by characteristic functions."""

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from .refined import refined

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
STEPS = (15, 8)
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
            distinct.append(_refined(x, y, directions))
    is_sure = climbed[0][0] > 2 * CHANCE / len(some)  # a climb adds to what was by chance
    while is_sure and len(distinct) < MOST_PAIRS:
        pairs = np.stack(distinct, axis=1)
        rests = [_rest(along) for along in (pairs[: x.shape[1]], pairs[x.shape[1] :])]
        if not all(rest.any() for rest in rests):
            break
        of_x, of_y = x @ rests[0], y @ rests[1]
        of_rest = [tried @ rest for tried, rest in zip(waves, rests, strict=True)]
        more = _maxima(of_x[some], of_y[some], of_rest, 1, is_sure=True)
        if not more:
            break
        turned = np.split(_refined(of_x, of_y, more[0][1]), [x.shape[1]])
        distinct.append(np.concatenate([rest @ along for rest, along in zip(rests, turned, strict=True)]))
    pairs = np.stack(distinct, axis=1)
    return pairs[: x.shape[1]], pairs[x.shape[1] :]


def _rest(along: np.ndarray) -> np.ndarray:
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
        climbed.append(_climb(x, y, start, STEPS[0]))
        for done in (start, climbed[-1][1]):  # what lies near would lead to the same maximum again
            near = [
                np.abs(_unit(tried) @ _unit(along)) > NEAR
                for tried, along in zip(waves, (done[: x.shape[1]], done[x.shape[1] :]), strict=True)
            ]
            squares[np.ix_(*near)] = 0
    return climbed


def _refined(x: np.ndarray, y: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """The pair of waves turned to where both sides tell more of each other, at its frequencies."""
    a, b = np.split(_climb(x, y, pair, STEPS[1])[1][:, None], [x.shape[1]])
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
