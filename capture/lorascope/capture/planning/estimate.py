"""What a run will take on disk and in memory, from its specification alone: no model, no device, no disk."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorascope.stores import RunSpec, StoreError, open_place
from lorascope.stores.format.check import is_answer, is_without_adapter
from lorascope.stores.format.layout import ArraySpec, array_specs, goes_with_states, worth_factoring
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.size import format_size

from ..buffers.row_buffer import buffer_bytes

__all__ = ["Estimate", "Part", "choose_share", "estimate", "require_space", "require_writable"]

PARTS = ("base", "adapted", "factor", "delta", "reductions", "weights", "tables")

RATIOS = {
    ("states", "bfloat16"): 0.670,
    ("states", "float16"): 0.844,
    ("states", "float32"): 0.831,
    ("factor", "float32"): 0.831,
    ("delta", "float32"): 0.831,
    ("reductions", "float32"): 0.87,
    ("weights", "float32"): 0.925,
    ("tables", "number"): 0.25,
    ("tables", "string"): 0.25,
}
"""(what, logical type) -> stored bytes for one byte, by Blosc zstd level 1 with byte shuffle and blocks of 512 KiB.

States: 1 / 1.493, 1 / 1.185 and 1 / 1.203, means over 25 layers of SmolLM2-135M on prose, code and chat (single layers
of bfloat16: 1 / 1.465 to 1 / 1.560); on 45 questions of ARC-Easy, whose prompts begin alike, a capture of all its 210
layers came to 0.651, 0.816 and 0.826. Factor and delta count as states of their type; the rest is from that capture.
"""
EMPTY_RATIO = 0.004
"""The same for what a chunk holds beyond the end of the token axis: one number again and again."""
MARGIN = 0.05
"""How far a store may come out larger than expected: layers and data differ in how well they compress."""
TEXT_BYTES = 12
"""Mean bytes of a string in a table, its length of 4 bytes included; nothing is known of it before it is written."""
CHUNK_BYTES = 60
"""What a chunk holds beside its values: checksum, Blosc's header and its table of blocks."""
ARRAY_METADATA_BYTES = 960
CONSOLIDATED_BYTES = 1100
"""The same array in the metadata of the root, once the run is finished."""
GROUP_METADATA_BYTES = 80
BLOCK_BYTES = 4096
"""What a file of a byte takes on most file systems."""
SHARE_STEPS = 10_000


class Part(NamedTuple):
    """What one part of a run takes."""

    name: str
    """One of `PARTS`."""
    n_arrays: int
    n_chunks: int
    """Files, or objects, beside the arrays' metadata."""
    raw_bytes: int
    """Of the values in memory; strings are estimated."""
    stored_bytes: int
    """Expected on disk; see `RATIOS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run takes: arrays, chunks and raw bytes as they will be, stored bytes as expected."""

    spec: RunSpec
    parts: tuple[Part, ...]
    """Those that the run has, in the order of `PARTS`."""
    n_groups: int
    row_arrays: tuple[int, ...]
    """Bytes of one row of each array: what a row buffer holds."""
    bare_row_arrays: tuple[int, ...]
    """The same of a row without states."""
    largest_chunk_bytes: int
    """Memory of the largest chunk of a row."""

    @property
    def n_arrays(self) -> int:
        """Arrays of the run."""
        return sum(part.n_arrays for part in self.parts)

    @property
    def n_files(self) -> int:
        """Files, or objects, of the run: chunks, and metadata of each array and group."""
        return sum(part.n_chunks for part in self.parts) + self.n_arrays + self.n_groups

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all arrays."""
        return sum(self.row_arrays)

    def row_sizes(self, *, pinned: bool = False) -> list[int]:
        """Memory that a buffer of each row takes."""
        whole, bare = (buffer_bytes(sizes, pinned=pinned) for sizes in (self.row_arrays, self.bare_row_arrays))
        kept = self.spec.state_rows or (True,) * self.spec.n_rows
        return [whole if has_states else bare for has_states in kept]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all values in memory."""
        return sum(part.raw_bytes for part in self.parts)

    @property
    def stored_bytes(self) -> int:
        """Expected bytes of all files, metadata included."""
        metadata = self.n_arrays * (ARRAY_METADATA_BYTES + CONSOLIDATED_BYTES) + self.n_groups * GROUP_METADATA_BYTES
        return sum(part.stored_bytes for part in self.parts) + metadata

    @property
    def needed_bytes(self) -> int:
        """Free space that the run should have: what is expected, a margin, and what files waste of their last block."""
        return int(self.stored_bytes * (1 + MARGIN)) + self.n_files * BLOCK_BYTES


