"""Further continuous pairs with known mutual information, from which `information_unseen.py` makes its tasks."""

import numpy as np
from information_quadrature import (
    NORMAL_ENTROPY,
    Array,
    blend,
    entropy,
    nodes,
    normal,
    of_copula,
    of_grid,
    radial_entropy,
)
from information_sources import Source, sphere
from numpy.random import Generator
from scipy import special, stats

# Copulas, with uniform margins


def ali_mikhail_haq(theta: float) -> Source:
    def log_density(s: Array, t: Array) -> Array:
        u, v = np.exp(-s), np.exp(-t)
        both = theta * (1 - u) * (1 - v)
        return np.log1p(theta * ((1 + u) * (1 + v) - 3) + theta * both) - 3 * np.log1p(-both)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        u, w = rng.random((2, n))
        b = theta * (1 - u)
        a = 1 - b
        linear, constant = 1 - theta - 2 * w * a * b, w * a**2
        return u, 2 * constant / (linear + np.sqrt(linear**2 + 4 * (theta - w * b**2) * constant))

    return Source(draw, of_copula(log_density))


def plackett(theta: float) -> Source:
    """Margins whose odds ratio is `theta` wherever both are cut in two."""

    def log_density(s: Array, t: Array) -> Array:
        u, v, more = np.exp(-s), np.exp(-t), theta - 1
        root = (1 + more * (u + v)) ** 2 - 4 * theta * more * u * v
        return np.log(theta) + np.log1p(more * (u + v - 2 * u * v)) - 1.5 * np.log(root)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        u, w = rng.random((2, n))
        a = w * (1 - w)
        b = theta + a * (theta - 1) ** 2
        c = 2 * a * (u * theta**2 + 1 - u) + theta * (1 - 2 * a)
        d = np.sqrt(theta * (theta + 4 * a * u * (1 - u) * (1 - theta) ** 2))
        return u, (c - (1 - 2 * w) * d) / (2 * b)

    return Source(draw, of_copula(log_density))


def joe(theta: float) -> Source:
    def log_density(s: Array, t: Array) -> Array:
        log_a, log_b = theta * np.log(-np.expm1(-s)), theta * np.log(-np.expm1(-t))
        a, b = np.exp(log_a), np.exp(log_b)
        both = a + b - a * b
        return (1 / theta - 2) * np.log(both) + (1 - 1 / theta) * (log_a + log_b) + np.log(theta - 1 + both)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        frailty = rng.geometric(rng.beta(1 / theta, 1 - 1 / theta, n))  # Sibuya's
        u, v = 1 - (-np.expm1(-rng.exponential(size=(2, n)) / frailty)) ** (1 / theta)
        return u, v

    return Source(draw, of_copula(log_density))


# Gammas and their ratios


def dirichlet(x: list[float], y: list[float], rest: float) -> Source:
    """Dirichlet shares of a whole; `rest` belongs to neither side."""

    def share(shapes: list[float]) -> float:
        return float(stats.dirichlet([*shapes, sum(x) + sum(y) + rest - sum(shapes)]).entropy())

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.dirichlet([*x, *y, rest], n)
        return rows[:, : len(x)], rows[:, len(x) : -1]

    return Source(draw, share(x) + share(y) - share([*x, *y]))


def gamma_ratio(x: list[float], y: list[float], below: float) -> Source:
    """Gamma variates of these shapes, all over another one."""

    def mean_log_density(shapes: list[float]) -> float:
        """Mean log density of gamma variates of these shapes, without terms that cancel."""
        total = sum(shapes) + below
        return float(
            special.gammaln(total) - special.gammaln(below) - total * (special.psi(total) - special.psi(below))
        )

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.gamma([*x, *y], size=(n, len(x) + len(y))) / rng.gamma(below, size=(n, 1))
        return rows[:, : len(x)], rows[:, len(x) :]

    return Source(draw, mean_log_density([*x, *y]) - mean_log_density(x) - mean_log_density(y))


def downton(rho: float) -> Source:
    """Two exponentials: half the squared lengths of normals in two dimensions, correlated one by one by sqrt(rho)."""
    root, weights = nodes(0.0, 6.5)
    square, weights = root**2, 2 * root * weights
    z = 2 * np.sqrt(rho) * np.outer(root, root) / (1 - rho)
    joint = special.i0e(z) * np.exp(z - np.add.outer(square, square) / (1 - rho)) / (1 - rho)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        one, other = rng.normal(size=(2, n, 2))
        other = np.sqrt(rho) * one + np.sqrt(1 - rho) * other
        return (one**2).sum(axis=1) / 2, (other**2).sum(axis=1) / 2

    return Source(draw, of_grid(weights, joint, weights))


# Signals with noise


