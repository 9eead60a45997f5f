"""Estimated size of a run on disk, from its specification alone."""

import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lorascope.stores import RunSpec, StoreError
from lorascope.stores.format.codec import compressor_name
from lorascope.stores.format.layout import ArraySpec, array_specs, is_kept_with_states
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.format.tables import is_answer_column, is_base_column
from lorascope.stores.size import format_size

from ..buffers.row_buffer import buffer_bytes

PARTS = ("base", "adapted", "factor", "delta", "reductions", "weights", "tables")

RATIOS = {"reductions": 0.87, "weights": 0.925, "tables": 0.25}
STATE_RATIOS = {
    "zstd": {"bfloat16": 0.670, "float16": 0.844, "float32": 0.831},
    "lz4": {"bfloat16": 0.774, "float16": 0.928, "float32": 0.884},
}
"""Part, or compressor and logical type of states, factor and delta -> stored bytes for one byte.

States by zstd: 1 / 1.493, 1 / 1.185 and 1 / 1.203, means over 25 layers of SmolLM2-135M on prose, code and chat (single
layers of bfloat16: 1 / 1.465 to 1 / 1.560); on 45 questions of ARC-Easy, whose prompts begin alike, a capture of all
its 210 layers came to 0.651, 0.816 and 0.826, and to the ratios of the other parts. By LZ4: these times what it took
more of the states of all layers on the demo's questions, 1.156, 1.099 and 1.064 (float16: float32, rounded).
"""
EMPTY_RATIO = 0.004
"""Stored bytes for one byte that a chunk holds beyond the end of the token axis: one number again and again."""
MARGIN = 0.05
"""Factor by which a store may come out larger than expected: layers and data differ in how well they compress."""
TEXT_BYTES = 12
"""Mean bytes of a string in a table, its length of 4 bytes included; nothing is known of it before it is written."""
CHUNK_BYTES = 60
"""Bytes of a chunk other than its values: checksum, Blosc's header and its table of blocks."""
ARRAY_METADATA_BYTES = 2060
"""Metadata of an array: its own file, and its entry in the metadata of a finished run's root."""
GROUP_METADATA_BYTES = 80
BLOCK_BYTES = 4096
"""Bytes that a file of one byte takes on most file systems."""
SHARE_STEPS = 10_000
"""Shares of tokens are suggested in steps of one over this."""


class Part(NamedTuple):
    """Size of one part of a run."""

    name: str
    """One of `PARTS`."""
    n_arrays: int
    n_chunks: int
    """Files, or objects, without the arrays' metadata."""
    raw_bytes: int
    """Bytes of the values in memory; strings are estimated."""
    stored_bytes: int
    """Expected on disk; see `RATIOS`."""


class Estimate(NamedTuple):
    """Size of a run: exact numbers of arrays, chunks and raw bytes, and expected stored bytes."""

    spec: RunSpec
    parts: tuple[Part, ...]
    """The parts that the run has, in the order of `PARTS`."""
    n_arrays: int
    n_files: int
    """Files, or objects, of the run: chunks, and metadata of each array and group."""
    raw_bytes: int
    """Bytes of all values in memory."""
    stored_bytes: int
    """Expected bytes of all files, metadata included."""
    needed_bytes: int
    """Free space that the run should have: what is expected, a margin, and what files waste of their last block."""
    row_arrays: tuple[int, ...]
    """Bytes of one row of each array: what a row buffer holds."""
    bare_row_arrays: tuple[int, ...]
    """Bytes of each array of a row without states."""

    def row_sizes(self) -> list[int]:
        """Memory that a buffer of each row takes."""
        whole, bare = map(buffer_bytes, (self.row_arrays, self.bare_row_arrays))
        state_rows = self.spec.state_rows or (True,) * self.spec.n_rows
        return [whole if has_states else bare for has_states in state_rows]


