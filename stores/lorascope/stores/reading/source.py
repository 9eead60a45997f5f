"""Base and delta of one component, to be read row by row without the run itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..format.spec import ROW_TOKENS
from .rows import RowArray


class DeltaSource(NamedTuple):
    """Sources of a component's delta: its factor and weights, delta itself, or the outputs of two passes."""

    rows: RowArray
    lora_B: Callable[[], np.ndarray] | None = None  # noqa: N815 (PEFT's name)
    """Reads it, float32 (feature, rank); None where `rows` is delta or adapted."""
    scaling: float = 1.0
    bias: Callable[[], np.ndarray] | None = None
    base: RowArray | None = None
    """In stream `pair`, where `rows` are adapted, base is subtracted from them."""

    def to_dask(self) -> Any:
        """Delta as a lazy Dask array, one block a row."""
        import dask.array as da

        rows = self.rows.to_dask()
        if self.base is not None:
            return rows - self.base.to_dask()
        weights = self.weights()
        if not weights:
            return rows
        chunks = (rows.chunks[0], (len(weights["lora_B"]),))
        return da.map_blocks(delta_block, rows, **weights, dtype=np.float32, chunks=chunks)

    def weights(self) -> dict[str, Any]:
        """Arguments of `delta_block`, read now; none where delta isn't made from a factor."""
        if self.lora_B is None:
            return {}
        bias = None if self.bias is None else self.bias()
        return {"lora_B": self.lora_B(), "scaling": np.float32(self.scaling), "bias": bias}


class Source(NamedTuple):
    """One component of a run, ready to be read in any thread, process or machine; a few kB to send there."""

    component: str
    base: RowArray
    delta: DeltaSource
    identity: str
    """Digest of everything that was written when the run was set up, weights too."""

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self._key() == other._key()

    def _key(self) -> tuple[str, str, str]:
        return self.identity, self.delta.rows.path, self.component


def base_row_bytes(source: Source) -> int:
    """Bytes of a full row of the component's base in float32."""
    return 4 * ROW_TOKENS * source.base.shape[1]


def group_sizes(
    sources: Sequence[Source], group_bytes: int, row_bytes: Callable[[Source], int] = base_row_bytes
) -> list[int]:
    """Numbers of neighbouring components to put together so that a row of each group has about `group_bytes`."""
    sizes, size = [0], 0
    for source in sources:
        sizes[-1] += 1
        size += row_bytes(source)
        if size >= group_bytes:
            sizes.append(0)
            size = 0
    return [n for n in sizes if n]


def read_factors(sources: Sequence[Source], row: int) -> list[np.ndarray | None]:
    """Factors of a committed row, float32 (token, rank), contiguous; None for a component that has none.

    Factors of components side by side lie in one piece of the store, which is read once.
    """
    factored = [index for index, source in enumerate(sources) if source.delta.lora_B is not None]
    factors: list[np.ndarray | None] = [None] * len(sources)
    if factored:
        first = sources[factored[0]].delta.rows
        blocks = first.read_columns(row, [sources[index].delta.rows.columns for index in factored])
        for index, block in zip(factored, blocks, strict=True):
            factors[index] = np.ascontiguousarray(block)
    return factors


def delta_block(factor: np.ndarray, *, lora_B: np.ndarray, scaling: np.float32, bias: np.ndarray | None) -> np.ndarray:
    """scaling * (z B^T + bias), float32 (token, feature): PEFT's own order of operations."""
    product: np.ndarray = factor @ lora_B.T
    if bias is not None:
        product += bias
    product *= scaling
    return product
