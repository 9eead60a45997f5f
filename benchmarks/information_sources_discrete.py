"""Further pairs with symbols, counts or atoms and known mutual information, for `information_unseen.py`."""

import numpy as np
from information_maps import SEED
from information_quadrature import NORMAL_ENTROPY, Array, nodes, normal, of_kernel, of_table
from information_sources import Source
from numpy.random import Generator
from scipy import special


def table(n_x: int, n_y: int, concentration: float, key: int) -> Source:
    """Symbols with a random table of joint probabilities; the lower `concentration`, the more they tell."""
    cells = np.random.default_rng([SEED, key]).dirichlet(np.full(n_x * n_y, concentration))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, y = np.divmod(rng.choice(len(cells), n, p=cells), n_y)
        return x, y

    return Source(draw, of_table(cells.reshape(n_x, n_y)))


def ordered(rho: float, cuts_x: list[float], cuts_y: list[float]) -> Source:
    """Categories of two correlated normals, each cut at these places."""
    cells = []
    for low, high in zip([-9.0, *cuts_x], [*cuts_x, 9.0], strict=True):
        z, weights = nodes(low, high)
        edges = (np.array([-np.inf, *cuts_y, np.inf]) - rho * z[:, None]) / np.sqrt(1 - rho**2)
        cells.append((weights * normal(z)) @ np.diff(special.ndtr(edges), axis=1))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        one, other = rng.normal(size=(2, n))
        return np.digitize(one, cuts_x), np.digitize(rho * one + np.sqrt(1 - rho**2) * other, cuts_y)

    return Source(draw, of_table(np.array(cells)))


def shared_rate(shape: float, x: list[float], y: list[float]) -> Source:
    """Poisson counts, with these means times one gamma variate of mean 1.

    The sum of each side contains all information about the other side.
    """
    top = 60 + 30 * int(max(sum(x), sum(y)))
    i, j, rest = np.arange(top)[:, None], np.arange(top), shape + sum(x) + sum(y)
    log_joint = special.gammaln(shape + i + j) - special.gammaln(shape) + shape * np.log(shape / rest)
    for count, mean in ((i, sum(x)), (j, sum(y))):
        log_joint = log_joint + count * np.log(mean / rest) - special.gammaln(count + 1)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.poisson(np.array([*x, *y]) * rng.gamma(shape, 1 / shape, (n, 1)))
        return rows[:, : len(x)], rows[:, len(x) :]

    return Source(draw, of_table(np.exp(log_joint)))


def chain(dx: int, dy: int, stay: float, shown: float) -> Source:
    """Past and future of a hidden Markov chain of two states.

    A state stays with probability `stay`. Each coordinate is a normal, whose sign is that of its step's state with
    probability `shown`.
    """
    words = np.arange(2 ** (dx + dy))
    forward = np.full((len(words), 2), 0.5)
    for step in range(dx + dy):
        if step:
            forward = forward @ np.array([[stay, 1 - stay], [1 - stay, stay]])
        sign = (words >> step) & 1
        forward = forward * np.where(sign[:, None] == [0, 1], shown, 1 - shown)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        turns = np.where(rng.random((n, dx + dy)) < stay, 1, -1)
        turns[:, 0] = rng.choice([-1, 1], n)
        signs = turns.cumprod(axis=1) * np.where(rng.random((n, dx + dy)) < shown, 1, -1)
        rows = signs * np.abs(rng.normal(size=(n, dx + dy)))
        return rows[:, :dx], rows[:, dx:]

    return Source(draw, of_table(forward.sum(axis=1).reshape(2**dy, 2**dx)))


def label(strength: float) -> Source:
    """A standard normal, and 0 or 1, whose log odds are `strength` times the normal."""
    x, weights = nodes(-9.0, 9.0)
    kernel = special.expit(strength * np.column_stack([-x, x]))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=n)
        return x, rng.random(n) < special.expit(strength * x)

    return Source(draw, of_kernel(x, weights * normal(x), kernel))


def topics(n_topics: int, radius: float, one_hot: bool = False) -> Source:
    """A topic, and normals in two dimensions around its place on a circle; `one_hot` gives a column to each topic."""
    angles = 2 * np.pi * np.arange(n_topics) / n_topics
    places = radius * np.column_stack([np.cos(angles), np.sin(angles)])
    points, weights = nodes(-radius - 9, radius + 9)
    a, b = (normal(points[:, None] - place) for place in places.T)
    both = float(weights @ special.entr(a @ b.T / n_topics) @ weights)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.integers(n_topics, size=n)
        return np.eye(n_topics)[x] if one_hot else x, places[x] + rng.normal(size=(n, 2))

    return Source(draw, both - 2 * NORMAL_ENTROPY)


def hurdle(both: float, one: float, rho: float) -> Source:
    """Both sides are above zero with probability `both`, each one alone with probability `one`, else they are zero.

    Above zero they are lognormal, and where both are, logarithms have the correlation `rho`.
    """
    cells = np.array([[1 - both - 2 * one, one], [one, both]])

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, y = np.divmod(rng.choice(4, n, p=cells.ravel()), 2)
        first, second = rng.normal(size=(2, n))
        return x * np.exp(first), y * np.exp(rho * first + np.sqrt(1 - rho**2) * second)

    return Source(draw, of_table(cells) - both * float(np.log1p(-(rho**2))) / 2)
