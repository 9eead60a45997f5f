"""Sources of measures: states of a run's components, or the values that capture measured where it kept no states.

A measure is a number by token. The format calls those that a run stores `reductions`, since each reduces a token's
features to a number; in Python, a `Reduction` combines the tokens of a sample, and these are measures.
"""

import numpy as np

from lorascope.stores import Run, StoreError
from lorascope.stores.names import Patterns, matching_indices
from lorascope.stores.reading.source import Source

from .measures import norm_ratio

CAPTURED_MEASURES = ("js", "effective_width", "base_norm", "delta_norm", "delta_ratio")
"""Measures that capture computes for every token if it doesn't keep all states."""
TOUCHED = "components that the adapter changes"
"""Description of the selectable components in an error message."""
GROUP_BYTES = 16 * 2**20
"""Least bytes of float32 base in one task: for smaller tasks Dask's overhead shows."""


def component_sources(run: Run, adapter: str | None = None, component: Patterns = None) -> list[Source]:
    """Return a reader of base and delta for each component that the adapter changes, in the run's order.

    `component` is a path or pattern that chooses some of them, or several.

    Raises
    ------
    StoreError
        If the run contains no states, or the adapter changes no component.
    ValueError
        If a pattern fits none of them.
    """
    ranks = run.adapter(adapter)["rank"].values
    paths = [path for path, rank in zip(run.component_paths, ranks, strict=True) if rank > 0]
    if not paths:
        raise StoreError(f"adapter {adapter or run.adapters[0]!r} of {run.place.name!r} changes no component")
    return [run.source(paths[place], adapter) for place in matching_indices(paths, component, of=TOUCHED)]


def available_measures(run: Run, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the measures in `names` that the run has: all if it stores states of all tokens, else the stored ones."""
    return names if run.states == "all" else tuple(name for name in names if name in CAPTURED_MEASURES)


def captured_measures(
    run: Run, names: tuple[str, ...], adapter: str | None, component: Patterns = None
) -> list[np.ndarray]:
    """Return one array float32 (token, changed component) per measure stored at capture; NaN if not measured.

    `component` is a path or pattern that chooses some of them, or several.

    Raises
    ------
    StoreError
        If capture didn't store such a measure.
    """
    missing = [name for name in names if name not in available_measures(run, names)]
    if missing:
        raise StoreError(f"{run.place.name!r} (states {run.states!r}) has no {missing[0]!r}, which needs all states")
    touched = np.flatnonzero(run.adapter(adapter)["rank"].values > 0)
    paths = [run.component_paths[place] for place in touched]
    chosen = touched[matching_indices(paths, component, of=TOUCHED)]

    def read_measure(name: str) -> np.ndarray:
        """Return a stored measure at these components; `delta_ratio` is computed from the stored norms."""
        if name == "delta_ratio":
            return norm_ratio(read_measure("delta_norm"), read_measure("base_norm"))
        values = run.js(adapter) if name == "js" else run.reduction(name, None if name == "base_norm" else adapter)
        return np.asarray(values.isel(component=chosen).values)

    return [read_measure(name) for name in names]
