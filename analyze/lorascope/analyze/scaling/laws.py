"""The laws: which terms each has, of what, with which exponents."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from .columns import Column

__all__ = ["AXES", "BOUNDS", "LAWS", "Axes", "Axis", "Law", "LawName", "law_named"]

LawName = Literal["additive", "as printed", "log", "log-log", "multiplicative", "share"]
Terms = tuple[tuple[Column, ...], tuple[str, ...]]
"""Columns, and the names of their exponents in the order of their places."""


class Axis(NamedTuple):
    """Names of a size's amplitude and exponent."""

    amplitude: str
    exponent: str


AXES: Mapping[str, Axis] = {"N": Axis("A", "alpha"), "R": Axis("B", "beta"), "D": Axis("C", "gamma")}
"""Parameters of the model, LoRA rank, size of the data set."""
BOUNDS: Mapping[str, tuple[float, float]] = {"alpha": (0.02, 25.0), "beta": (-1.5, 12.0), "gamma": (0.02, 25.0)}
"""Where exponents are looked for, unless told otherwise."""


class Axes(NamedTuple):
    """What the terms are made of."""

    values: Mapping[str, np.ndarray]
    """N, R, D: (n,) ln(reference / size), of those in use; `D/R`: ln(D / R) less its shift; `share`: layers that share
    weights, less 1."""
    shift: float = 0.0
    """Logarithm of the D/R that `values` are relative to."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes among `values`: N, R, D."""
        return tuple(name for name in self.values if name in AXES)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that a law can be without: sizes and share."""
        return tuple(name for name in self.values if name != "D/R")

    def without(self, name: str) -> "Axes":
        """The others, less what the one left out is part of."""
        gone = {name, "D/R"} if name in ("D", "R") else {name}
        return self._replace(values={one: values for one, values in self.values.items() if one not in gone})


class Law(NamedTuple):
    """One form of dependence on the sizes."""

    equation: str
    terms: Callable[[Axes], Terms]
    source: str
    logarithmic: bool = False
    """Whether it is a law of the logarithm of the response."""


def _powers(axes: Axes) -> Terms:
    terms = [(AXES[name], axes.values[name][:, None]) for name in axes.sizes]
    columns = tuple(Column(one.amplitude, logs, (place,)) for place, (one, logs) in enumerate(terms))
    return columns, tuple(one.exponent for one, _ in terms)


def _as_printed(axes: Axes) -> Terms:
    columns, exponents = _powers(Axes({k: v for k, v in axes.values.items() if k != "D"}))
    if "D/R" not in axes.values:
        return columns, exponents
    alpha = exponents if "alpha" in exponents else (*exponents, "alpha")
    return (*columns, Column("C", axes.values["D/R"][:, None], (alpha.index("alpha"),), axes.shift)), alpha


def _straight(axes: Axes, names: Mapping[str, str]) -> Terms:
    return tuple(Column(names[one], axes.values[one][:, None]) for one in axes.sizes), ()


def _multiplicative(axes: Axes) -> Terms:
    if not axes.sizes:
        return (), ()
    logs = np.stack([axes.values[name] for name in axes.sizes], axis=1)
    return (Column("A", logs, tuple(range(len(axes.sizes)))),), tuple(AXES[name].exponent for name in axes.sizes)


def _share(axes: Axes) -> Terms:
    columns, exponents = _powers(axes)
    share = (Column("slope_share", axes.values["share"][:, None]),) if "share" in axes.values else ()
    return (*share, *columns), exponents


LAWS: Mapping[LawName, Law] = {
    "additive": Law(
        "E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma", _powers, "arXiv 2501.03152, eq. 8 as its text means it"
    ),
    "as printed": Law(
        "E + A (N0/N)^alpha + B (R0/R)^beta + C (D/R)^alpha", _as_printed, "arXiv 2501.03152, eq. 8 as it is printed"
    ),
    "log": Law(
        "E + slope_N ln(N0/N) + slope_R ln(R0/R) + slope_D ln(D0/D)",
        lambda axes: _straight(axes, {name: f"slope_{name}" for name in AXES}),
        "the limit of eq. 8 as its exponents go to 0 while A alpha, B beta and C gamma stay",
    ),
    "log-log": Law(
        "ln y = E + alpha ln(N0/N) + beta ln(R0/R) + gamma ln(D0/D)",
        lambda axes: _straight(axes, {name: axis.exponent for name, axis in AXES.items()}),
        "a pure power law, without a floor",
        logarithmic=True,
    ),
    "multiplicative": Law(
        "E + A (N0/N)^alpha (R0/R)^beta (D0/D)^gamma", _multiplicative, "Zhang et al. (2024), arXiv 2402.17193, eq. 1"
    ),
    "share": Law(
        "E + slope_share (share - 1) + B (R0/R)^beta + C (D0/D)^gamma",
        _share,
        "linear in how many layers share their weights",
    ),
}


def law_named(name: str) -> Law:
    """One of `LAWS`; raises ValueError if there is none of this name."""
    for known, law in LAWS.items():
        if known == name:
            return law
    raise ValueError(f"`law` is {name!r}; it is one of {list(get_args(LawName))}")
