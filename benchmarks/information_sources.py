"""Pairs with known mutual information, from which `information_tasks.py` makes its tasks.

Truths, in nats, are closed forms, or quadratures over one or two dimensions that are exact to 1e-6.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from information_maps import SEED
from information_quadrature import (
    NORMAL_ENTROPY,
    Array,
    Density,
    binary,
    blend,
    entropy,
    nodes,
    normal,
    of_copula,
    of_kernel,
)
from numpy.random import Generator
from scipy import special, stats


class Source(NamedTuple):
    """A generator (rng, n) -> x (n, dx), y (n, dy), columns or vectors, and its mutual information in nats."""

    draw: Callable[[Generator, int], tuple[Array, Array]]
    truth: float


# Gaussians and Students


def correlation(nats: float) -> float:
    return float(np.sqrt(-np.expm1(-2 * nats)))


def sparse(dx: int, dy: int, correlations: list[float]) -> Array:
    """Covariance where coordinates of x and of y are correlated in pairs, and all others independent."""
    covariance = np.eye(dx + dy)
    for i, rho in enumerate(correlations):
        covariance[i, dx + i] = covariance[dx + i, i] = rho
    return covariance


def dense(d: int, rho: float) -> Array:
    return rho + (1 - rho) * np.eye(d)


def factors(d: int, rank: int, noise: float, key: int) -> Array:
    """Covariance of `d` random mixtures of `rank` factors, with noise on each."""
    loadings = np.random.default_rng([SEED, key]).normal(size=(d, rank))
    return loadings @ loadings.T + noise**2 * np.eye(d)


def gaussian(covariance: Array, dx: int) -> Source:
    root = np.linalg.cholesky(covariance)
    xx, yy, both = (np.linalg.slogdet(c)[1] for c in (covariance[:dx, :dx], covariance[dx:, dx:], covariance))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.normal(size=(n, len(root))) @ root.T
        return rows[:, :dx], rows[:, dx:]

    return Source(draw, float(xx + yy - both) / 2)


def student(covariance: Array, dx: int, dof: float) -> Source:
    base, d = gaussian(covariance, dx), len(covariance)

    def excess(d: int) -> float:
        """Entropy of a Student's vector of shape 1, without terms that cancel."""
        a, b = dof / 2, (dof + d) / 2
        return float(special.gammaln(a) - special.gammaln(b) + b * (special.psi(b) - special.psi(a)))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, y = base.draw(rng, n)
        scale = np.sqrt(rng.chisquare(dof, size=(n, 1)) / dof)
        return x / scale, y / scale

    return Source(draw, base.truth + excess(dx) + excess(d - dx) - excess(d))


# Signals with additive noise


def uniform_noise(width: float) -> Source:
    """A uniform on (0, 1), and it with uniform noise on (-width, width), at most 0.5."""
    return Source(
        lambda rng, n: ((x := rng.random(n)), x + rng.uniform(-width, width, n)), float(width - np.log(2 * width))
    )


def gamma_sum(shape: float, noise: float) -> Source:
    return Source(
        lambda rng, n: ((x := rng.gamma(shape, size=n)), x + rng.gamma(noise, size=n)),
        float(stats.gamma(shape + noise).entropy() - stats.gamma(noise).entropy()),
    )


def cauchy_sum(noise: float) -> Source:
    return Source(
        lambda rng, n: ((x := rng.standard_cauchy(n)), x + noise * rng.standard_cauchy(n)), float(np.log1p(1 / noise))
    )


def laplace_sum(noise: float) -> Source:
    """Laplace plus Laplace noise of another scale b: density (exp(-|y|) - b exp(-|y| / b)) / 2 / (1 - b^2)."""
    half = entropy(lambda y: (np.exp(-y) - noise * np.exp(-y / noise)) / (2 * (1 - noise**2)), 0.0, 45.0)
    return Source(
        lambda rng, n: ((x := rng.laplace(size=n)), x + rng.laplace(scale=noise, size=n)),
        2 * half - 1 - float(np.log(2 * noise)),
    )


def _noisy(
    draw_x: Callable[[Generator, int], Array], signal: Density, noise: float, density: Density, low: float, high: float
) -> Source:
    """x, and a signal of it with normal noise, where `density` is that of their sum."""

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = draw_x(rng, n)
        return x, signal(x) + noise * rng.normal(size=n)

    return Source(draw, entropy(density, low - 9 * noise, high + 9 * noise) - NORMAL_ENTROPY - float(np.log(noise)))