def estimate(spec: RunSpec, *, base_scores: bool = True, answers: bool = False) -> Estimate:
    """Estimate the size of a run with this specification; tables may have scores without the adapter, and answers."""
    arrays = [
        entry
        for entry in array_specs(spec)
        if (base_scores or not is_base_column(entry.path)) and (answers or not is_answer_column(entry.path))
    ]
    by_part: dict[str, list[ArraySpec]] = {name: [] for name in PARTS}
    for entry in arrays:
        by_part[_part_of(entry.path)].append(entry)
    parts = tuple(_part(spec, name, entries) for name, entries in by_part.items() if entries)
    n_groups = len({"/".join(names[:n]) for e in arrays for names in [e.path.split("/")] for n in range(len(names))})
    n_files = sum(part.n_chunks for part in parts) + len(arrays) + n_groups
    metadata = len(arrays) * ARRAY_METADATA_BYTES + n_groups * GROUP_METADATA_BYTES
    stored = sum(part.stored_bytes for part in parts) + metadata
    rows = [entry for entry in arrays if entry.by_row]
    return Estimate(
        spec=spec,
        parts=parts,
        n_arrays=len(arrays),
        n_files=n_files,
        raw_bytes=sum(part.raw_bytes for part in parts),
        stored_bytes=stored,
        needed_bytes=int(stored * (1 + MARGIN)) + n_files * BLOCK_BYTES,
        row_arrays=tuple(_row_bytes(entry) for entry in rows),
        bare_row_arrays=tuple(_row_bytes(entry) for entry in rows if not is_kept_with_states(entry.path)),
    )


def require_space(
    estimated: Estimate, where: str, free_bytes: int | None, *, written_bytes: int = 0, overfill: bool = False
) -> None:
    """Raise a StoreError that names what would fit, unless the run fits the free space or it isn't known (None).

    A run that is continued has written some bytes there already; with `overfill` it may be started all the same.
    """
    needed = estimated.needed_bytes - written_bytes
    if overfill or free_bytes is None or needed <= free_bytes:
        return
    more = "more " if written_bytes else ""
    raise StoreError(
        f"the run would take about {format_size(needed)} {more}at `{where}`, where {format_size(free_bytes)} are free; "
        f"{'; '.join(ways_to_fit(estimated.spec, free_bytes + written_bytes))}; or make room, or pass `--overfill`"
    )


