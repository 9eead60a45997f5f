"""What tables list of a result: components in their order, their names, and how many there are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from lorascope.analyze.information.estimators import ESTIMATORS

__all__ = [
    "Listed",
    "chosen_estimator",
    "columns_of",
    "counted",
    "is_of_states",
    "listed",
    "names_of",
    "number",
    "sides",
]


class Listed(NamedTuple):
    """Components, or blocks of them, the largest values first."""

    places: np.ndarray
    """Int (row,): in what `columns_of` gives."""
    names: list[str]
    """Without what all of them begin with."""
    header: str
    """What all of them begin with."""
    title: str
    """How many of how many."""


def listed(result: xr.Dataset, estimator: str, top: int) -> Listed:
    """Those with the largest values; those without come last."""
    values = columns_of(result, estimator)["value"]
    places = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")[:top]
    names = names_of(result)
    header, short = _shortened([names[place] for place in places])
    title = f"the {len(places)} largest of {counted(result)}" if len(places) < len(names) else counted(result)
    return Listed(places, short, header, title)


def columns_of(result: xr.Dataset, estimator: str) -> dict[str, np.ndarray]:
    """What is known of one estimator, each variable as (component,), or (component and block,)."""
    one, dims = result.sel(estimator=estimator), result["note"].dims
    return {str(name): values.values.ravel() for name, values in one.data_vars.items() if values.dims == dims}


def names_of(result: xr.Dataset) -> list[str]:
    """Paths, with the number of the block where features were cut."""
    paths = [str(path) for path in result["component"].values]
    if "block" not in result.dims:
        return paths
    return [f"{path} [{block}]" for path in paths for block in range(result.sizes["block"])]


def chosen_estimator(result: xr.Dataset) -> str:
    """The one whose values are listed."""
    names = [str(name) for name in result["estimator"].values]
    return "panel" if "panel" in names else names[0]


def is_of_states(estimator: str) -> bool:
    """Whether it looks at all features of a state, at no axes."""
    return estimator in ESTIMATORS and ESTIMATORS[estimator].whole


def counted(result: xr.Dataset) -> str:
    """How many components, or blocks, there are."""
    return number(result["note"].size, "block" if "block" in result.dims else "component")


def number(n: int, what: str) -> str:
    """So many of them.

    Examples
    --------
    >>> number(1, "block"), number(2, "block")
    ('1 block', '2 blocks')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def sides(result: xr.Dataset) -> str:
    """What depends on what."""
    return f"mutual information of base and {result.attrs['against']}"


def _shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    parts = [name.split(".") for name in names]
    least = min(map(len, parts), default=1) if len(parts) > 1 else 1  # something of each name is to remain
    n_shared = 0
    while n_shared < least - 1 and len({part[n_shared] for part in parts}) == 1:
        n_shared += 1
    if not n_shared:
        return "component", list(names)
    return f"{'.'.join(parts[0][:n_shared])}.…", [f"…{'.'.join(part[n_shared:])}" for part in parts]
