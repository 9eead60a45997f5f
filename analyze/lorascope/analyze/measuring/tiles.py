"""One row of a component, a tile of tokens at a time: widened and made into delta where it stays in a core's cache."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from lorascope.kernels.linear import delta_rows, widen_bfloat16_rows
from lorascope.stores.format.stored_array import widen_block
from lorascope.stores.reading.rows import RowArray
from lorascope.stores.reading.source import Source

TILE_VALUES = 2**16
"""Values of a tile: 256 KiB each of base and delta, which the second-level cache of one core holds."""

_Fill = Callable[[slice, np.ndarray], np.ndarray]
"""(tokens of the row, base of these tokens) -> delta of these tokens, float32 (token, feature)."""


class Weights(NamedTuple):
    """Weights that turn a component's factor into its delta."""

    lora_B_T: np.ndarray  # noqa: N815 (PEFT's name)
    """Float32 (rank, feature), contiguous."""
    bias: np.ndarray
    """Float32 (feature,), or empty."""
    scaling: np.float32


class Tile(NamedTuple):
    """Some tokens of one row of a component; its arrays are overwritten by the next tile."""

    tokens: slice
    base: np.ndarray
    """Float32 (token, feature), contiguous."""
    delta: np.ndarray
    """Float32 (token, feature) of delta."""


def row_tiles(source: Source, row: int, factor: np.ndarray | None) -> Iterator[Tile]:
    """Base and delta of a committed row in tiles; no number depends on where they are cut.

    `factor` is the row's (token, rank), None where the component is stored otherwise.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken.
    """
    n_tokens, width = source.base.n_tokens(row), source.base.shape[1]
    step = min(max(1, TILE_VALUES // width), n_tokens)
    base, delta = _widened(source.base, row, step), _deltas(source, row, factor, step)
    for start in range(0, n_tokens, step):
        tokens = slice(start, min(start + step, n_tokens))
        block = base(tokens)
        yield Tile(tokens, block, delta(tokens, block))


@lru_cache(maxsize=16)  # a batch of components, of which only wide ones with many ranks take much
def weights_of(source: Source) -> Weights:
    """Weights of a component with a factor, read once for the rows that a worker goes through."""
    delta = source.delta
    assert delta.lora_B is not None
    lora_b = delta.lora_B()
    bias = np.empty(0, np.float32) if delta.bias is None else delta.bias()
    return Weights(np.ascontiguousarray(lora_b.T), bias, np.float32(delta.scaling))


def factor_delta(
    source: Source, factor: Float32[np.ndarray, "token rank"], out: np.ndarray | None = None
) -> np.ndarray:
    """Delta of tokens, float32 (token, feature), from their factors: the same to the last bit as in a tile."""
    weights = weights_of(source)
    out = np.empty((len(factor), weights.lora_B_T.shape[1]), np.float32) if out is None else out
    delta_rows(factor, weights.lora_B_T, weights.scaling, weights.bias, out)
    return out


def _widened(rows: RowArray, row: int, step: int) -> Callable[[slice], np.ndarray]:
    stored = rows.read_stored(row)
    if rows.dtype_logical != "bfloat16":
        return lambda tokens: np.ascontiguousarray(widen_block(stored[tokens], rows.dtype_logical))
    scratch = np.empty((step, rows.shape[1]), np.float32)

    def widen(tokens: slice) -> np.ndarray:
        out = scratch[: tokens.stop - tokens.start]
        widen_bfloat16_rows(stored[tokens], out)
        return out

    return widen


def _deltas(source: Source, row: int, factor: np.ndarray | None, step: int) -> _Fill:
    delta = source.delta
    if factor is None:
        stored = _widened(delta.rows, row, step)
        is_difference = delta.base is not None  # of the outputs with the adapter and without
        return lambda tokens, base: stored(tokens) - base if is_difference else stored(tokens)
    scratch = np.empty((step, source.base.shape[1]), np.float32)

    def multiply(tokens: slice, base: np.ndarray) -> np.ndarray:
        return factor_delta(source, factor[tokens], scratch[: tokens.stop - tokens.start])

    return multiply