def sine(frequency: float, noise: float) -> Source:
    """A uniform on (0, 1), and a sine of a whole number of periods with normal noise."""
    density = blend(lambda y, t: normal(y - np.sin(t), noise), lambda t: 0 * t + 1 / np.pi, -np.pi / 2, np.pi / 2)
    signal = lambda x: np.sin(2 * np.pi * frequency * x)  # noqa: E731
    return _noisy(lambda rng, n: rng.random(n), signal, noise, density, -1.0, 1.0)


def cube(noise: float) -> Source:
    """A uniform on (-1, 1), and its cube with normal noise."""
    density = blend(lambda y, t: normal(y - t**3, noise), lambda t: 0 * t + 0.5, -1.0, 1.0)
    return _noisy(lambda rng, n: rng.uniform(-1, 1, n), lambda x: x**3, noise, density, -1.0, 1.0)


def product(noise: float) -> Source:
    """Two standard normals, and their product with normal noise."""
    density = blend(lambda y, t: normal(y, np.sqrt(t**2 + noise**2)), normal, -9.0, 9.0)
    return _noisy(lambda rng, n: rng.normal(size=(n, 2)), lambda x: x.prod(axis=1), noise, density, -40.0, 40.0)


def length(d: int, noise: float) -> Source:
    """A vector of standard normals, and its length with normal noise."""
    high = float(np.sqrt(d)) + 9
    density = blend(lambda y, t: normal(y - t, noise), stats.chi(d).pdf, 0.0, high)
    norm = lambda x: np.sqrt((x**2).sum(axis=1))  # noqa: E731
    return _noisy(lambda rng, n: rng.normal(size=(n, d)), norm, noise, density, 0.0, high)


def scale(d: int, strength: float) -> Source:
    """A standard normal t, and `d` normals with standard deviation exp(strength t).

    What is seen of t is the logarithm of their length, t itself with the logarithm of a chi as noise.
    """

    def log_chi(w: Array) -> Array:
        return np.exp(d * w - np.exp(2 * w) / 2 - (d / 2 - 1) * np.log(2) - special.gammaln(d / 2))

    low, high, reach = -30.0 / d, 4.0, 9 * strength
    density = blend(lambda y, t: log_chi(y - strength * t), normal, -9.0, 9.0)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=(n, 1))
        return x, np.exp(strength * x) * rng.normal(size=(n, d))

    return Source(draw, entropy(density, low - reach, high + reach) - entropy(log_chi, low, high))


# Copulas, with uniform margins unless said


def lomax(dx: int, dy: int, shape: float) -> Source:
    """Exponentials over one gamma variate: multivariate Lomax, whose copula is Clayton's with theta 1 / shape."""

    def negative_entropy(d: int) -> float:
        a = shape
        return float(special.gammaln(a + d) - special.gammaln(a) - (a + d) * (special.psi(a + d) - special.psi(a)))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.exponential(size=(n, dx + dy)) / rng.gamma(shape, size=(n, 1))
        return rows[:, :dx], rows[:, dx:]

    return Source(draw, negative_entropy(dx + dy) - negative_entropy(dx) - negative_entropy(dy))


def gumbel(theta: float) -> Source:
    def log_density(s: Array, t: Array) -> Array:
        a = s**theta + t**theta
        tail = (2 / theta - 2) * np.log(a) + np.log1p((theta - 1) * a ** (-1 / theta))
        return s + t - a ** (1 / theta) + (theta - 1) * np.log(s * t) + tail

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        alpha, angle, wait = 1 / theta, rng.uniform(0, np.pi, n), rng.exponential(size=n)
        stable = np.sin(alpha * angle) / np.sin(angle) ** theta  # Kanter's positive stable variate
        stable *= (np.sin((1 - alpha) * angle) / wait) ** (theta - 1)
        u, v = np.exp(-((rng.exponential(size=(2, n)) / stable) ** alpha))
        return u, v

    return Source(draw, of_copula(log_density))


def frank(theta: float) -> Source:
    def log_density(s: Array, t: Array) -> Array:
        u, v, full = np.expm1(-theta * np.exp(-s)), np.expm1(-theta * np.exp(-t)), np.expm1(-theta)
        return np.log(-theta * full * (1 + u) * (1 + v)) - 2 * np.log(np.abs(full + u * v))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        u, w = rng.random((2, n))
        return u, -np.log1p(w * np.expm1(-theta) / (w + (1 - w) * np.exp(-theta * u))) / theta

    return Source(draw, of_copula(log_density))


