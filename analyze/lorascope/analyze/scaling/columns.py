"""The terms of a law as columns of a linear model, once their exponents are given.

A power x**e comes as (x**e - 1) / e: the constant goes to the level of its group, so that the column stays well away
from a constant while e goes to 0, where it becomes ln x. What is printed is turned back into A * x**e, with the size
taken relative to the reference that was asked for: `shift` is the logarithm of that over the one used within.

Every column has an `amplitude` (the name of what it is multiplied with), the places of its `exponents`, and, for
exponents (..., q):

- `centred` (..., n): the term less a constant, over what `per_unit` says; `centred_slopes` (n, q): its derivatives;
- `printed` (..., n): the term as printed, at amplitude 1; `printed_slopes` (n, q): its derivatives;
- `per_unit`: the amplitude of the printed term where the coefficient of `centred` is 1;
- `constant`: what `centred` leaves out of the printed term at amplitude 1.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Column", "Power", "Product", "Straight"]

SMALL = 1e-3
"""Arguments below which the derivative's series to the fifth term is exact to 1e-15."""
LEAST = 1e-290
"""Exponents closer to 0 count as 0: products with them lose their digits."""


@dataclass(frozen=True)
class Power:
    """amplitude * x**exponents[place], with ln x as `log_x` (n,)."""

    amplitude: str
    log_x: np.ndarray
    place: int
    shift: float = 0.0

    @property
    def exponents(self) -> tuple[int, ...]:
        return (self.place,)

    def centred(self, exponents: np.ndarray) -> np.ndarray:
        e = exponents[..., self.place, None]
        none = np.abs(e) < LEAST
        return np.where(none, self.log_x, np.expm1(e * self.log_x) / np.where(none, 1, e))

    def centred_slopes(self, exponents: np.ndarray) -> np.ndarray:
        u = exponents[self.place] * self.log_x
        small = np.abs(u) < SMALL
        safe = np.where(small, 1.0, u)
        exact = (safe * np.exp(safe) - np.expm1(safe)) / safe**2
        series = 0.5 + u * (1 / 3 + u * (1 / 8 + u * (1 / 30 + u / 144)))
        return self._at_place(self.log_x**2 * np.where(small, series, exact), exponents)

    def per_unit(self, exponents: np.ndarray) -> float:
        e = float(exponents[self.place])
        return math.exp(-e * self.shift) / e if e else math.inf

    def printed(self, exponents: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(exponents[..., self.place, None] * (self.log_x + self.shift)))

    def printed_slopes(self, exponents: np.ndarray) -> np.ndarray:
        return self._at_place((self.log_x + self.shift) * self.printed(exponents), exponents)

    def constant(self, exponents: np.ndarray) -> float:
        return math.exp(float(exponents[self.place]) * self.shift)

    def _at_place(self, values: np.ndarray, exponents: np.ndarray) -> np.ndarray:
        slopes = np.zeros((len(values), len(exponents)))
        slopes[:, self.place] = values
        return slopes


@dataclass(frozen=True)
class Product:
    """amplitude * prod_j x_j**exponents[j], with ln x_j as columns of `log_x` (n, j) and a shift (j,) for each."""

    amplitude: str
    log_x: np.ndarray
    exponents: tuple[int, ...]
    shifts: np.ndarray

    def centred(self, exponents: np.ndarray) -> np.ndarray:
        return np.asarray(np.expm1(self._power(exponents, self.log_x)))

    def centred_slopes(self, exponents: np.ndarray) -> np.ndarray:
        return self._slopes(exponents, self.log_x)

    def per_unit(self, exponents: np.ndarray) -> float:
        return 1 / self.constant(exponents)

    def printed(self, exponents: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(self._power(exponents, self.log_x + self.shifts)))

    def printed_slopes(self, exponents: np.ndarray) -> np.ndarray:
        return self._slopes(exponents, self.log_x + self.shifts)

    def constant(self, exponents: np.ndarray) -> float:
        return math.exp(float(exponents[list(self.exponents)] @ self.shifts))

    def _power(self, exponents: np.ndarray, logs: np.ndarray) -> np.ndarray:
        return np.asarray(exponents[..., list(self.exponents)] @ logs.T)

    def _slopes(self, exponents: np.ndarray, logs: np.ndarray) -> np.ndarray:
        slopes = np.zeros((len(logs), len(exponents)))
        slopes[:, list(self.exponents)] = logs * np.exp(self._power(exponents, logs))[:, None]
        return slopes


@dataclass(frozen=True)
class Straight:
    """amplitude * x, with x (n,)."""

    amplitude: str
    x: np.ndarray
    shift: float = 0.0
    exponents: tuple[int, ...] = ()

    def centred(self, exponents: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.x, (*exponents.shape[:-1], len(self.x)))

    def centred_slopes(self, exponents: np.ndarray) -> np.ndarray:
        return np.zeros((len(self.x), len(exponents)))

    def per_unit(self, exponents: np.ndarray) -> float:
        return 1.0

    def printed(self, exponents: np.ndarray) -> np.ndarray:
        return np.asarray(self.x + self.shift)

    def printed_slopes(self, exponents: np.ndarray) -> np.ndarray:
        return self.centred_slopes(exponents)

    def constant(self, exponents: np.ndarray) -> float:
        return self.shift


Column = Power | Product | Straight