def ways_to_fit(spec: RunSpec, n_bytes: int) -> list[str]:
    """Ways to make a run fit so many bytes, as phrases; fewer components always are the last."""
    ways = []
    step = _largest_step(lambda step: max(-(-step * spec.n_tokens // SHARE_STEPS), 1), spec, n_bytes)
    if step > 0:
        ways.append(f"{100 * step / SHARE_STEPS:g} % of these tokens would fit (`--tokens share:P`, or `--limit`)")
    if spec.states != "none":
        bare = dataclasses.replace(spec, states="none", state_rows=())
        ways.append(f"`--states none` makes it {format_size(estimate(bare).needed_bytes)}")
    return [*ways, "an adapter on fewer layers has fewer components"]


def choose_share(spec: RunSpec, lengths: Sequence[int], budget_bytes: int) -> str:
    """The selection `all`, or `share:P` with the largest share of each sample's tokens whose store fits a budget.

    `spec` is the run with all tokens. Raises a StoreError if not even one token of each sample fits.
    """
    tokens = np.asarray(lengths)

    def n_kept(step: int) -> int:
        return int(np.maximum(np.round(step / SHARE_STEPS * tokens), 1).sum())  # as `select_tokens` takes them

    step = _largest_step(n_kept, spec, budget_bytes)
    if step < 0:
        least = estimate(_with_tokens(spec, len(tokens)))
        raise StoreError(
            f"`budget` is {format_size(budget_bytes)}, but a run of one token of each of {len(tokens)} samples needs "
            f"{format_size(least.needed_bytes)} with its margin; give more, fewer samples (`--limit`), or "
            "`--states none`"
        )
    return "all" if step == SHARE_STEPS else f"share:{max(step, 1) / SHARE_STEPS:g}"


def _largest_step(n_tokens: Callable[[int], int], spec: RunSpec, n_bytes: int) -> int:
    """The largest step of a share whose tokens make a run that fits so many bytes; -1 if none does."""

    def needed(step: int) -> int:
        return estimate(_with_tokens(spec, n_tokens(step))).needed_bytes

    return bisect_right(range(SHARE_STEPS + 1), n_bytes, key=needed) - 1


def _part_of(path: str) -> str:
    first, *rest = path.split("/")
    if first == "states":
        return rest[-1]
    if first == "reductions" or (
        first == "adapters" and rest[1] in {"js", "kl", "ablation", "delta_norm", "swallowed"}
    ):
        return "reductions"
    if first == "adapters" and rest[1] in {"factor", "delta"}:
        return rest[1]
    if first == "unembedding":
        return "tables" if rest == ["text"] else "weights"
    return "weights" if first == "adapters" and rest[1] in {"lora_B", "lora_bias"} else "tables"


def _part(spec: RunSpec, name: str, entries: Sequence[ArraySpec]) -> Part:
    some = spec.states == "sample" and is_kept_with_states(entries[0].path)
    rows = [row for row in range(spec.n_rows) if not some or spec.state_rows[row]]
    n_tokens = sum(min(ROW_TOKENS, spec.n_tokens - row * ROW_TOKENS) for row in rows)
    sizes = [_size(spec, name, entry, n_tokens, len(rows)) for entry in entries]
    n_chunks, raw, stored = (sum(column) for column in zip(*sizes, strict=True))
    return Part(name, len(entries), n_chunks, raw, stored)


def _size(spec: RunSpec, part: str, entry: ArraySpec, n_tokens: int, n_rows: int) -> tuple[int, int, int]:
    """Chunks, raw bytes and stored bytes of one array, of which so many tokens and rows are kept."""
    chunk = entry.shards or entry.chunks
    shape = (n_tokens, *entry.shape[1:]) if entry.by_row else entry.shape
    counts = [-(-length // size) for length, size in zip(entry.shape, chunk, strict=True)]
    n_chunks = prod([n_rows, *counts[1:]]) if entry.by_row else prod(counts)
    raw = prod(shape) * _itemsize(entry)
    whole = n_chunks * prod(chunk) * _itemsize(entry)  # a last chunk is as large as the others
    inner = prod(-(-length // size) for length, size in zip(chunk, entry.chunks, strict=True)) if entry.shards else 0
    extra = n_chunks * (CHUNK_BYTES + 16 * inner)  # a shard's index: 16 bytes for each of its chunks
    if spec.codec == "raw":
        # Strings know no empty place: theirs are as long as they are.
        return n_chunks, raw, (raw if entry.dtype == "string" else whole) + extra
    logical = str(entry.attributes.get("dtype_logical", entry.dtype))
    ratio = RATIOS.get(part) or STATE_RATIOS[compressor_name(entry.dtype, spec.codec)][logical]
    return n_chunks, raw, int(raw * ratio + (whole - raw) * EMPTY_RATIO) + extra


def _itemsize(entry: ArraySpec) -> int:
    return TEXT_BYTES if entry.dtype == "string" else np.dtype(entry.dtype).itemsize


def _row_bytes(entry: ArraySpec) -> int:
    return ROW_TOKENS * prod(entry.shape[1:]) * _itemsize(entry)


def _with_tokens(spec: RunSpec, n_tokens: int) -> RunSpec:
    """The run with fewer tokens, and states in as large a share of its rows."""
    n_rows = -(-n_tokens // ROW_TOKENS)
    if spec.states != "sample":
        return dataclasses.replace(spec, n_tokens=n_tokens)
    n_kept = max(1, round(sum(spec.state_rows) / spec.n_rows * n_rows))
    return dataclasses.replace(spec, n_tokens=n_tokens, state_rows=tuple(row < n_kept for row in range(n_rows)))
