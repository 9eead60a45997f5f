"""The terms of a law as columns of a linear model, once their exponents are given.

A power x**e comes as (x**e - 1) / e: the constant goes to the level of its group, so that the column stays well away
from a constant while e goes to 0, where it becomes ln x. What is printed is turned back into A * x**e.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Column"]

SMALL = 1e-3
"""Arguments below which the derivative's series to the fifth term is exact to 1e-15."""
LEAST = 1e-290
"""Exponents closer to 0 count as 0: products with them lose their digits."""


@dataclass(frozen=True)
class Column:
    """amplitude * prod_j x_j**exponents[j], or, without exponents, amplitude * ln x."""

    amplitude: str
    """Name of what it is multiplied with."""
    log_x: np.ndarray
    """(n, j) ln x_j."""
    exponents: tuple[int, ...] = ()
    """(j,) places of its exponents among the law's."""
    shift: float = 0.0
    """Logarithm of what a single x is relative to here, where the law prints no such reference."""

    def centred(self, exponents: np.ndarray) -> np.ndarray:
        """(..., n) the term at exponents (..., q), less a constant; a single power over its exponent."""
        if not self.exponents:
            return np.broadcast_to(self.log_x[:, 0], (*exponents.shape[:-1], len(self.log_x)))
        grown = np.expm1(exponents[..., list(self.exponents)] @ self.log_x.T)
        if len(self.exponents) > 1:
            return np.asarray(grown)
        e = exponents[..., self.exponents[0], None]
        none = np.abs(e) < LEAST
        return np.where(none, self.log_x[:, 0], grown / np.where(none, 1, e))

    def centred_slopes(self, exponents: np.ndarray) -> np.ndarray:
        """(n, q) derivatives of `centred` by the exponents (q,)."""
        if len(self.exponents) != 1:
            return self.printed_slopes(exponents)
        u = exponents[self.exponents[0]] * self.log_x
        small = np.abs(u) < SMALL
        safe = np.where(small, 1.0, u)
        exact = (safe * np.exp(safe) - np.expm1(safe)) / safe**2
        series = 0.5 + u * (1 / 3 + u * (1 / 8 + u * (1 / 30 + u / 144)))
        slopes = np.zeros((len(u), len(exponents)))
        slopes[:, list(self.exponents)] = self.log_x**2 * np.where(small, series, exact)
        return slopes

    def per_unit(self, exponents: np.ndarray) -> float:
        """The amplitude of the printed term where the coefficient of `centred` is 1."""
        if len(self.exponents) != 1:
            return 1.0
        e = float(exponents[self.exponents[0]])
        return math.exp(-e * self.shift) / e if e else math.inf

    def printed(self, exponents: np.ndarray) -> np.ndarray:
        """(..., n) the term as printed, at amplitude 1."""
        if not self.exponents:
            return self.centred(exponents)
        return np.asarray(np.exp(exponents[..., list(self.exponents)] @ (self.log_x + self.shift).T))

    def printed_slopes(self, exponents: np.ndarray) -> np.ndarray:
        """(n, q) derivatives of `printed` by the exponents (q,)."""
        slopes = np.zeros((len(self.log_x), len(exponents)))
        if self.exponents:
            slopes[:, list(self.exponents)] = (self.log_x + self.shift) * self.printed(exponents)[:, None]
        return slopes

    def constant(self, exponents: np.ndarray) -> float:
        """What `centred` leaves out of the printed term at amplitude 1."""
        return math.exp(float(exponents[list(self.exponents)].sum()) * self.shift) if self.exponents else 0.0
