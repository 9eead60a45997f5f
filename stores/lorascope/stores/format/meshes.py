"""Meshes of processes that wrote a run's rows: an attribute of runs that were continued by another one.

Where several processes share each layer (tensor parallel), sums are added up in another order, which moves numbers by
rounding. Processes that take different batches compute equal bits, so they are no part of a mesh here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def stored_meshes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a run's meshes in the order of time, from its root attributes; one if it has no attribute on them.

    Each has `tensor_parallel`, the number of processes that share a layer, and `before`, the [start, stop) ranges of
    rows that were committed when it began.
    """
    settings = (attributes.get("provenance") or {}).get("settings") or {}
    first = {"tensor_parallel": settings.get("tensor_parallel", 1), "before": []}
    return list(attributes.get("meshes") or [first])


def rows_by_mesh(attributes: Mapping[str, Any], committed_rows: np.ndarray) -> list[tuple[int, list[list[int]]]]:
    """Return the number of processes that share a layer, and the [start, stop) ranges of rows they wrote, by mesh.

    Parameters
    ----------
    attributes
        Root attributes of a run.
    committed_rows
        Its committed rows, bool (row,).
    """
    meshes, later, written = stored_meshes(attributes), committed_rows, []
    for mesh in reversed(meshes):
        earlier = np.zeros_like(committed_rows)
        for start, stop in mesh["before"]:
            earlier[start:stop] = True
        if rows := row_ranges(later & ~earlier):
            written.append((mesh["tensor_parallel"], rows))
        later = earlier
    return written[::-1]


def row_ranges(rows: np.ndarray) -> list[list[int]]:
    """Return the [start, stop) ranges of consecutive rows in a mask, bool (row,)."""
    edges: list[list[int]] = np.flatnonzero(np.diff(rows, prepend=False, append=False)).reshape(-1, 2).tolist()
    return edges


def are_meshes(value: Any) -> bool:
    """Return whether the value of the attribute `meshes` has the form that `stored_meshes` describes."""
    return isinstance(value, list) and all(
        isinstance(mesh, dict)
        and type(mesh.get("tensor_parallel")) is int
        and isinstance(mesh.get("before"), list)
        and all(isinstance(pair, list) and [*map(type, pair)] == [int, int] for pair in mesh["before"])
        for mesh in value
    )
