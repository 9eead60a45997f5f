"""Entropies and mutual information by Gauss-Legendre quadrature, in nats."""

from collections.abc import Callable

import numpy as np
from scipy import special

PANELS = 60
"""Panels of 16 Gauss-Legendre nodes in each quadrature."""

Array = np.ndarray
Density = Callable[[Array], Array]
NORMAL_ENTROPY = 0.5 * np.log(2 * np.pi * np.e)
"""Entropy of a standard normal."""


def nodes(low: float, high: float) -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(16)
    half = (high - low) / PANELS / 2
    middles = low + half * (2 * np.arange(PANELS) + 1)
    return (middles[:, None] + half * points).ravel(), np.tile(half * weights, PANELS)


def entropy(density: Density, low: float, high: float) -> float:
    points, weights = nodes(low, high)
    return float(weights @ special.entr(density(points)))


def blend(given: Callable[[Array, Array], Array], prior: Density, low: float, high: float) -> Density:
    """Density of y where `given` is that of y given t, and `prior` that of t."""
    t, weights = nodes(low, high)
    return lambda y: given(y[:, None], t) @ (weights * prior(t))


def normal(z: Array, scale: Array | float = 1.0) -> Array:
    return np.exp(-0.5 * (z / scale) ** 2) / (np.sqrt(2 * np.pi) * scale)


def binary(p: float) -> float:
    return float(special.entr(p) + special.entr(1 - p))


def of_copula(log_density: Callable[[Array, Array], Array]) -> float:
    """Mutual information of a copula whose log density is given as a function of -log u and -log v."""
    z, weights = nodes(-8.5, 8.5)
    u, weights = -special.log_ndtr(z), weights * normal(z)
    log_c = log_density(u[:, None], u)
    return float(weights @ (np.exp(log_c) * log_c) @ weights)


def of_kernel(x: Array, weights: Array, kernel: Array) -> float:
    """Mutual information of x, quadrature nodes, and a discrete y with probabilities (x, y)."""
    return float(special.entr(weights @ kernel).sum() - weights @ special.entr(kernel).sum(axis=1))


def of_table(joint: Array) -> float:
    """Mutual information of the row and the column of a table of probabilities."""
    sides = [special.entr(joint.sum(axis=axis)).sum() for axis in (0, 1)]
    return float(sum(sides) - special.entr(joint).sum())


def of_grid(weights_x: Array, joint: Array, weights_y: Array) -> float:
    """Mutual information of x and y whose joint density is given at quadrature nodes (x, y)."""
    sides = weights_x @ special.entr(joint @ weights_y) + weights_y @ special.entr(weights_x @ joint)
    return float(sides - weights_x @ special.entr(joint) @ weights_y)


def radial_entropy(d: int, density: Density, high: float) -> float:
    """Entropy of a vector in `d` dimensions whose density is a function of its length, which is below `high`."""
    root, weights = nodes(0.0, float(np.sqrt(high)))  # of the length, since densities may be steep near 0
    r, weights = root**2, 2 * root * weights
    area = 2 * np.pi ** (d / 2) / special.gamma(d / 2)
    return float((weights * area * r ** (d - 1)) @ special.entr(density(r)))
