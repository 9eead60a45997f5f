"""Scaling laws as columns of a linear model, for given exponents.

A power x**e is written as (x**e - 1) / e, whose limit for e to 0 is ln x, not a constant; the level of the group takes
up the -1 / e. Results are converted back to A * x**e.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

LawName = Literal["additive", "log", "log-log", "multiplicative", "share"]
Logs = Mapping[str, np.ndarray]
"""N, R, D -> (n,) ln(reference / size) of the sizes in use; share -> number of layers that share weights, minus 1."""
FACTOR = re.compile(r"(?:ln)?\((?P<size>N|R|D|share)(?:0/\w| - 1)\)\^?(?P<exponent>\w*)")
"""Factor of a term in an equation, such as `(N0/N)^alpha`, `ln(N0/N)` or `(share - 1)`."""
SMALL = 1e-3
"""Arguments below which five terms of the derivative's series are exact to 1e-15."""
LEAST = 1e-290
"""Exponents closer to 0 count as 0, because products with them lose their digits."""


BOUNDS: Mapping[str, tuple[float, float]] = {"alpha": (0.02, 25.0), "beta": (-1.5, 12.0), "gamma": (0.02, 25.0)}
"""Exponent -> smallest and largest value that is searched."""


@dataclass(frozen=True)
class Column:
    """A term of a law: amplitude * prod_j x_j**exponents[j] or, without exponents, amplitude * ln x."""

    amplitude: str
    """Name of the factor in front of the term."""
    log_x: np.ndarray
    """(n, j) ln x_j."""
    exponents: tuple[int, ...] = ()
    """(j,) positions of the term's exponents among those of the law."""

    def centred(self, exponents: np.ndarray) -> np.ndarray:
        """Return the term minus 1 (..., n), at exponents (..., q); a single power is also divided by its exponent."""
        if not self.exponents:
            return np.broadcast_to(self.log_x[:, 0], (*exponents.shape[:-1], len(self.log_x)))
        grown = np.expm1(exponents[..., list(self.exponents)] @ self.log_x.T)
        if len(self.exponents) > 1:
            return np.asarray(grown)
        e = exponents[..., self.exponents[0], None]
        is_zero = np.abs(e) < LEAST
        return np.where(is_zero, self.log_x[:, 0], grown / np.where(is_zero, 1, e))

    def centred_slopes(self, exponents: np.ndarray) -> np.ndarray:
        """Return derivatives (n, q) of `centred` by the exponents (q,)."""
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
        """Return the amplitude of the printed term that a coefficient 1 of the centred column stands for."""
        if len(self.exponents) != 1:
            return 1.0
        e = float(exponents[self.exponents[0]])
        return 1 / e if e else math.inf

    def printed(self, exponents: np.ndarray) -> np.ndarray:
        """Return the term as in the printed law (..., n), at exponents (..., q) and amplitude 1."""
        if not self.exponents:
            return self.centred(exponents)
        return np.asarray(np.exp(exponents[..., list(self.exponents)] @ self.log_x.T))

    def printed_slopes(self, exponents: np.ndarray) -> np.ndarray:
        """Return derivatives (n, q) of `printed` by the exponents (q,)."""
        slopes = np.zeros((len(self.log_x), len(exponents)))
        if self.exponents:
            slopes[:, list(self.exponents)] = self.log_x * self.printed(exponents)[:, None]
        return slopes


class Law(NamedTuple):
    """Form of a scaling law, which its equation defines: terms, each an amplitude times factors of sizes."""

    equation: str
    source: str
    """Source of the law, such as a paper."""
    logarithmic: bool = False
    """Whether the law is about the logarithm of the response."""

    def factors(self, sizes: Collection[str]) -> dict[str, list[re.Match[str]]]:
        """Return amplitude -> matches of `FACTOR` with one of these sizes, for each term that has any."""
        _, *terms = self.equation.split(" + ")
        used = {term.split(" ")[0]: [part for part in FACTOR.finditer(term) if part["size"] in sizes] for term in terms}
        return {amplitude: parts for amplitude, parts in used.items() if parts}

    def equation_of(self, sizes: Collection[str]) -> str:
        """Return the equation with the factors of these sizes only."""
        terms = [
            " ".join([amplitude, *(part[0] for part in parts)]) for amplitude, parts in self.factors(sizes).items()
        ]
        return " + ".join([self.equation.split(" + ")[0], *terms])

    def terms(self, logs: Logs) -> tuple[tuple[Column, ...], tuple[str, ...]]:
        """Return the terms of the sizes in `logs` as columns, and the names of all exponents in their order."""
        factors = self.factors(logs)
        names = tuple(
            dict.fromkeys(part["exponent"] for parts in factors.values() for part in parts if part["exponent"])
        )
        columns = []
        for amplitude, parts in factors.items():
            exponents = tuple(names.index(part["exponent"]) for part in parts if part["exponent"])
            columns.append(Column(amplitude, np.stack([logs[part["size"]] for part in parts], axis=1), exponents))
        return tuple(columns), names


LAWS: Mapping[str, Law] = {
    "additive": Law(
        "E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma", "arXiv 2501.03152, eq. 8 as its text means it"
    ),
    "log": Law(
        "E + slope_N ln(N0/N) + slope_R ln(R0/R) + slope_D ln(D0/D)",
        "the limit of eq. 8 as its exponents go to 0 while A alpha, B beta and C gamma stay",
    ),
    "log-log": Law(
        "ln y = E + alpha ln(N0/N) + beta ln(R0/R) + gamma ln(D0/D)",
        "a pure power law, without a floor",
        logarithmic=True,
    ),
    "multiplicative": Law(
        "E + A (N0/N)^alpha (R0/R)^beta (D0/D)^gamma", "Zhang et al. (2024), arXiv 2402.17193, eq. 1"
    ),
    "share": Law(
        "E + slope_share (share - 1) + B (R0/R)^beta + C (D0/D)^gamma", "linear in how many layers share their weights"
    ),
}
