"""How far the joint distribution of two variables is from the product of its marginals."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr


class Dependence(NamedTuple):
    """Divergences in nats of a joint distribution P and the product Q of its marginals; M = (P + Q)/2."""

    mutual_information: float
    """KL(P || Q)."""
    js: float
    """JS(P || Q)."""
    kl_mixture: float
    """KL(M || Q)."""


def by_definition(p: np.ndarray, q: np.ndarray) -> Dependence:
    """Divergences of pairs (..., symbol), in float64 and as the definitions have it."""
    m = (p + q) / 2
    js = (rel_entr(p, m) + rel_entr(q, m)).sum(-1) / 2
    return Dependence(rel_entr(p, q).sum(-1), js, rel_entr(m, q).sum(-1))


def dependence(joint: np.ndarray) -> Dependence:
    """Divergences of a table of probabilities (symbol of one side, symbol of the other)."""
    return by_definition(joint.ravel(), np.outer(joint.sum(axis=1), joint.sum(axis=0)).ravel())


def normals(rho: float) -> np.ndarray:
    """Two normals of correlation `rho` on a grid so fine that its sums are the integrals to ten digits."""
    rest = 1 - rho**2
    x = np.arange(-7, 7, min(0.25, math.sqrt(rest) / 2))
    density = np.exp(-(x**2 + x[:, None] ** 2 - 2 * rho * x * x[:, None]) / (2 * rest))
    return density / density.sum()