def laplace_noise(noise: float) -> Source:
    """A standard normal, and it with Laplace noise of this scale."""

    def density(y: Array) -> Array:
        tails = [np.exp(z / noise + special.log_ndtr(-z - 1 / noise) + 0.5 / noise**2) for z in (y, -y)]
        return (tails[0] + tails[1]) / (2 * noise)

    return Source(
        lambda rng, n: ((x := rng.normal(size=n)), x + rng.laplace(scale=noise, size=n)),
        entropy(density, -9 - 40 * noise, 9 + 40 * noise) - 1 - float(np.log(2 * noise)),
    )


def fan(noise: float, growth: float) -> Source:
    """A uniform x on (-1, 1), and it with normal noise of standard deviation noise exp(growth x)."""
    high = 1 + 9 * noise * float(np.exp(growth))
    density = blend(lambda y, t: normal(y - t, noise * np.exp(growth * t)), lambda t: 0 * t + 0.5, -1.0, 1.0)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.uniform(-1, 1, n)
        return x, x + noise * np.exp(growth * x) * rng.normal(size=n)

    return Source(draw, entropy(density, -high, high) - NORMAL_ENTROPY - float(np.log(noise)))


def circle_sum(n_terms: int, width: float) -> Source:
    """Uniforms on (0, 1), and their sum with uniform noise of this width, without the whole part.

    Without any one of them nothing is known of the sum.
    """

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = rng.random((n, n_terms))
        return x, (x.sum(axis=1) + width * rng.random(n)) % 1

    return Source(draw, -float(np.log(width)))


def lissajous(a: int, b: int, noise: float) -> Source:
    """cos(a t) and sin(b t) of one angle t, each with normal noise."""
    t, prior = nodes(0.0, 2 * np.pi)
    points, weights = nodes(-1 - 9 * noise, 1 + 9 * noise)
    xs, ys = (normal(points[:, None] - side, noise) for side in (np.cos(a * t), np.sin(b * t)))
    joint = (xs * prior / (2 * np.pi)) @ ys.T

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        t, noises = rng.uniform(0, 2 * np.pi, n), noise * rng.normal(size=(2, n))
        return np.cos(a * t) + noises[0], np.sin(b * t) + noises[1]

    return Source(draw, of_grid(weights, joint, weights))


# Angles and directions


def wrapped_cauchy(n_turns: int, rho: float) -> Source:
    """An angle, and its multiple with wrapped Cauchy noise, whose mean direction has length `rho`."""

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        angle = rng.uniform(-np.pi, np.pi, n)
        noise = -np.log(rho) * rng.standard_cauchy(n)
        return angle, (n_turns * angle + noise + np.pi) % (2 * np.pi) - np.pi

    return Source(draw, -float(np.log1p(-(rho**2))))


def axis(kappa: float, radius: float) -> Source:
    """A direction in three dimensions and one drawn around it or its opposite, each at a random distance."""
    base = sphere(kappa, radius)

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x, y = base.draw(rng, n)
        return x, y * rng.choice([-1, 1], (n, 1))

    return Source(draw, -0.5 * entropy(lambda c: kappa * np.cosh(kappa * c) / np.sinh(kappa), -1.0, 1.0))


# Scales in common


def _isotropic(r: Array, d: int, scale: Array | float) -> Array:
    """Density of a normal vector in `d` dimensions at the length r."""
    return (normal(r / scale) / scale) * (2 * np.pi * scale**2) ** (-(d - 1) / 2)


def regimes(dx: int, dy: int, scales: list[float]) -> Source:
    """Independent normals, all of one standard deviation, which each row draws from `scales`."""

    def side(d: int) -> float:
        return radial_entropy(
            d,
            lambda r: np.mean([_isotropic(r, d, scale) for scale in scales], axis=0),
            (float(np.sqrt(d)) + 9) * max(scales),
        )

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        rows = rng.choice(scales, (n, 1)) * rng.normal(size=(n, dx + dy))
        return rows[:, :dx], rows[:, dx:]

    return Source(draw, side(dx) + side(dy) - side(dx + dy))


def gate(d: int, noise: float) -> Source:
    """A standard normal, negative values set to zero, and `d` normals times it, each with normal noise."""
    opened, weights = nodes(0.0, 9.0)
    weights = weights * normal(opened)
    total = np.sqrt(opened**2 + noise**2)

    def density(r: Array) -> Array:
        return _isotropic(r, d, noise) / 2 + _isotropic(r[:, None], d, total) @ weights

    def draw(rng: Generator, n: int) -> tuple[Array, Array]:
        x = np.maximum(rng.normal(size=(n, 1)), 0)
        return x, x * rng.normal(size=(n, d)) + noise * rng.normal(size=(n, d))

    given = d * (NORMAL_ENTROPY + np.log(noise) / 2 + float(weights @ np.log(total)))
    return Source(draw, radial_entropy(d, density, 60.0) - given)