def morgenstern(theta: float) -> Source:
    """Farlie, Gumbel and Morgenstern's copula, 1 + theta (1 - 2u) (1 - 2v)."""

    def log_density(s: Array, t: Array) -> Array:
        return np.log1p(theta * (1 - 2 * np.exp(-s)) * (1 - 2 * np.exp(-t)))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        u, w = rng.random((2, n))
        a = theta * (1 - 2 * u)
        return u, 2 * w / (1 + a + np.sqrt((1 + a) ** 2 - 4 * a * w))

    return Source(draw, of_copula(log_density))


# Mixtures, chequers, circles and spheres


def mixture(means: list[tuple[float, float]], spread: float, correlations: list[float]) -> Source:
    """Equally likely normal blobs, of one standard deviation and a correlation each."""
    low, high = np.min(means) - 9 * spread, np.max(means) + 9 * spread
    points, weights = nodes(low, high)
    joint = np.zeros((len(points), len(points)))
    for (a, b), rho in zip(means, correlations, strict=True):
        first, second = (points[:, None] - a) / spread, (points - b) / spread
        joint += normal(first) * normal(second - rho * first, np.sqrt(1 - rho**2)) / spread**2 / len(means)
    sides = [float(weights @ special.entr(p)) for p in (joint @ weights, weights @ joint)]
    centres, rhos = np.array(means), np.array(correlations)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        blob, (first, second) = rng.integers(len(means), size=n), rng.normal(size=(2, n))
        second = rhos[blob] * first + np.sqrt(1 - rhos[blob] ** 2) * second
        return centres[blob, 0] + spread * first, centres[blob, 1] + spread * second

    return Source(draw, sum(sides) - float(weights @ special.entr(joint) @ weights))


def ring(noise: float) -> Source:
    """Coordinates of a point on the unit circle, each with normal noise."""
    edge = 1 + 9 * noise
    side = blend(lambda y, t: normal(y - np.sin(t), noise), lambda t: 0 * t + 1 / np.pi, -np.pi / 2, np.pi / 2)
    r, weights = nodes(0.0, edge)
    joint = np.exp(-0.5 * ((r - 1) / noise) ** 2) * special.i0e(r / noise**2) / (2 * np.pi * noise**2)
    both = float(weights @ (2 * np.pi * r * special.entr(joint)))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        angle, (a, b) = rng.uniform(0, 2 * np.pi, n), noise * rng.normal(size=(2, n))
        return np.cos(angle) + a, np.sin(angle) + b

    return Source(draw, 2 * entropy(side, -edge, edge) - both)


