"""Base and delta of one row of a component as float32, in tiles of tokens that fit into a core's cache."""

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
"""Number of values in a tile: 256 KiB each of base and delta fit into the second-level cache of one core."""

_DeltaReader = Callable[[slice, np.ndarray], np.ndarray]
"""Function (tokens of the row, base of these tokens) -> their delta, float32 (token, feature)."""


class LoraWeights(NamedTuple):
    """Weights that turn a component's factor (the output of lora_A) into its delta."""

    lora_B_T: np.ndarray  # noqa: N815 (PEFT's name)
    """Float32 (rank, feature), contiguous."""
    bias: np.ndarray
    """Float32 (feature,), or empty if there is no bias."""
    scaling: np.float32


class Tile(NamedTuple):
    """Base and delta of some tokens of one row at a component; the arrays are overwritten by the next tile."""

    tokens: slice
    base: np.ndarray
    """Float32 (token, feature), contiguous."""
    delta: np.ndarray
    """Float32 (token, feature)."""


def row_tiles(source: Source, row: int, factor: np.ndarray | None) -> Iterator[Tile]:
    """Yield base and delta of a stored row at one component, float32, in tiles of tokens that fit into the cache.

    No number depends on the tile size.

    `factor` is the row's (token, rank), or None if delta or the adapted output is stored instead.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken.
    """
    n_tokens, width = source.base.n_tokens(row), source.base.shape[1]
    step = min(max(1, TILE_VALUES // width), n_tokens)
    base, delta = _float32_reader(source.base, row, step), _delta_reader(source, row, factor, step)
    for start in range(0, n_tokens, step):
        tokens = slice(start, min(start + step, n_tokens))
        block = base(tokens)
        yield Tile(tokens, block, delta(tokens, block))


@lru_cache(maxsize=16)  # about a batch of components; only wide ones of high rank are large
def lora_weights(source: Source) -> LoraWeights:
    """Return lora_B, bias and scaling, which turn a component's factor into delta; cached for later rows."""
    weights = source.delta.weights()
    bias = np.empty(0, np.float32) if weights["bias"] is None else weights["bias"]
    return LoraWeights(np.ascontiguousarray(weights["lora_B"].T), bias, weights["scaling"])


def factor_delta(
    source: Source, factor: Float32[np.ndarray, "token rank"], out: np.ndarray | None = None
) -> np.ndarray:
    """Return delta of tokens, float32 (token, feature), from their factors; bit-identical to that of `row_tiles`."""
    weights = lora_weights(source)
    out = np.empty((len(factor), weights.lora_B_T.shape[1]), np.float32) if out is None else out
    delta_rows(factor, weights.lora_B_T, weights.scaling, weights.bias, out)
    return out


def _float32_reader(rows: RowArray, row: int, step: int) -> Callable[[slice], np.ndarray]:
    """Return a function from a slice of a row's tokens to their values, contiguous float32 (token, feature)."""
    stored = rows.read_stored(row)
    if rows.dtype_logical != "bfloat16":
        return lambda tokens: np.ascontiguousarray(widen_block(stored[tokens], rows.dtype_logical))
    scratch = np.empty((step, rows.shape[1]), np.float32)

    def widen(tokens: slice) -> np.ndarray:
        """Return the values of these tokens from bfloat16, in memory that the next call overwrites."""
        out = scratch[: tokens.stop - tokens.start]
        widen_bfloat16_rows(stored[tokens], out)
        return out

    return widen


def _delta_reader(source: Source, row: int, factor: np.ndarray | None, step: int) -> _DeltaReader:
    """Return a function from a slice of a row's tokens and their base to their delta, float32 (token, feature)."""
    delta = source.delta
    if factor is None:
        stored = _float32_reader(delta.rows, row, step)
        is_difference = delta.base is not None  # adapted output minus base
        return lambda tokens, base: stored(tokens) - base if is_difference else stored(tokens)
    scratch = np.empty((step, source.base.shape[1]), np.float32)

    def multiply(tokens: slice, base: np.ndarray) -> np.ndarray:
        """Return the delta of these tokens from their factors, in memory that the next call overwrites."""
        return factor_delta(source, factor[tokens], scratch[: tokens.stop - tokens.start])

    return multiply
