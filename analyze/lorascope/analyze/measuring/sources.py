"""Sources of measures: states of a run's components, or the values that capture measured where it kept no states.

A measure is a number by token. The format calls those that a run stores `reductions`, since each reduces a token's
features to a number; in Python, a `Reduction` combines the tokens of a sample, and these are measures.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.stores import Run, StoreError
from lorascope.stores.names import matching_indices
from lorascope.stores.reading.source import Source

from .measures import norm_ratio

TAKEN = ("js", "effective_width", "base_norm", "delta_norm", "delta_ratio")
"""Measures that capture takes of every token where it doesn't keep all states."""
TOUCHED = "components that the adapter touches"
"""Components of which some can be chosen, as an error calls them."""
GROUP_BYTES = 16 * 2**20
"""Least bytes of float32 base in one task: below that Dask's own time shows."""


def sources_of(run: Run, adapter: str | None = None, components: Sequence[str] | None = None) -> list[Source]:
    """Components that the adapter touches, in the run's order: all, or those of these paths and patterns.

    Raises
    ------
    StoreError
        If the run holds no states, or the adapter touches no component.
    ValueError
        If a pattern fits none of them.
    """
    ranks = run.adapter(adapter)["rank"].values
    paths = [path for path, rank in zip(run.component_paths, ranks, strict=True) if rank > 0]
    if not paths:
        raise StoreError(f"adapter {adapter or run.adapters[0]!r} of {run.place.name!r} touches no component")
    return [run.source(paths[place], adapter) for place in matching_indices(paths, components, of=TOUCHED)]


def keeps_all_states(run: Run) -> bool:
    """Tell whether measures can be computed from the states of every token; else those of capture are used."""
    return run.states == "all"


def captured_measure(run: Run, name: str, adapter: str | None = None) -> xr.DataArray | None:
    """A measure that capture took, lazy, by token (and component); None where the run doesn't hold it."""
    run.adapter(adapter)  # an adapter that isn't there is a mistake, not a missing measure
    try:
        return run.reduction(name, adapter)
    except StoreError:
        return None


def available(run: Run, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the measures that this run can give: all from states, else those that capture took."""
    return names if keeps_all_states(run) else tuple(name for name in names if name in TAKEN)


def captured_measures(run: Run, names: tuple[str, ...], adapter: str | None) -> list[np.ndarray]:
    """Measures as capture took them, float32 (token, component that the adapter touches) each; NaN where it didn't.

    Raises
    ------
    StoreError
        If capture took no such measure.
    """
    missing = [name for name in names if name not in available(run, names)]
    if missing:
        raise StoreError(f"{run.place.name!r} (states {run.states!r}) holds no {missing[0]!r}; that takes all states")
    touched = run.adapter(adapter)["rank"].values > 0

    def take(name: str) -> np.ndarray:
        if name == "delta_ratio":
            return norm_ratio(take("delta_norm"), take("base_norm"))
        values = run.js(adapter) if name == "js" else run.reduction(name, None if name == "base_norm" else adapter)
        return np.asarray(values.values)

    return [take(name)[:, touched] for name in names]
