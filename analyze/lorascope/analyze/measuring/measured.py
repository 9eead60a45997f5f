"""Measures of a run by token and component as a dataset, computed in batches of components."""

import uuid
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.stores import Run

from ..weights import token_weights
from .captured import captured_measures, counted_tokens, keeps_all_states
from .compute import Progress, Workers, workers
from .measure import measure_sources
from .measures import MEASURES, Measure, resolve
from .partial import CHUNK_COMPONENTS, Partial, open_partial
from .sources import GROUP_BYTES, Source, group_sizes, sources_of

__all__ = ["measure_run"]

BATCH_TASKS = 32
"""Least tasks for each worker in a batch: at its end a worker waits for at most one."""
BATCH_BYTES = 128 * 2**20
"""Most results that are held at a time, unless one component has more."""


def measure_run(
    run: Run,
    names: Sequence[str | Measure],
    *,
    adapter: str | None = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
    out: Path | None = None,
) -> xr.Dataset:
    """Measures (token, component) of a run as a dataset, one float32 variable each; see `MEASURES`.

    They are computed from states where those of all tokens were kept, and are else those that capture took.

    Parameters
    ----------
    run
        An open run, finished or not; tokens that aren't committed are NaN.
    names
        Of `MEASURES`, or measures of your own, made by `token_measure`.
    adapter
        Name of the adapter; may be left out where there is one.
    scheduler, n_workers
        Where tasks run; see `compute.workers`. No number depends on it.
    progress
        Called with (tasks done, tasks in all).
    out
        Name of the result that this becomes a part of. Values then go to the disk beside it, component by component,
        and the dataset reads them from there; what a call that was stopped had done already isn't computed again.

    Returns
    -------
    xr.Dataset
        Coordinates are those of `component` (kind, layer, rank, d_out, `delta_source`) and of `token`: its sample,
        position, role and weight, and which tokens are `counted`: have been measured.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`.
    StoreError
        If a chunk is broken, or capture didn't measure what is asked for and states aren't there.
    """
    measures = resolve(names)[1]
    if not keeps_all_states(run):
        blocks = captured_measures(run, tuple(measures), adapter)
        return _dataset(run, adapter, dict(zip(measures, blocks, strict=True)), measures)
    sources = sources_of(run, adapter)
    shape = (run.n_tokens, len(sources))
    if out is None:
        arrays = {name: np.empty(shape, np.float32) for name in measures}
        _fill(_Held(arrays), sources, names, scheduler, n_workers, progress)
        return _dataset(run, adapter, arrays, measures)
    partial = open_partial(out, identity=_identity(run, adapter, measures), attributes=measures, shape=shape)
    _fill(partial, sources, names, scheduler, n_workers, progress)
    stored = partial.open()
    return _dataset(run, adapter, {name: stored[name].variable for name in measures}, measures)


class _Held:
    """What `Partial` is on disk, in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.done = np.zeros(next(iter(arrays.values())).shape[1], bool)

    def write(self, components: slice, blocks: Mapping[str, np.ndarray]) -> None:
        for name, block in blocks.items():
            self._arrays[name][:, components] = block


def _fill(
    target: Partial | _Held,
    sources: Sequence[Source],
    names: Sequence[str | Measure],
    scheduler: Any,
    n_workers: int | None,
    progress: Progress | None,
) -> None:
    """Compute the components that aren't done, a batch at a time."""
    outputs = resolve(names)[1]
    done = target.done
    with workers(scheduler, n_workers) as found:
        group_bytes = GROUP_BYTES * _together(sources, found)
        cut = _batches(sources, group_bytes=group_bytes, n_threads=found.n_threads, n_outputs=len(outputs))
        batches = [batch for batch in cut if not done[batch].all()]
        n_groups = sum(len(group_sizes(sources[batch], group_bytes)) for batch in batches)
        tasks = _Count(n_groups * sources[0].base.n_rows, progress)
        for batch in batches:
            array = measure_sources(sources[batch], names, group_bytes=group_bytes)
            target.write(batch, dict(zip(outputs, found.compute(array, tasks.one_more), strict=True)))


def _together(sources: Sequence[Source], found: Workers) -> int:
    """How many times `GROUP_BYTES` a task is to have: as much as is allowed, as long as every worker has a queue."""
    n_tasks = len(group_sizes(sources, GROUP_BYTES)) * sources[0].base.n_rows
    return max(1, min(found.most_together, n_tasks // (BATCH_TASKS * found.n_threads)))


class _Count:
    """Tasks that are done, of all."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def one_more(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _batches(sources: Sequence[Source], *, group_bytes: int, n_threads: int, n_outputs: int) -> list[slice]:
    """Neighbours that are computed together: whole chunks of the result where that is no more than `BATCH_BYTES`."""
    rows = sources[0].base
    group = max(group_sizes(sources, group_bytes))
    wanted = -(-BATCH_TASKS * n_threads * group // rows.n_rows)
    most = max(1, BATCH_BYTES // (4 * n_outputs * rows.shape[0]))
    size = min(-(-wanted // CHUNK_COMPONENTS) * CHUNK_COMPONENTS, most)
    if size > CHUNK_COMPONENTS:
        size -= size % CHUNK_COMPONENTS
    return [slice(start, min(start + size, len(sources))) for start in range(0, len(sources), size)]


def _identity(run: Run, adapter: str | None, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the numbers of a result."""
    return {
        "static_digest": run.attributes["static_digest"],
        "rows": sha256(b"".join(run.digest(row).tobytes() for row in range(run.n_rows))).hexdigest(),
        "adapter": adapter or run.adapters[0],
        "measures": [name if name in MEASURES else f"{name} {uuid.uuid4()}" for name in measures],  # yours may change
        "lorascope": version("lorascope"),
    }


def _dataset(
    run: Run, adapter: str | None, values: Mapping[str, Any], attributes: Mapping[str, Mapping[str, str]]
) -> xr.Dataset:
    table = run.components.assign(run.adapter(adapter))
    table = table.isel(component=np.flatnonzero(table["rank"].values > 0))
    # In a pair, what is measured as delta is a difference whatever the adapter's own branch is kept as.
    labels = ["kind", "layer", "d_out", "rank"] + ([] if run.stream == "pair" else ["delta_source"])
    tokens = {"sample_of_token": "sample", "position": "position", "role": "role"}
    js = values["js"] if "js" in values else next(iter(values.values()))
    return xr.Dataset(
        {
            name: block if isinstance(block, xr.Variable) else (("token", "component"), block, dict(attributes[name]))
            for name, block in values.items()
        },
        coords={
            "component": table["path"].values.astype(object),
            **{name: ("component", table[name].values) for name in labels},
            **{name: ("token", run.tokens[column].values) for name, column in tokens.items()},
            "weight": ("token", token_weights(run)),
            "counted": ("token", counted_tokens(run, js)),
        },
    )
