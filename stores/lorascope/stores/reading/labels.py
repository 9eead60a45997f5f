"""Names beside numbers: the sample, text, role and position of a token, each where `.sel` finds it."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..format.tables import ROLES

TOKEN_INDEXES = ("sample", "role", "position")
COMPONENT_INDEXES = ("kind", "layer", "rank")
"""Labels by which tokens and components can be selected, beside a component's own name."""


def role_names(roles: np.ndarray) -> np.ndarray:
    """Names of roles that are given by number; empty for a token that has none."""
    return np.asarray(np.array([*ROLES, ""], object)[roles])


def with_indexes(dataset: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """The dataset with an index for each of these coordinates that it has."""
    for name in names:
        if name in dataset.coords and dataset[name].ndim == 1 and name not in dataset.xindexes:
            dataset = dataset.set_xindex(name)
    return dataset


def shared(texts: np.ndarray) -> np.ndarray:
    """Text as Python's own, of which each is there once: of ten million tokens there are some thousands."""
    found = np.empty(len(texts), object)
    known: dict[str, str] = {}
    for start in range(0, len(texts), 2**16):
        part = texts[start : start + 2**16].tolist()
        found[start : start + len(part)] = [known.setdefault(text, text) for text in part]
    return found
