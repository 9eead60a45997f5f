"""Base and delta of one component, to be read row by row without the run itself.

A component is a layer that LoRA wraps, base its frozen layer's output, delta what the adapter adds, and factor z = A x,
from which delta is computed. A row is 1,024 tokens.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from ..format.spec import ROW_TOKENS
from .rows import RowArray


class DeltaSource(NamedTuple):
    """Stored arrays from which a component's delta is read or computed, row by row.

    They are a factor and weights, delta itself, or the outputs of two passes (stream `pair`).
    """

    rows: RowArray
    lora_B: Callable[[], np.ndarray] | None = None  # noqa: N815 (PEFT's name)
    """Function that reads B, float32 (feature, rank); None if `rows` is delta or adapted."""
    scaling: float = 1.0
    bias: Callable[[], np.ndarray] | None = None
    base: RowArray | None = None
    """Base to subtract from `rows`, which are adapted, in stream `pair`; else None."""

    def to_dask(self) -> Any:
        """Return delta as a lazy float32 Dask array (token, feature) with one block per row."""
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
        """Read and return the keyword arguments of `delta_block`; empty if delta isn't computed from a factor."""
        if self.lora_B is None:
            return {}
        bias = None if self.bias is None else self.bias()
        return {"lora_B": self.lora_B(), "scaling": np.float32(self.scaling), "bias": bias}


class Source(NamedTuple):
    """Base and delta of one component, to be read in any thread, process or machine; pickled in a few kB."""

    component: str
    base: RowArray
    delta: DeltaSource
    opening: str
    """Random id of the opening of the run, so that nothing that was read is taken from another run of equal digests."""

    def __hash__(self) -> int:
        """Return a hash of the opened run, adapter and component, not of the numbers."""
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same component and adapter of a run that was opened once."""
        return isinstance(other, Source) and self._key() == other._key()

    def _key(self) -> tuple[str, str, str]:
        """Return (id of the run's opening, path of delta's array, component), which identify the source."""
        return self.opening, self.delta.rows.path, self.component


def base_row_bytes(source: Source) -> int:
    """Return the bytes that a full row (1,024 tokens) of a component's base takes in float32."""
    return 4 * ROW_TOKENS * source.base.shape[1]


def group_sizes(
    sources: Sequence[Source],
    group_bytes: int,
    row_bytes: Callable[[Source], int] = base_row_bytes,
    *,
    whole_parts: bool = False,
) -> list[int]:
    """Return the sizes of groups of neighbouring components whose rows take about `group_bytes` per group.

    With `whole_parts`, components whose factors begin in one inner chunk of an object store share a group, so that no
    two groups request it; where ranks don't divide its columns, two may.
    """
    sizes, size = [0], 0
    for source, following in zip_longest(sources, sources[1:]):
        sizes[-1] += 1
        size += row_bytes(source)
        part = source.delta.rows.first_part if whole_parts and following is not None else None
        if size >= group_bytes and (part is None or following.delta.rows.first_part != part):
            sizes.append(0)
            size = 0
    return [n for n in sizes if n]


def read_factors(sources: Sequence[Source], row: int) -> list[np.ndarray | None]:
    """Return each component's factor z = A x in a committed row, float32 (token, rank); None without a factor.

    All factors are columns of one array, so neighbouring ones are read together.
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
    """Return delta = scaling * (factor @ lora_B.T + bias), float32 (token, feature), in PEFT's operation order."""
    product: np.ndarray = factor @ lora_B.T
    if bias is not None:
        product += bias
    product *= scaling
    return product
