"""Measures of a run by token and component as a dataset, computed in batches of components."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.tree import CHUNK_COMPONENTS, rows_digest
from lorascope.analyze.results.weights import token_weights
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns, matching_indices
from lorascope.stores.progress import Progress
from lorascope.stores.reading.labels import with_component_indexes
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.source import Source, group_sizes

from .compute import Workers, open_workers, task_counter
from .lazy_measures import measure_sources
from .measures import Measure, resolve_measures
from .sources import GROUP_BYTES, TOUCHED, captured_measures, component_sources
from .unfinished import open_unfinished

BATCH_TASKS = 32
"""Least number of tasks per worker in a batch: at its end, workers wait for at most one task."""
BATCH_BYTES = 128 * 2**20
"""Most bytes of results in one batch, unless one component alone has more."""


def measure_run(
    run: RunLike,
    names: Sequence[str | Measure],
    target: Path | None = None,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return measures of a run by token and component as a dataset, one float32 variable per measure, such as `js`.

    They are computed from states if the run has those of all tokens. Otherwise they are the values measured during
    capture.

    Parameters
    ----------
    run, adapter, component, scheduler, n_workers, progress
        As for `miub`; tokens that aren't committed are NaN.
    names
        Names in `MEASURES`, or measures of your own, made by `token_measure`.
    target
        Path of a result. Values are then written to its unfinished part, so that a call that was stopped can go on, and
        `finish_result` turns that into the result; by default values are in memory.

    Returns
    -------
    xr.Dataset
        Coordinates are those of `component` (kind, layer, rank, d_out, `delta_source`) and of `token`: the id of its
        `sample` and that sample's place `sample_of_token` in the run, its text, position, role and weight, and whether
        it was `counted`, that is measured. `kind`, `layer`, `rank`, `sample`, `position` and `role` have indexes, so
        that `.sel(sample="q03")` works.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`, a component isn't known, or your own measure returns an array of another
        shape or type.
    StoreError
        If a chunk is broken, capture didn't measure what is asked for and states aren't there, or the adapter changes
        no component.
    """
    run, measures = open_as_written(run), resolve_measures(names)[1]
    table = run.components.assign(run.adapter(adapter))
    table = table.isel(component=np.flatnonzero(table["rank"].values > 0))
    chosen = matching_indices(table["path"].values.tolist(), component, of=TOUCHED)
    table = table.isel(component=chosen)
    shape = (run.n_tokens, len(chosen))
    unfinished = None
    if target is not None:
        identity = _result_identity(run, adapter, names) | {"components": table["path"].values.tolist()}
        unfinished = open_unfinished(target, identity=identity, attributes=measures, shape=shape)
    blocks: Iterable[tuple[slice, Mapping[str, np.ndarray]]]
    if run.states == "all":
        done = np.zeros(len(chosen), bool) if unfinished is None else unfinished.done
        blocks = _computed_batches(
            component_sources(run, adapter, component), names, done, scheduler, n_workers, progress
        )
    else:
        columns = captured_measures(run, tuple(measures), adapter, component)
        captured = dict(zip(measures, columns, strict=True))
        if unfinished is None:
            return _labelled_dataset(run, table, captured, measures)
        blocks = [(slice(None), captured)]
    if unfinished is not None:
        for part, values in blocks:
            unfinished.write(part, values)
        stored = unfinished.open()
        return _labelled_dataset(run, table, {name: stored[name].variable for name in measures}, measures)
    in_memory = {name: np.full(shape, np.nan, np.float32) for name in measures}
    for part, values in blocks:
        for name, block in values.items():
            in_memory[name][:, part] = block
    return _labelled_dataset(run, table, in_memory, measures)


def _computed_batches(
    sources: Sequence[Source],
    names: Sequence[str | Measure],
    done: np.ndarray,
    scheduler: Any,
    n_workers: int | None,
    progress: Progress | None,
) -> Iterator[tuple[slice, Mapping[str, np.ndarray]]]:
    """Yield a slice of components and their measures (token, component) by name, for each batch not done yet."""
    outputs = resolve_measures(names)[1]
    with open_workers(scheduler, n_workers) as pool:
        group_bytes = GROUP_BYTES * _groups_per_task(sources, pool)
        cut = _component_batches(sources, group_bytes=group_bytes, n_threads=pool.n_threads, n_outputs=len(outputs))
        batches = [batch for batch in cut if not done[batch].all()]
        n_groups = sum(len(group_sizes(sources[batch], group_bytes, whole_parts=True)) for batch in batches)
        count_task = task_counter(progress, n_groups * sources[0].base.n_rows)
        for batch in batches:
            array = measure_sources(sources[batch], names, group_bytes=group_bytes)
            values = pool.compute(array, count_task).transpose(0, 2, 1)
            yield batch, dict(zip(outputs, values, strict=True))


def _groups_per_task(sources: Sequence[Source], pool: Workers) -> int:
    """Return the number of component groups (`GROUP_BYTES` each) in a task: the most that keep all workers busy."""
    n_tasks = len(group_sizes(sources, GROUP_BYTES, whole_parts=True)) * sources[0].base.n_rows
    return max(1, min(pool.most_groups_per_task, n_tasks // (BATCH_TASKS * pool.n_threads)))


def _component_batches(sources: Sequence[Source], *, group_bytes: int, n_threads: int, n_outputs: int) -> list[slice]:
    """Return slices of components to compute together: whole chunks of the result, at most `BATCH_BYTES` large."""
    rows = sources[0].base
    group = max(group_sizes(sources, group_bytes, whole_parts=True))
    n_components = -(-BATCH_TASKS * n_threads * group // rows.n_rows)
    most = max(1, BATCH_BYTES // (4 * n_outputs * rows.shape[0]))
    size = min(-(-n_components // CHUNK_COMPONENTS) * CHUNK_COMPONENTS, most)
    if size > CHUNK_COMPONENTS:
        size -= size % CHUNK_COMPONENTS
    return [slice(start, min(start + size, len(sources))) for start in range(0, len(sources), size)]


def _result_identity(run: Run, adapter: str | None, names: Sequence[str | Measure]) -> dict[str, Any]:
    """Return a dict of everything that determines a result's numbers, to compare with that of an unfinished one."""
    return {
        "static_digest": run.attributes["static_digest"],
        "rows": rows_digest(run),
        "adapter": adapter or run.adapters[0],
        "measures": [
            name if isinstance(name, str) else str(uuid.uuid4()) for name in names
        ],  # a user's function may change
        "lorascope": version("lorascope"),
    }


def _labelled_dataset(
    run: Run, table: xr.Dataset, values: Mapping[str, Any], attributes: Mapping[str, Mapping[str, str]]
) -> xr.Dataset:
    """Return measured values (token, component) as a dataset with labels of tokens and of components in `table`."""
    # In a pair, delta is always a difference of outputs, whatever form the adapter's branch is stored in.
    labels = ["kind", "layer", "d_out", "rank"] + ([] if run.stream == "pair" else ["delta_source"])
    measured = xr.Dataset(
        {
            name: block if isinstance(block, xr.Variable) else (("token", "component"), block, dict(attributes[name]))
            for name, block in values.items()
        },
        coords={
            "component": table["path"].values.astype(object),
            **{name: ("component", table[name].values) for name in labels},
            "sample_of_token": ("token", run.tokens["sample"].values),
            "weight": ("token", token_weights(run)),
            "counted": ("token", run.committed.values),
        },
    )
    labelled = with_component_indexes(measured).assign_coords(run.token_labels)
    if "text" in labelled:
        labelled["text"].load()  # a result doesn't need its run any more
    return labelled
