"""Measures of a token at a component, computed over a whole store: one Dask task a row of a few components."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback

from lorascope.stores import Run
from lorascope.stores.format.layout import ROW_TOKENS

from .kernel import effective_width_rows, jensen_shannon_rows, norm_ratio_rows
from .sources import Source, group_sources, sources_of

__all__ = ["MEASURES", "compute", "measure"]

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""(base, delta, out): fills out (token,) from base and delta (token, feature), all float32."""


def _effective_width(base: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    effective_width_rows(base, out)


def _permuted(base: np.ndarray, delta: np.ndarray, out: np.ndarray) -> None:
    # One permutation for all tokens and runs, so that the null is as reproducible as the measure.
    order = np.random.default_rng(delta.shape[1]).permutation(delta.shape[1])
    jensen_shannon_rows(base, np.take(delta, order, axis=1), out)  # 5 times as fast as delta[:, order]


MEASURES: Mapping[str, tuple[Measure, Mapping[str, str]]] = {
    "js": (
        jensen_shannon_rows,
        {"long_name": "Jensen-Shannon divergence of softmax(base) and softmax(lora)", "units": "nat"},
    ),
    "js_permuted": (
        _permuted,
        {"long_name": "js of a delta whose features are permuted: what size alone would give", "units": "nat"},
    ),
    "effective_width": (
        _effective_width,
        {"long_name": "exp of the entropy of softmax(base): how many features share its mass", "units": "1"},
    ),
    "delta_ratio": (norm_ratio_rows, {"long_name": "|delta| / |base|, Euclidean norms", "units": "1"}),
}
"""Name -> (function of a block, attributes of the result)."""


def measure(run: Run, names: Sequence[str] = ("js",), *, adapter: str | None = None) -> da.Array:
    """Lazy float32 (measure, token, component) of a run's states; NaN in rows that aren't committed.

    Components that the adapter leaves alone are left out: the last axis follows `sources_of`.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`.
    """
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"no measure {name!r}; there are {sorted(MEASURES)}")
    groups = group_sources(sources_of(run, adapter))
    lengths = [min(ROW_TOKENS, run.n_tokens - row * ROW_TOKENS) for row in range(run.n_rows)]
    # A partial is opaque to Dask, which would else look through every source for collections.
    task = partial(measure_block, groups=groups, names=tuple(names), committed=run.committed_rows, lengths=lengths)
    blocks: da.Array = da.map_blocks(
        task,
        name=f"measure-{uuid.uuid4().hex}",
        chunks=((len(names),), tuple(lengths), tuple(len(group) for group in groups)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return blocks


def measure_block(
    *,
    groups: Sequence[Sequence[Source]],
    names: Sequence[str],
    committed: np.ndarray,
    lengths: Sequence[int],
    block_id: tuple[int, int, int],
) -> np.ndarray:
    """All measures of one row of one group of components, float32 (measure, token, component)."""
    _, row, group = block_id
    sources = groups[group]
    out = np.full((len(names), len(sources), lengths[row]), np.nan, np.float32)
    for index, source in enumerate(sources if committed[row] else ()):
        base, delta = source.read(row)
        for place, name in enumerate(names):
            MEASURES[name][0](base, delta, out[place, index])
    return out.transpose(0, 2, 1)


def compute(
    array: da.Array,
    *,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The array's values, on threads of this machine unless a scheduler is named; `progress` gets (done, all) tasks."""
    options: dict[str, Any] = {"scheduler": scheduler or "threads"}
    if n_workers is not None:
        options["num_workers"] = n_workers
    with dask.config.set(**options), _Tasks(progress):
        return np.asarray(array.compute())


class _Tasks(Callback):
    """Tell how many of the measuring tasks are done."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # dask is untyped
        self._progress = progress
        self._total = self._done = 0

    def _start_state(self, dsk: Any, state: Any) -> None:
        self._total = len(dsk)

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
