"""Invertible maps of rows, which change no mutual information."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

SEED = 21
"""Begins the seeds of all matrices and rows."""

Array = np.ndarray


class Map(NamedTuple):
    """An invertible map of rows (n, d) and its inverse."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


def rotation(key: int) -> Map:
    def matrix(d: int) -> Array:
        q, r = np.linalg.qr(np.random.default_rng([SEED, key, d]).normal(size=(d, d)))
        return q * np.sign(np.diag(r))

    return Map(lambda x: x @ matrix(x.shape[1]), lambda x: x @ matrix(x.shape[1]).T)


def swirl(speed: float) -> Map:
    """Turns the planes of coordinates 0 and 1, 2 and 3, ... by an angle that grows with the row's squared length."""

    def turn(x: Array, sign: float) -> Array:
        angle = sign * speed * (x**2).sum(axis=1)
        out, c, s = x.copy(), np.cos(angle), np.sin(angle)
        for i in range(0, x.shape[1] - 1, 2):
            out[:, i], out[:, i + 1] = c * x[:, i] - s * x[:, i + 1], s * x[:, i] + c * x[:, i + 1]
        return out

    return Map(lambda x: turn(x, 1.0), lambda x: turn(x, -1.0))


def wiggle(height: float, frequency: float) -> Map:
    def inverse(y: Array) -> Array:
        x = y
        for _ in range(1000):  # contracts by height times frequency, which is below 1
            x = y - height * np.sin(frequency * x)
        return x

    return Map(lambda x: x + height * np.sin(frequency * x), inverse)


def triangular(bend: float) -> Map:
    """Scales and shifts each coordinate by functions of the one before it."""

    def forward(x: Array) -> Array:
        before = x[:, :-1]
        return np.column_stack([x[:, :1], x[:, 1:] * np.exp(np.tanh(before)) + bend * before**2])

    def inverse(y: Array) -> Array:
        x = y.copy()
        for i in range(1, y.shape[1]):
            x[:, i] = (y[:, i] - bend * x[:, i - 1] ** 2) * np.exp(-np.tanh(x[:, i - 1]))
        return x

    return Map(forward, inverse)


def margin(wanted: stats.rv_continuous, found: stats.rv_continuous = stats.uniform) -> Map:
    """Columns distributed as `found`, made to be distributed as `wanted`."""
    return Map(lambda x: wanted.ppf(found.cdf(x)), lambda x: found.ppf(wanted.cdf(x)))


def stretch(key: int, ratio: float) -> Map:
    """A linear map that isn't a rotation; its largest singular value is `ratio` times the smallest."""

    def matrix(d: int) -> Array:
        left, _, right = np.linalg.svd(np.random.default_rng([SEED, key, d]).normal(size=(d, d)))
        return left * np.geomspace(1, ratio, d) @ right

    return Map(lambda x: x @ matrix(x.shape[1]), lambda x: np.linalg.solve(matrix(x.shape[1]).T, x.T).T)


def coupling(strength: float) -> Map:
    """Scales and shifts the latter half of the coordinates by waves of the sum of the former half."""

    def bend(former: Array) -> tuple[Array, Array]:
        total = former.sum(axis=1, keepdims=True)
        return np.exp(strength * np.cos(total)), 2 * np.sin(2 * strength * total)

    def forward(x: Array) -> Array:
        former, latter = np.split(x, [(x.shape[1] + 1) // 2], axis=1)
        scale, shift = bend(former)
        return np.column_stack([former, latter * scale + shift])

    def inverse(y: Array) -> Array:
        former, latter = np.split(y, [(y.shape[1] + 1) // 2], axis=1)
        scale, shift = bend(former)
        return np.column_stack([former, (latter - shift) / scale])

    return Map(forward, inverse)


def power(exponent: float) -> Map:
    """Powers of magnitudes, with their signs."""
    return Map(
        lambda x: np.sign(x) * np.abs(x) ** exponent,
        lambda x: np.sign(x) * np.abs(x) ** (1 / exponent),
    )


NORMAL = margin(stats.norm)
"""Uniform columns made normal."""
CUBE = Map(lambda x: x**3, np.cbrt)
SINH = Map(np.sinh, np.arcsinh)
EXP = Map(np.exp, np.log)
