"""Measures of a run by token and component as a dataset, computed in batches of components."""

import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.tree import CHUNK_COMPONENTS
from lorascope.analyze.results.weights import token_weights
from lorascope.stores import Run
from lorascope.stores.names import matching_indices
from lorascope.stores.progress import Progress
from lorascope.stores.reading.labels import with_component_indexes
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.source import Source, group_sizes

from .compute import Workers, workers
from .lazy_measures import measure_sources
from .measures import Measure, resolve
from .sources import GROUP_BYTES, TOUCHED, captured_measures, keeps_all_states, sources_of
from .unfinished import open_unfinished

BATCH_TASKS = 32
"""Least tasks for each worker in a batch, at whose end a worker waits for at most one."""
BATCH_BYTES = 128 * 2**20
"""Most bytes of results that are held in memory at a time, unless one component has more."""


def measure_run(
    run: RunLike,
    names: Sequence[str | Measure],
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measures of a run for each token and component, one float32 variable a measure; see `MEASURES`.

    They are computed from states if the run has those of all tokens. Otherwise they are the values measured during
    capture.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not; tokens that aren't committed are NaN.
    names
        Names in `MEASURES`, or measures of your own, made by `token_measure`.
    adapter
        Name of the adapter; not needed if there is only one.
    components
        Paths of components or patterns, such as `*.q_proj`; by default all that the adapter changes.
    scheduler, n_workers
        Where tasks run; see `compute.workers`. No number depends on it.
    progress
        Called with (tasks done, tasks in all).

    Returns
    -------
    xr.Dataset
        Coordinates are those of `component` (kind, layer, rank, d_out, `delta_source`) and of `token`: the id of its
        `sample` and that sample's place `sample_of_token` in the run, its text, position, role and weight, and which
        tokens are `counted`: have been measured. `kind`, `layer`, `rank`, `sample`, `position` and `role` have
        indexes, so that `.sel(sample="q03")` works.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`, a component isn't known, or a measure of yours returns something else than it
        should.
    StoreError
        If a chunk is broken, capture didn't measure what is asked for and states aren't there, or the adapter touches
        no component.
    """
    options: dict[str, Any] = {"scheduler": scheduler, "n_workers": n_workers, "progress": progress}
    return measure_unsaved(as_run(run), names, adapter=adapter, components=components, **options)


def measure_unsaved(
    run: Run,
    names: Sequence[str | Measure],
    target: Path | None = None,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """`measure_run`, but with a target the values stay in its unfinished part until `finish` makes a result of them."""
    measures = resolve(names)[1]
    table = run.components.assign(run.adapter(adapter))
    table = table.isel(component=np.flatnonzero(table["rank"].values > 0))
    chosen = matching_indices(table["path"].values.tolist(), components, of=TOUCHED)
    table = table.isel(component=chosen)
    shape = (run.n_tokens, len(chosen))
    unfinished = None
    if target is not None:
        identity = _identity(run, adapter, names) | {"components": table["path"].values.tolist()}
        unfinished = open_unfinished(target, identity=identity, attributes=measures, shape=shape)
    blocks: Iterable[tuple[slice, Mapping[str, np.ndarray]]]
    if keeps_all_states(run):
        done = np.zeros(len(chosen), bool) if unfinished is None else unfinished.done
        blocks = _computed(sources_of(run, adapter, components), names, done, scheduler, n_workers, progress)
    else:
        columns = captured_measures(run, tuple(measures), adapter)
        captured = {name: column[:, chosen] for name, column in zip(measures, columns, strict=True)}
        if unfinished is None:
            return _dataset(run, table, captured, measures)
        blocks = [(slice(None), captured)]
    if unfinished is not None:
        for part, values in blocks:
            unfinished.write(part, values)
        stored = unfinished.open()
        return _dataset(run, table, {name: stored[name].variable for name in measures}, measures)
    in_memory = {name: np.full(shape, np.nan, np.float32) for name in measures}
    for part, values in blocks:
        for name, block in values.items():
            in_memory[name][:, part] = block
    return _dataset(run, table, in_memory, measures)


def _computed(
    sources: Sequence[Source],
    names: Sequence[str | Measure],
    done: np.ndarray,
    scheduler: Any,
    n_workers: int | None,
    progress: Progress | None,
) -> Iterator[tuple[slice, Mapping[str, np.ndarray]]]:
    """Components that aren't done yet and their measures (token, component), a batch at a time."""
    outputs = resolve(names)[1]
    with workers(scheduler, n_workers) as pool:
        group_bytes = GROUP_BYTES * _together(sources, pool)
        cut = _batches(sources, group_bytes=group_bytes, n_threads=pool.n_threads, n_outputs=len(outputs))
        batches = [batch for batch in cut if not done[batch].all()]
        n_groups = sum(len(group_sizes(sources[batch], group_bytes)) for batch in batches)
        count, total = itertools.count(1), n_groups * sources[0].base.n_rows

        def one_more() -> None:
            if progress is not None:
                progress(next(count), total)

        for batch in batches:
            array = measure_sources(sources[batch], names, group_bytes=group_bytes)
            values = pool.compute(array, one_more).transpose(0, 2, 1)
            yield batch, dict(zip(outputs, values, strict=True))


def _together(sources: Sequence[Source], pool: Workers) -> int:
    """Size of a task in `GROUP_BYTES`: as large as is allowed, as long as every worker has a queue."""
    n_tasks = len(group_sizes(sources, GROUP_BYTES)) * sources[0].base.n_rows
    return max(1, min(pool.most_together, n_tasks // (BATCH_TASKS * pool.n_threads)))


def _batches(sources: Sequence[Source], *, group_bytes: int, n_threads: int, n_outputs: int) -> list[slice]:
    """Neighbours that are computed together: whole chunks of the result where that is no more than `BATCH_BYTES`."""
    rows = sources[0].base
    group = max(group_sizes(sources, group_bytes))
    n_components = -(-BATCH_TASKS * n_threads * group // rows.n_rows)
    most = max(1, BATCH_BYTES // (4 * n_outputs * rows.shape[0]))
    size = min(-(-n_components // CHUNK_COMPONENTS) * CHUNK_COMPONENTS, most)
    if size > CHUNK_COMPONENTS:
        size -= size % CHUNK_COMPONENTS
    return [slice(start, min(start + size, len(sources))) for start in range(0, len(sources), size)]


def _identity(run: Run, adapter: str | None, names: Sequence[str | Measure]) -> dict[str, Any]:
    """Everything that decides the numbers of a result."""
    return {
        "static_digest": run.attributes["static_digest"],
        "rows": rows_digest(run),
        "adapter": adapter or run.adapters[0],
        "measures": [name if isinstance(name, str) else str(uuid.uuid4()) for name in names],  # yours may change
        "lorascope": version("lorascope"),
    }


def rows_digest(run: Run) -> str:
    """SHA-256 in hexadecimal of which rows are committed, and what they hold."""
    return sha256(b"".join(run.digest(row).tobytes() for row in range(run.n_rows))).hexdigest()


def _dataset(
    run: Run, table: xr.Dataset, values: Mapping[str, Any], attributes: Mapping[str, Mapping[str, str]]
) -> xr.Dataset:
    """Values with the coordinates of tokens and of the components in `table`."""
    # In a pair, what is measured as delta is a difference whatever the adapter's own branch is kept as.
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
