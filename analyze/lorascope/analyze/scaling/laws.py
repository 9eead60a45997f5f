"""The laws: which terms each has, of what, with which exponents."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import numpy as np

from .columns import Column, Power, Product, Straight

__all__ = ["AXES", "BOUNDS", "LAWS", "Axes", "Axis", "Law", "LawName", "law_named"]

LawName = Literal["additive", "as printed", "log", "log-log", "multiplicative", "share"]


class Axis(NamedTuple):
    """One of the sizes that a law is about."""

    amplitude: str
    exponent: str
    what: str


AXES: Mapping[str, Axis] = {
    "N": Axis("A", "alpha", "parameters of the model"),
    "R": Axis("B", "beta", "LoRA rank"),
    "D": Axis("C", "gamma", "size of the data set"),
}
BOUNDS: Mapping[str, tuple[float, float]] = {"alpha": (0.02, 25.0), "beta": (-1.5, 12.0), "gamma": (0.02, 25.0)}
"""Where exponents are looked for, unless told otherwise."""


class Axes(NamedTuple):
    """What the terms are made of."""

    logs: Mapping[str, np.ndarray]
    """Axis -> (n,) ln(reference / size), of those in use; the reference lies among the sizes."""
    share: np.ndarray | None
    """(n,) layers that share weights, less 1."""
    log_data_per_rank: np.ndarray | None
    """(n,) ln(D / R), less its shift."""
    shifts: Mapping[str, float] = MappingProxyType({})
    """Axis -> what is added to its logarithms in what is printed: ln of the reference asked for over that of `logs`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that terms are made of."""
        return (*self.logs, *(("share",) if self.share is not None else ()))

    def take(self, rows: np.ndarray) -> "Axes":
        """The same of some rows."""
        return Axes(
            {name: values[rows] for name, values in self.logs.items()},
            None if self.share is None else self.share[rows],
            None if self.log_data_per_rank is None else self.log_data_per_rank[rows],
            self.shifts,
        )

    def without(self, name: str) -> "Axes":
        """The same but for one, and for all that it is part of."""
        return Axes(
            {one: values for one, values in self.logs.items() if one != name},
            None if name == "share" else self.share,
            None if name in ("D", "R") else self.log_data_per_rank,
            self.shifts,
        )


class Law(NamedTuple):
    """One form of dependence on the sizes."""

    equation: str
    terms: Callable[[Axes], tuple[tuple[Column, ...], tuple[str, ...]]]
    """Columns, and the names of their exponents in the order of their places."""
    source: str
    logarithmic: bool = False
    """Whether it is a law of the logarithm of the response."""


def _powers(axes: Axes) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    names = list(axes.logs)
    columns = tuple(
        Power(AXES[name].amplitude, axes.logs[name], place, axes.shifts.get(name, 0.0))
        for place, name in enumerate(names)
    )
    return columns, tuple(AXES[name].exponent for name in names)


def _as_printed(axes: Axes) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    columns, exponents = _powers(axes._replace(logs={name: axes.logs[name] for name in axes.logs if name != "D"}))
    if axes.log_data_per_rank is None:
        return columns, exponents
    alpha = exponents if "alpha" in exponents else (*exponents, "alpha")
    return (*columns, Power("C", axes.log_data_per_rank, alpha.index("alpha"), axes.shifts.get("D/R", 0.0))), alpha


def _straight(slope: str) -> Callable[[Axes], tuple[tuple[Column, ...], tuple[str, ...]]]:
    def terms(axes: Axes) -> tuple[tuple[Column, ...], tuple[str, ...]]:
        names = {name: AXES[name].exponent if slope == "exponent" else f"slope_{name}" for name in axes.logs}
        return tuple(Straight(names[name], axes.logs[name], axes.shifts.get(name, 0.0)) for name in axes.logs), ()

    return terms


def _multiplicative(axes: Axes) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    if not axes.logs:
        return (), ()
    logs = np.stack(list(axes.logs.values()), axis=1)
    exponents = tuple(AXES[name].exponent for name in axes.logs)
    shifts = np.array([axes.shifts.get(name, 0.0) for name in axes.logs])
    return (Product("A", logs, tuple(range(len(exponents))), shifts),), exponents


def _share(axes: Axes) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    columns, exponents = _powers(axes)
    return ((Straight("slope_share", axes.share), *columns) if axes.share is not None else columns), exponents


LAWS: Mapping[LawName, Law] = {
    "additive": Law(
        "E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma", _powers, "arXiv 2501.03152, eq. 8 as its text means it"
    ),
    "as printed": Law(
        "E + A (N0/N)^alpha + B (R0/R)^beta + C (D/R)^alpha", _as_printed, "arXiv 2501.03152, eq. 8 as it is printed"
    ),
    "log": Law(
        "E + slope_N ln(N0/N) + slope_R ln(R0/R) + slope_D ln(D0/D)",
        _straight("slope"),
        "the limit of eq. 8 as its exponents go to 0 while A alpha, B beta and C gamma stay",
    ),
    "log-log": Law(
        "ln y = E + alpha ln(N0/N) + beta ln(R0/R) + gamma ln(D0/D)",
        _straight("exponent"),
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
    """One of `LAWS`.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    for known, law in LAWS.items():
        if known == name:
            return law
    raise ValueError(f"`law` is {name!r}; it is one of {list(get_args(LawName))}")