def estimate(spec: RunSpec, *, base_scores: bool = True, answers: bool = False) -> Estimate:
    """What a run with this specification takes; a pure function.

    Parameters
    ----------
    spec
        What the run holds.
    base_scores
        Whether its tables have what was found without the adapter.
    answers
        Whether they have the model's own answers.
    """
    arrays = [
        entry
        for entry in array_specs(spec)
        if (base_scores or not is_without_adapter(entry.path)) and (answers or not is_answer(entry.path))
    ]
    by_part: dict[str, list[ArraySpec]] = {name: [] for name in PARTS}
    for entry in arrays:
        by_part[_part_of(entry.path)].append(entry)
    rows = [entry for entry in arrays if entry.by_row]
    return Estimate(
        spec=spec,
        parts=tuple(_part(spec, name, found) for name, found in by_part.items() if found),
        n_groups=len({"/".join(names[:n]) for e in arrays for names in [e.path.split("/")] for n in range(len(names))}),
        row_arrays=tuple(_row_bytes(entry) for entry in rows),
        bare_row_arrays=tuple(_row_bytes(entry) for entry in rows if not goes_with_states(entry.path)),
        largest_chunk_bytes=max(_row_bytes(entry) for entry in rows),
    )


def require_writable(out: str) -> None:
    """Raise ValueError before any work if the run's folder couldn't be made."""
    found = open_place(out)
    if found.remote:
        return
    place = Path(found.path).absolute()
    parent = next(folder for folder in (place, *place.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise ValueError(f"`out` is {out!r}, but `{parent}` {what}; name another place")


def require_space(
    estimated: Estimate, where: str, free_bytes: int | None, *, written_bytes: int = 0, overfill: bool = False
) -> None:
    """Do nothing if the run fits the space that is free, or nobody knows how much that is.

    Parameters
    ----------
    estimated
        What it takes.
    where
        The place's name, for the message.
    free_bytes
        Free space there; None where it isn't known.
    written_bytes
        What the run has there already, if it goes on.
    overfill
        Whether it may be started all the same.

    Raises
    ------
    StoreError
        If it doesn't fit; names what would.
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
    """What to drop so that a run fits so many bytes, as phrases; fewer components always are the last."""
    ways = []
    steps = _fitting_tokens(spec, n_bytes) * SHARE_STEPS // spec.n_tokens
    if steps:
        ways.append(f"{100 * steps / SHARE_STEPS:g} % of these tokens would fit (`--tokens share:P`, or `--limit`)")
    if any(c.stored_dtype != "bfloat16" for c in spec.components) and spec.states != "none":
        ways.append(f"`--store bf16` makes it {format_size(estimate(_narrow(spec)).needed_bytes)}")
    if spec.states != "none":
        bare = dataclasses.replace(spec, states="none", state_rows=())
        ways.append(f"`--states none` makes it {format_size(estimate(bare).needed_bytes)}")
    return [*ways, "an adapter on fewer layers has fewer components"]


def choose_share(spec: RunSpec, lengths: Sequence[int], budget_bytes: int) -> str:
    """The selection `all`, or `share:P` with the largest share of each sample's tokens whose store fits a budget.

    Parameters
    ----------
    spec
        Of the run with all tokens.
    lengths
        Tokens of each sample (sample,).
    budget_bytes
        What the store may take, its expected size and margin.

    Raises
    ------
    StoreError
        If not even one token of each sample fits.
    """
    tokens = np.asarray(lengths)

    def fits(step: int) -> bool:
        kept = np.maximum(np.round(step / SHARE_STEPS * tokens), 1)  # as `select_tokens` takes them
        return estimate(_with_tokens(spec, int(kept.sum()))).needed_bytes <= budget_bytes

    if fits(SHARE_STEPS):
        return "all"
    if not fits(0):
        least = estimate(_with_tokens(spec, len(tokens)))
        raise StoreError(
            f"`budget` is {format_size(budget_bytes)}, but a run of one token of each of {len(tokens)} samples needs "
            f"{format_size(least.needed_bytes)} with its margin; give more, fewer samples (`--limit`), or "
            "`--states none`"
        )
    low, high = 0, SHARE_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return f"share:{max(low, 1) / SHARE_STEPS:g}"


def _part_of(path: str) -> str:
    first, *rest = path.split("/")
    if first == "states":
        return rest[-1]
    if first == "reductions" or (first == "adapters" and rest[1] in {"js", "kl", "delta_norm", "swallowed"}):
        return "reductions"
    if first == "adapters" and rest[1] in {"factor", "delta"}:
        return rest[1]
    return "weights" if first == "adapters" and rest[1] in {"lora_B", "lora_bias"} else "tables"


def _part(spec: RunSpec, name: str, entries: Sequence[ArraySpec]) -> Part:
    sampled = spec.states == "sample" and goes_with_states(entries[0].path)
    kept = _state_tokens(spec) if sampled else (spec.n_tokens, spec.n_rows)
    sizes = [_size(spec, name, entry, *kept) for entry in entries]
    n_chunks, raw, stored = (sum(column) for column in zip(*sizes, strict=True))
    return Part(name, len(entries), n_chunks, raw, stored)


def _state_tokens(spec: RunSpec) -> tuple[int, int]:
    """Tokens and rows that keep their states."""
    rows = [row for row, kept in enumerate(spec.state_rows) if kept]
    return sum(min(ROW_TOKENS, spec.n_tokens - row * ROW_TOKENS) for row in rows), len(rows)


def _size(spec: RunSpec, part: str, entry: ArraySpec, n_tokens: int, n_rows: int) -> tuple[int, int, int]:
    """Chunks, raw bytes and stored bytes of one array, of which so many tokens and rows are kept."""
    chunk = entry.shards or entry.chunks
    shape = (n_tokens, *entry.shape[1:]) if entry.by_row else entry.shape
    counts = [-(-length // size) for length, size in zip(entry.shape, chunk, strict=True)]
    n_chunks = prod([n_rows, *counts[1:]]) if entry.by_row else prod(counts)
    raw = prod(shape) * _itemsize(entry)
    whole = n_chunks * prod(chunk) * _itemsize(entry)  # a last chunk is as large as the others
    inner = prod(-(-length // size) for length, size in zip(chunk, entry.chunks, strict=True)) if entry.shards else 0
    beside = n_chunks * (CHUNK_BYTES + 16 * inner)  # a shard's index: 16 bytes for each of its chunks
    if spec.codec == "raw":
        # Strings know no empty place: theirs are as long as they are.
        return n_chunks, raw, (raw if entry.dtype == "string" else whole) + beside
    return n_chunks, raw, int(raw * _ratio(part, entry) + (whole - raw) * EMPTY_RATIO) + beside


def _itemsize(entry: ArraySpec) -> int:
    return TEXT_BYTES if entry.dtype == "string" else np.dtype(entry.dtype).itemsize


def _ratio(part: str, entry: ArraySpec) -> float:
    if part == "tables":
        return RATIOS[part, "string" if entry.dtype == "string" else "number"]
    logical = str(entry.attributes.get("dtype_logical", entry.dtype))
    return RATIOS["states" if part in {"base", "adapted"} else part, logical]


def _row_bytes(entry: ArraySpec) -> int:
    return ROW_TOKENS * prod(entry.shape[1:]) * _itemsize(entry)


def _with_tokens(spec: RunSpec, n_tokens: int) -> RunSpec:
    """The same run with fewer tokens, and states in as large a share of its rows."""
    n_rows = -(-n_tokens // ROW_TOKENS)
    if spec.states != "sample":
        return dataclasses.replace(spec, n_tokens=n_tokens)
    n_kept = max(1, round(sum(spec.state_rows) / spec.n_rows * n_rows))
    return dataclasses.replace(spec, n_tokens=n_tokens, state_rows=tuple(row < n_kept for row in range(n_rows)))


def _narrow(spec: RunSpec) -> RunSpec:
    """The same run with base in bfloat16, and delta whole where the factor is larger than that."""
    components = tuple(dataclasses.replace(c, stored_dtype="bfloat16") for c in spec.components)
    adapters = tuple(
        dataclasses.replace(
            adapter,
            factored=tuple(
                kept and worth_factoring(rank=rank, d_out=c.d_out, itemsize=2)
                for kept, rank, c in zip(adapter.factored, adapter.rank, components, strict=True)
            ),
        )
        for adapter in spec.adapters
    )
    return dataclasses.replace(spec, components=components, adapters=adapters)


def _fitting_tokens(spec: RunSpec, n_bytes: int) -> int:
    """Most tokens whose run fits so many bytes; 0 where none does."""
    low, high = 0, spec.n_tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if estimate(_with_tokens(spec, middle)).needed_bytes <= n_bytes else (low, middle)
    return low
