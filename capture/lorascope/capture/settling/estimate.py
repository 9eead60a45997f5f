"""Estimates of a capture: the size of its run, from the specification; its speed, from the time of each stage.

States are a component's base (the frozen layer's output) and delta (what the adapter adds).
"""

import dataclasses
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from lorascope.stores import RunSpec, StoreError
from lorascope.stores.format.codec import compressor_name
from lorascope.stores.format.layout import ArraySpec, array_specs, is_kept_with_states, is_measure
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.format.tables import is_answer_column, is_base_column
from lorascope.stores.size import format_size

from ..buffers.row_buffer import buffer_bytes

PARTS = ("base", "adapted", "factor", "delta", "reductions", "changes", "weights", "tables")

RATIOS = {"reductions": 0.87, "changes": 0.53, "weights": 0.925, "tables": 0.25}
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
"""Stored bytes for one byte of a chunk beyond the end of the token axis: the same number repeated."""
MARGIN = 0.05
"""Allowance for stores that are larger than expected, as a share: layers and data differ in how well they compress."""
TEXT_BYTES = 12
"""Assumed mean bytes of a string in a table, including its length of 4 bytes."""
CHUNK_BYTES = 60
"""Bytes of a chunk other than its values: checksum, Blosc's header and its table of blocks."""
ARRAY_METADATA_BYTES = 2060
"""Metadata of an array: its own file, and its entry in the metadata of a finished run's root."""
GROUP_METADATA_BYTES = 80
BLOCK_BYTES = 4096
"""Bytes that a file of one byte takes on most file systems."""
SHARE_STEPS = 10_000
"""Shares of tokens are suggested in multiples of one over this number."""
Stage = Literal["forward", "measuring", "copies", "encoders", "disk"]


class Part(NamedTuple):
    """Estimated size of one part of a run, such as its base states or its tables."""

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
    """Estimated size of a run: exact numbers of arrays, files and raw bytes, and expected bytes on the disk."""

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
    """Free space that the run should have: expected bytes, a margin, and the unused ends of files' last blocks."""
    row_arrays: tuple[int, ...]
    """Bytes of one row of each array in a row buffer."""
    bare_row_arrays: tuple[int, ...]
    """Bytes of one row of each array in a row buffer, for rows without states."""

    def row_sizes(self) -> list[int]:
        """Return the bytes of each row's buffer in memory; a row is 1024 tokens."""
        whole, bare = map(buffer_bytes, (self.row_arrays, self.bare_row_arrays))
        state_rows = self.spec.state_rows or (True,) * self.spec.n_rows
        return [whole if has_states else bare for has_states in state_rows]


def estimate(spec: RunSpec, *, base_scores: bool = True, answers: bool = False, change_share: float = 1.0) -> Estimate:
    """Estimate from its specification how large a run will be; no model or data is read.

    `base_scores` and `answers` say whether its tables have these columns, `change_share` is the share of the tokens
    whose next-token changes are stored; the others' chunks are all fill.
    """
    arrays = [
        entry
        for entry in array_specs(spec)
        if (base_scores or not is_base_column(entry.path)) and (answers or not is_answer_column(entry.path))
    ]
    by_part: dict[str, list[ArraySpec]] = {name: [] for name in PARTS}
    for entry in arrays:
        by_part[_part_name(entry.path)].append(entry)
    parts = tuple(
        _estimate_part(spec, name, entries, change_share if name == "changes" else 1.0)
        for name, entries in by_part.items()
        if entries
    )
    n_groups = len({"/".join(names[:n]) for e in arrays for names in [e.path.split("/")] for n in range(len(names))})
    n_written = sum(part.n_chunks for part in parts) + len(arrays) + n_groups
    n_files = n_written - spec.n_rows  # the digests of single rows are deleted at the end
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
        needed_bytes=int(stored * (1 + MARGIN)) + n_written * BLOCK_BYTES,
        row_arrays=tuple(_row_bytes(entry) for entry in rows),
        bare_row_arrays=tuple(_row_bytes(entry) for entry in rows if not is_kept_with_states(entry.path)),
    )


def require_space(
    estimated: Estimate,
    where: str,
    free_bytes: int | None,
    *,
    written_bytes: int = 0,
    neutral_bytes: int = 0,
    overfill: bool = False,
) -> None:
    """Raise StoreError, which says what would fit, if the run needs more disk than `free_bytes` (None if unknown).

    `written_bytes` are those of a run that is continued, `neutral_bytes` what the run of its neutral texts needs; with
    `overfill` a run may start that isn't expected to fit.
    """
    needed = estimated.needed_bytes + neutral_bytes - written_bytes
    if overfill or free_bytes is None or needed <= free_bytes:
        return
    more, texts = "more " * (written_bytes > 0), ", with its neutral texts," * (neutral_bytes > 0)
    ways = ways_to_fit(estimated.spec, free_bytes + written_bytes - neutral_bytes)
    raise StoreError(
        f"the run{texts} would take about {format_size(needed)} {more}at `{where}`, where {format_size(free_bytes)} "
        f"are free; {'; '.join(ways)}; or make room, or pass `--overfill`"
    )