def checkers(side: int, kept: float) -> Source:
    """Uniform on the dark fields of a board, evenly many to a side, with probability `kept`, else on the light ones."""

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, dark = rng.random(n), rng.random(n) < kept
        row = 2 * rng.integers(side // 2, size=n) + (np.floor(side * x).astype(int) + ~dark) % 2
        return x, (row + rng.random(n)) / side

    return Source(draw, float(np.log(2)) - binary(kept))


def parity(dx: int, dy: int, kept: float) -> Source:
    """Standard normals; the product of all signs of x and y is positive with probability `kept`."""

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, y = rng.normal(size=(n, dx)), rng.normal(size=(n, dy))
        wanted = np.where(rng.random(n) < kept, 1, -1)
        y[:, 0] *= wanted * np.sign(x).prod(axis=1) * np.sign(y).prod(axis=1)
        return x, y

    return Source(draw, float(np.log(2)) - binary(kept))


def turns(n_turns: int, width: float) -> Source:
    """A uniform, and its multiple with uniform noise of this width, without the whole part."""
    return Source(
        lambda rng, n: ((x := rng.random(n)), (n_turns * x + width * rng.random(n)) % 1), -float(np.log(width))
    )


def von_mises(n_turns: int, kappa: float, points: bool = False) -> Source:
    """An angle, and its multiple with von Mises noise; `points` gives cosine and sine of each."""
    ratio = special.i1e(kappa) / special.i0e(kappa)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        angle = rng.uniform(-np.pi, np.pi, n)
        sides = angle, (n_turns * angle + rng.vonmises(0, kappa, n) + np.pi) % (2 * np.pi) - np.pi
        x, y = (np.column_stack([np.cos(a), np.sin(a)]) if points else a for a in sides)
        return x, y

    return Source(draw, float(kappa * ratio - np.log(special.i0e(kappa)) - kappa))


def sphere(kappa: float, radius: float) -> Source:
    """A direction in three dimensions and one drawn around it (von Mises-Fisher), each at a random distance."""

    def unit(rows: Array) -> Array:
        return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = unit(rng.normal(size=(n, 3)))
        u, across = rng.random((n, 1)), rng.normal(size=(n, 3))
        cosine = 1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa
        across = unit(across - (across * x).sum(axis=1, keepdims=True) * x)
        y = cosine * x + np.sqrt(1 - cosine**2) * across
        return x * rng.lognormal(0, radius, (n, 1)), y * rng.lognormal(0, radius, (n, 1))

    return Source(draw, float(np.log(kappa / np.sinh(kappa)) + kappa / np.tanh(kappa) - 1))


# Symbols, counts and atoms


def symbols(means: list[float]) -> Source:
    """A symbol 0, 1, ..., and a normal with the mean that belongs to it."""
    centres = np.array(means)
    density = lambda y: normal(y[:, None] - centres).mean(axis=1)  # noqa: E731

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.integers(len(means), size=n)
        return x, centres[x] + rng.normal(size=n)

    return Source(draw, entropy(density, min(means) - 9, max(means) + 9) - NORMAL_ENTROPY)


def overlapping(n_symbols: int) -> Source:
    """A symbol x, and a uniform on (x, x + 2)."""
    return Source(
        lambda rng, n: ((x := rng.integers(n_symbols, size=n)), x + rng.uniform(0, 2, n)),
        float(np.log(n_symbols) - (n_symbols - 1) / n_symbols * np.log(2)),
    )


def channel(codes: list[int], error: float) -> Source:
    """A symbol x, and `codes[x]`, or with probability `error` the code of another symbol."""
    k, code = len(codes), np.array(codes)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.integers(k, size=n)
        return x, code[(x + np.where(rng.random(n) < error, rng.integers(1, k, size=n), 0)) % k]

    return Source(draw, float(np.log(k)) - binary(error) - error * float(np.log(k - 1)))


def counts(shape: float, mean: float, zeros: float) -> Source:
    """A gamma variate, and a Poisson count of that rate, set to zero with probability `zeros`."""
    root, weights = nodes(0.0, float(np.sqrt(40 * mean)))  # of the rate, since entropies have a logarithm at rate 0
    x, weights = root**2, 2 * root * weights
    kernel = (1 - zeros) * stats.poisson.pmf(np.arange(int(60 * mean) + 40), x[:, None])
    kernel[:, 0] += zeros

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.gamma(shape, mean / shape, n)
        return x, rng.poisson(x) * (rng.random(n) >= zeros)

    return Source(draw, of_kernel(x, weights * stats.gamma(shape, scale=mean / shape).pdf(x), kernel))


def rounded(noise: float, step: float) -> Source:
    """A standard normal, and it with normal noise, rounded to multiples of `step`."""
    x, weights = nodes(-9.0, 9.0)
    edges = np.arange(-int(20 / step), int(20 / step) + 1) * step + step / 2
    kernel = np.diff(special.ndtr((edges - x[:, None]) / noise), axis=1)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=n)
        return x, step * np.round((x + noise * rng.normal(size=n)) / step)

    return Source(draw, of_kernel(x, weights * normal(x), kernel))


def rectified(noise: float) -> Source:
    """A standard normal, and it with normal noise, negative values set to zero."""
    x, weights = nodes(-9.0, 9.0)
    total = float(np.sqrt(1 + noise**2))

    def entropies(mean: Array, sd: float) -> Array:
        a = mean / sd
        above = (0.5 * np.log(2 * np.pi * sd**2) + 0.5) * special.ndtr(a) - 0.5 * a * normal(a)
        return special.entr(special.ndtr(-a)) + above

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.normal(size=n)
        return x, np.maximum(x + noise * rng.normal(size=n), 0)

    return Source(draw, float(entropies(np.zeros(1), total)[0] - (weights * normal(x)) @ entropies(x, noise)))


def with_atom(noise: float, two_sided: bool) -> Source:
    """x is zero with some probability, so that with exponential or Laplace noise y is exponential or Laplace again."""
    atom = noise**2 if two_sided else noise

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        one = (lambda: rng.laplace(size=n)) if two_sided else (lambda: rng.exponential(size=n))
        x = one() * (rng.random(n) >= atom)
        return x, x + noise * one()

    return Source(draw, -float(np.log(noise)))
