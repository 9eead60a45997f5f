"""Measures of a whole run as one lazy array: a Dask task computes one row of a few components."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lorascope.kernels.factored import measure_factor_rows
from lorascope.kernels.softmax import NARROW_WIDTH
from lorascope.stores.reading.source import Source, group_sizes, read_factors

from .measures import MEASURES, ONE_PASS, Measure, feature_permutation, norm_measures, norms, resolve_measures
from .sources import GROUP_BYTES
from .tiles import LoraWeights, lora_weights, row_tiles


def measure_sources(
    sources: Sequence[Source], names: Sequence[str | Measure], *, group_bytes: int = GROUP_BYTES
) -> Any:
    """Return measures as a lazy Dask array float32 (measure, component, token); NaN in rows not captured yet.

    Parameters
    ----------
    sources
        Components of one run, from `component_sources`, in the order of the second axis. Tasks are done in the order of
        blocks: all rows of a few components, whose weights are read once, then the next ones.
    names
        Names in `MEASURES`, or measures of your own, made by `token_measure`.
    group_bytes
        Least bytes of float32 base in one task.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`, is given twice, or `names` is empty.
    """
    import dask.array as da  # takes half a second

    measures, outputs = resolve_measures(names)
    components = np.empty(len(sources), object)
    components[:] = list(sources)
    sizes = tuple(group_sizes(sources, group_bytes, whole_parts=True))
    rows = sources[0].base
    lengths = tuple(rows.n_tokens(row) for row in range(rows.n_rows))
    token = uuid.uuid4().hex
    return da.blockwise(
        measure_block,
        "mct",
        da.from_array(components, chunks=(sizes,), name=f"sources-{token}"),
        "c",
        da.from_array(np.arange(len(lengths)), chunks=1, name=f"rows-{token}"),
        "t",
        new_axes={"m": len(outputs)},
        adjust_chunks={"t": lengths},
        align_arrays=False,  # otherwise Dask warns, though one block per row and group is intended
        name=f"measure-{token}",
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
        measures=measures,
        outputs=tuple(outputs),
    )


def measure_block(sources: Any, rows: Any, *, measures: Sequence[Measure], outputs: Sequence[str]) -> np.ndarray:
    """Return the measures of one stored row of tokens at some components, float32 (measure, component, token)."""
    row, length = int(rows[0]), sources[0].base.n_tokens(int(rows[0]))
    if not sources[0].base.is_committed(row):
        return np.full((len(outputs), len(sources), length), np.nan, np.float32)
    factors = read_factors(sources, row)
    out = np.empty((len(sources), len(outputs), length), np.float32)  # contiguous for each component
    is_ours = all(measure.function in [*ONE_PASS] for measure in measures)
    for column, source, factor in zip(out, sources, factors, strict=True):
        base = source.base
        if is_ours and factor is not None and base.dtype_logical == "bfloat16" and base.shape[1] > NARROW_WIDTH:
            # the same bits as below, without the Python between tiles
            values = _one_pass_values(measures, base.read_stored(row), factor, lora_weights(source))
            column[:] = [values[name] for name in outputs]
            continue
        for tile in row_tiles(source, row, factor):
            values = _tile_values(measures, tile.base, tile.delta, source.component)
            for place, name in enumerate(outputs):
                column[place, tile.tokens] = values[name]
    return np.ascontiguousarray(out.transpose(1, 0, 2))


def _one_pass_values(
    measures: Sequence[Measure], bits: np.ndarray, factor: np.ndarray, weights: LoraWeights
) -> Mapping[str, np.ndarray]:
    """Return measure name -> values (token,) for base as bfloat16 bits (token, feature) and delta's factor."""
    functions = [measure.function for measure in measures]
    out: dict[Any, Any] = {
        function: np.empty((n, len(bits)), np.float32) if function in functions else None
        for function, n in ONE_PASS.items()
    }
    measure_factor_rows(bits, factor, tuple(weights), feature_permutation(bits.shape[1]), *out.values())
    if out[norms] is not None:
        out[norms] = norm_measures(*out[norms])
    return {name: row for m in measures for name, row in zip(m.outputs, out[m.function], strict=True)}


def _tile_values(
    measures: Sequence[Measure], base: np.ndarray, delta: np.ndarray, component: str
) -> Mapping[str, np.ndarray]:
    """Return measure name -> values (token,) for the base and delta of some tokens at one component."""
    by_name: dict[str, np.ndarray] = {}
    for measure in measures:
        is_ours = MEASURES.keys() >= measure.outputs.keys()
        output = measure.function(base, delta) if is_ours else _checked_user_values(measure, base, delta, component)
        by_name |= zip(measure.outputs, output if isinstance(output, tuple) else (output,), strict=True)
    return by_name


def _checked_user_values(
    measure: Measure, base: np.ndarray, delta: np.ndarray, component: str
) -> tuple[np.ndarray, ...]:
    """Return the values of a user's measure; raise ValueError unless they are real numbers, one per token."""
    names = ", ".join(measure.outputs)
    base, delta = base.view(), delta.view()
    base.flags.writeable = delta.flags.writeable = False
    try:
        values = measure.function(base, delta)
    except Exception as error:
        error.add_note(f"in the measure {names!r}, at component {component!r}")
        raise
    parts = values if isinstance(values, tuple) else (values,)
    for part in parts:
        if not (isinstance(part, np.ndarray) and part.dtype.kind in "fiub" and part.shape == base.shape[:1]):
            what = f"{part.dtype} of shape {part.shape}" if isinstance(part, np.ndarray) else repr(part)[:80]
            raise ValueError(
                f"the measure {names!r} returned {what} at component {component!r}; it must return an array of real "
                f"numbers of shape {base.shape[:1]}, one for each token"
            )
    if len(parts) != len(measure.outputs):
        raise ValueError(f"the measure {names!r} returned {len(parts)} arrays; it must return {len(measure.outputs)}")
    return parts