def ways_to_fit(spec: RunSpec, n_bytes: int) -> list[str]:
    """Return phrases on how to make a run fit `n_bytes`: fewer tokens, no base and delta, fewer layers."""
    ways = []
    step = _largest_step(lambda step: max(-(-step * spec.n_tokens // SHARE_STEPS), 1), spec, n_bytes)
    if step > 0:
        ways.append(f"{100 * step / SHARE_STEPS:g} % of these tokens would fit (`--tokens share:P`, or `--limit`)")
    if spec.states != "none":
        bare = dataclasses.replace(spec, states="none", state_rows=())
        ways.append(f"`--states none` makes it {format_size(estimate(bare).needed_bytes)}")
    return [*ways, "an adapter on fewer layers has fewer components"]


def choose_share(spec: RunSpec, lengths: Sequence[int], budget_bytes: int, reserved_bytes: int = 0) -> str:
    """Return `all`, or `share:P` with the largest share of each sample's tokens that fits `budget_bytes`.

    `spec` is the run with all tokens; `reserved_bytes` of the budget are those of its neutral texts. Raises a
    StoreError if not even one token of each sample fits.
    """
    tokens = np.asarray(lengths)

    def n_chosen(step: int) -> int:
        """Return the number of tokens at this step (step / SHARE_STEPS of each sample, at least one)."""
        return int(np.maximum(np.round(step / SHARE_STEPS * tokens), 1).sum())  # as `select_tokens` takes them

    step = _largest_step(n_chosen, spec, budget_bytes - reserved_bytes)
    if step < 0:
        least = estimate(_spec_with_tokens(spec, len(tokens))).needed_bytes + reserved_bytes
        texts = " and its neutral texts" * (reserved_bytes > 0)
        raise StoreError(
            f"`budget` is {format_size(budget_bytes)}, but a run of one token of each of {len(tokens)} samples{texts} "
            f"needs {format_size(least)} with its margin; give more, fewer samples (`--limit`), or `--states none`"
        )
    return "all" if step == SHARE_STEPS else f"share:{max(step, 1) / SHARE_STEPS:g}"


def _largest_step(n_tokens: Callable[[int], int], spec: RunSpec, n_bytes: int) -> int:
    """Return the largest step whose run, of `n_tokens(step)` tokens, fits `n_bytes`; -1 if no step does.

    A step is a share of the tokens, in units of 1 / SHARE_STEPS.
    """

    def needed(step: int) -> int:
        """Return the bytes that the run of this step needs on the disk."""
        return estimate(_spec_with_tokens(spec, n_tokens(step))).needed_bytes

    return bisect_right(range(SHARE_STEPS + 1), n_bytes, key=needed) - 1


def _part_name(path: str) -> str:
    """Return the part of a run, one of `PARTS` such as `delta`, that the array at this path belongs to."""
    first, *rest = path.split("/")
    if first == "states":
        return rest[-1]
    if is_measure(path):
        return "changes" if rest[1:2] == ["changes"] else "reductions"
    if first == "adapters" and rest[1] in {"factor", "delta"}:
        return rest[1]
    if first == "experts":
        return "factor"  # its z; all else of experts are measures
    is_numbers = first == "adapters" and (rest[1] in {"lora_B", "lora_bias"} or rest[-1] == "gradient")
    return "weights" if is_numbers else "tables"


def _estimate_part(spec: RunSpec, name: str, entries: Sequence[ArraySpec], share: float) -> Part:
    """Return the estimated size of one part of a run, the sum over its arrays `entries`; `share` of it isn't blank."""
    some = spec.states == "sample" and is_kept_with_states(entries[0].path)
    rows = [row for row in range(spec.n_rows) if not some or spec.state_rows[row]]
    n_tokens = sum(min(ROW_TOKENS, spec.n_tokens - row * ROW_TOKENS) for row in rows)
    sizes = [_estimate_array(spec, name, entry, n_tokens, len(rows), share) for entry in entries]
    n_chunks, raw, stored = (sum(column) for column in zip(*sizes, strict=True))
    return Part(name, len(entries), n_chunks, raw, stored)


def _estimate_array(
    spec: RunSpec, part: str, entry: ArraySpec, n_tokens: int, n_rows: int, share: float
) -> tuple[int, int, int]:
    """Return (chunks, raw bytes, stored bytes) of one array with this number of tokens and rows.

    All but a share of its values are fill.
    """
    chunk = entry.shards or entry.chunks
    shape = (n_tokens, *entry.shape[1:]) if entry.by_row else entry.shape
    counts = [-(-length // size) for length, size in zip(entry.shape, chunk, strict=True)]
    n_chunks = prod([n_rows, *counts[1:]]) if entry.by_row else prod(counts)
    raw = prod(shape) * _value_bytes(entry)
    whole = n_chunks * prod(chunk) * _value_bytes(entry)  # a last chunk is as large as the others
    inner = prod(-(-length // size) for length, size in zip(chunk, entry.chunks, strict=True)) if entry.shards else 0
    extra = n_chunks * (CHUNK_BYTES + 16 * inner)  # a shard's index: 16 bytes for each of its chunks
    if spec.codec == "raw":
        # Strings have no empty ends: they are stored at their own length.
        return n_chunks, raw, (raw if entry.dtype == "string" else whole) + extra
    logical = str(entry.attributes.get("dtype_logical", entry.dtype))
    ratio = RATIOS.get(part) or STATE_RATIOS[compressor_name(entry.dtype, spec.codec)][logical]
    return n_chunks, raw, int(share * raw * ratio + (whole - share * raw) * EMPTY_RATIO) + extra


def _value_bytes(entry: ArraySpec) -> int:
    """Return the bytes of one value of an array; of strings, an assumed mean."""
    return TEXT_BYTES if entry.dtype == "string" else np.dtype(entry.dtype).itemsize


def _row_bytes(entry: ArraySpec) -> int:
    """Return the bytes of one whole row (1024 tokens) of an array."""
    return ROW_TOKENS * prod(entry.shape[1:]) * _value_bytes(entry)


def _spec_with_tokens(spec: RunSpec, n_tokens: int) -> RunSpec:
    """Return a run's specification with other `n_tokens`; the same share of its rows stores base and delta."""
    n_rows = -(-n_tokens // ROW_TOKENS)
    if spec.states != "sample":
        return dataclasses.replace(spec, n_tokens=n_tokens)
    n_chosen = max(1, round(sum(spec.state_rows) / spec.n_rows * n_rows))
    return dataclasses.replace(spec, n_tokens=n_tokens, state_rows=tuple(row < n_chosen for row in range(n_rows)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds per token of each stage of a capture (pass, copies, encoding ...), if the stage ran alone."""

    forward: float
    measuring: float
    """Hooks, js, reductions and logits, beyond the pass."""
    copies: float
    encoders: float
    """Processor seconds of encoding, whose threads use all cores."""
    disk: float
    n_cores: int
    n_threads: int
    """Cores that pass, measuring and copies keep busy; 0 if another device does their work."""

    @property
    def rates(self) -> dict[Stage, float]:
        """Stage -> its speed in tokens per second, if it ran alone."""
        seconds: dict[Stage, float] = {"forward": self.forward, "measuring": self.measuring, "copies": self.copies}
        seconds |= {"encoders": self.encoders / self.n_cores, "disk": self.disk}
        return {stage: 1 / each if each else math.inf for stage, each in seconds.items()}

    @property
    def seconds(self) -> float:
        """Seconds per token of the whole capture, whose stages overlap.

        Stages that run at the same time take as long as the slowest one: the disk; the pass with its measuring; the
        copies; the encoders. On a CPU, pass, measuring and copies follow one another and share the cores with the
        encoders: there the work of all is added up, and divided among the cores.
        """
        chain = self.forward + self.measuring
        if not self.n_threads:
            return max(chain, self.copies, self.encoders / self.n_cores, self.disk)
        chain += self.copies
        return max(chain, (chain * self.n_threads + self.encoders) / self.n_cores, self.disk)

    @property
    def limit(self) -> Stage:
        """Name of the stage that limits the capture's speed, such as `disk`."""
        if self.disk >= self.seconds:
            return "disk"
        chain: dict[Stage, float] = {"forward": self.forward, "measuring": self.measuring}
        if not self.n_threads:
            if sum(chain.values()) < self.seconds:
                return "copies" if self.copies >= self.seconds else "encoders"
            return max(chain, key=chain.__getitem__)
        chain["copies"] = self.copies
        longest = max(chain, key=chain.__getitem__)
        waits = sum(chain.values()) >= self.seconds  # for the pass alone: the encoders have cores left
        return longest if waits or chain[longest] * self.n_threads >= self.encoders else "encoders"

    def as_dict(self) -> dict[str, Any]:
        """Return the speed of each stage and of all, in tokens per second, and the limiting stage, as JSON values."""
        return {"stages": self.rates, "tokens_per_second": 1 / self.seconds, "limit": self.limit}


def n_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
