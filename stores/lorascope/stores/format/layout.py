"""Specifications of all arrays of a run: the format as a function of a `RunSpec`.

`docs/store-format.md` is the specification; this module is its only copy in code. Nothing is opened here.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .spec import DTYPES, ROW_TOKENS, Adapter, Component, ExpertBlock, RunSpec, block_path
from .tables import (
    ADAPTER_COLUMNS,
    CHANGE_COLUMNS,
    IMPORTANCE_COLUMNS,
    NULL_COLUMNS,
    REPLY_COLUMNS,
    ROW_STATES,
    TABLES,
    TOKEN_TEXT,
    VOCABULARY_TEXT,
    Column,
)

MAX_CHUNK_BYTES = 2**31 - 1
"""Size of the largest chunk that is written or read: more doesn't fit one buffer of Blosc."""

FACTOR_CHUNK_COLUMNS = 64
"""Columns of `factor` in one inner chunk: 256 KiB of float32 per row, below which Blosc compresses less."""
TABLE_CHUNK = 65_536
"""Most entries of a table in one chunk."""
GROUPS = ("rows", *TABLES, "states", "reductions", "adapters", "unembedding")
"""Top-level groups that every reader knows; each further one is optional, and the root lists its name.

`unembedding` is of earlier versions: it is checked as an unknown group is, and not copied.
"""
NEUTRAL = "neutral"
"""Folder inside a run that holds the run of its neutral texts, if some were captured; no array of the run is below."""
IN_RUN = "(in the run)"
"""End of the name of data that the run alone has: texts that the base model wrote itself."""
FOLDERS_BY_COMPONENT = ("lora_B", "lora_bias", "delta")
"""Folders of an adapter with one array per component."""
DIGESTS = "rows/digest"
"""Path of the digests of all rows, one object in a finished run; before version 3, one object a row."""
COMMITS = "rows/commit"
"""Path of the digests of rows while a run is written, one object a row, which are deleted when it is finished."""
DIGEST_ARRAYS = (DIGESTS, COMMITS)
COMPONENT_AXIS = "in the order of components/path"
"""Attribute `component_axis` of every array along the component axis."""
BITS_NOTE = "; bits of bfloat16 in uint16; widen before use"
"""End of the long name of arrays of bfloat16 bits, for readers that use xarray alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Specification of one array of a run: path, shape, chunks, dtype, fill value, dimension names, attributes."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: int | float | str
    dims: tuple[str, ...]
    shards: tuple[int, ...] | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    by_row: bool = False
    """Whether it is written row by row, covered by the rows' digests; else once, when the run is set up."""
    optional: bool = False
    """Whether it may be missing, since it wasn't asked for or older writers didn't know it."""


def is_factor_smaller(*, rank: int, d_out: int, itemsize: int) -> bool:
    """Return whether LoRA's z = A x in float32 takes fewer bytes than delta at `itemsize` bytes per value."""
    return 4 * rank < itemsize * d_out


def chunk_key(path: str, row: int, ndim: int) -> str:
    """Return a chunk's key, its file's path in the run: `tokens/nll/c.3` for row 3 of a one-dimensional array."""
    return f"{path}/c." + ".".join([str(row)] + ["0"] * (ndim - 1))


def require_rows_fit_chunks(spec: RunSpec) -> None:
    """Raise ValueError if a row (1,024 tokens) of an array doesn't fit the largest possible chunk.

    That takes half a million features.
    """
    for entry in array_specs(spec):
        if entry.dtype != "string":
            n_bytes = math.prod(entry.shards or entry.chunks) * np.dtype(entry.dtype).itemsize
            if n_bytes > MAX_CHUNK_BYTES:
                raise ValueError(
                    f"a row of {entry.path!r}, {entry.chunks} of {entry.dtype}, takes {n_bytes} bytes; a chunk holds "
                    f"{MAX_CHUNK_BYTES} at most, so leave this component out"
                )


def commit_path(format_version: int) -> str:
    """Return the path of the array whose chunks commit rows: each chunk is one row's digest."""
    return DIGESTS if format_version < 3 else COMMITS


def is_sealed(attributes: Mapping[str, Any]) -> bool:
    """Return whether a run with these root attributes keeps the digests of its rows in one object, `DIGESTS`."""
    return attributes.get("finished") is True and bool(attributes["format_version"] >= 3)


def is_kept_with_states(path: str) -> bool:
    """Return whether the array at `path` exists only in rows that keep states: base, adapted, factor, delta, z."""
    parts = path.split("/")
    is_z = parts[0] == "experts" and parts[2:] == ["z"]
    return parts[0] == "states" or is_z or (parts[0] == "adapters" and parts[2] in ("factor", "delta"))


def is_measure(path: str) -> bool:
    """Return whether the array at `path` has routing, measures of tokens or next-token changes; some may be missing."""
    first, *rest = path.split("/")
    measures = {"js", "swallowed", "delta_norm", "kl", "changes", "ablation"}
    is_of_experts = first == "experts" and rest[1:] != ["z"]
    return first == "reductions" or is_of_experts or (first == "adapters" and rest[1] in measures)


def single_component(path: str) -> str | None:
    """Return the component that an array's path names; None for an array of several components or of none."""
    parts = path.split("/")
    if parts[0] == "states" or (parts[0] == "experts" and block_path(parts[1])):
        return parts[1]
    return parts[3] if parts[0] == "adapters" and parts[2] in FOLDERS_BY_COMPONENT else None


def array_specs(spec: RunSpec) -> Iterator[ArraySpec]:
    """Yield the specification of every array that a run of this RunSpec has, tables first; each in one of `GROUPS`."""
    commits = ArraySpec(
        path=commit_path(spec.format_version),
        shape=(spec.n_rows, 32),
        chunks=(1, 32),
        dtype="uint8",
        fill=0,
        dims=("row", "byte"),
        attributes={"long_name": "SHA-256 over the digests of the row's chunks; a row counts once this isn't all zero"},
    )
    yield commits
    if commits.path != DIGESTS:
        yield replace(commits, path=DIGESTS, chunks=(min(spec.n_rows, TABLE_CHUNK), 32))
    for table, length in (
        ("samples", spec.n_samples),
        ("choices", spec.n_choices),
        ("tokens", spec.n_tokens),
        ("components", len(spec.components)),
    ):
        for column in TABLES[table]:
            if column is not TOKEN_TEXT or spec.token_text:
                yield _column_array(table, column, length, table.removesuffix("s"))
    if spec.states == "sample":
        yield _column_array("rows", ROW_STATES, spec.n_rows, "row")
    if spec.states != "all":
        yield _component_array(spec, "reductions/base_norm", "Euclidean norm of base", optional=True)
        meaning = "exp of the entropy, in nats, of softmax(base): how many features share its mass"
        yield _component_array(spec, "reductions/effective_width", meaning, optional=True)
    for component in spec.components if spec.states != "none" else ():
        yield from _state_arrays(spec, component)
    for adapter in spec.adapters:
        yield from _adapter_arrays(spec, adapter)
    for block in spec.experts:
        yield from _expert_arrays(spec, block)
    if spec.n_vocabulary:
        yield _column_array("vocabulary", VOCABULARY_TEXT, spec.n_vocabulary, "vocabulary")


def _column_array(table: str, column: Column, length: int, dim: str) -> ArraySpec:
    """Return the specification of a table's column: an array along `dim`, the table's entries, and any further axes."""
    widths = tuple(width for _, width in column.axis)
    return ArraySpec(
        path=f"{table}/{column.name}",
        shape=(length, *widths),
        chunks=(ROW_TOKENS if column.by_row else min(max(length, 1), TABLE_CHUNK), *widths),
        dtype=column.dtype,
        fill=column.fill,
        dims=(dim, *(name for name, _ in column.axis)),
        attributes=dict(column.attributes),
        by_row=column.by_row,
        optional=column.optional,
    )


def _token_array(
    spec: RunSpec,
    path: str,
    meaning: str,
    *axis: tuple[str, int],
    dtype: str = "float32",
    fill: int | float = np.nan,
    optional: bool = False,
    **attributes: object,
) -> ArraySpec:
    """Return the specification of an array (token, ...) that is written row by row.

    `axis` are the names and lengths of its further axes.
    """
    folder, _, name = path.rpartition("/")
    known: Any = {"name": name, "dtype": dtype, "fill": fill, "axis": axis, "optional": optional}
    column = Column(**known, attributes={"long_name": meaning, **attributes}, by_row=True)
    return _column_array(folder, column, spec.n_tokens, "token")


def _component_array(spec: RunSpec, path: str, meaning: str, **attributes: object) -> ArraySpec:
    """Return the specification of an array (token, component), which is written row by row."""
    axis = ("component", len(spec.components))
    return _token_array(spec, path, meaning, axis, **attributes, component_axis=COMPONENT_AXIS)  # type: ignore[arg-type]


def _state_arrays(spec: RunSpec, component: Component) -> Iterator[ArraySpec]:
    """Yield the specifications of a component's stored outputs: `base`, and in a run of stream `pair` `adapted`."""
    dtype, fill = DTYPES[component.stored_dtype]
    meanings = {"base": "output of the frozen layer, W x (+ bias)"}
    if spec.stream == "pair":
        meanings["adapted"] = "output of the wrapped layer in a run of its own with the adapter active"
    for name, meaning in meanings.items():
        yield _token_array(
            spec,
            f"states/{component.path}/{name}",
            meaning + BITS_NOTE * (component.stored_dtype == "bfloat16"),
            ("feature", component.d_out),
            dtype=dtype.name,
            fill=fill,
            dtype_logical=component.stored_dtype,
            source_dtype=component.dtype,
        )


def _adapter_arrays(spec: RunSpec, adapter: Adapter) -> Iterator[ArraySpec]:
    """Yield the specifications of an adapter's arrays: values by component, measures by token, weights, deltas."""
    root = f"adapters/{adapter.name}"
    for column in ADAPTER_COLUMNS:
        array = _column_array(root, column, len(spec.components), "component")
        yield replace(array, attributes={**array.attributes, "component_axis": COMPONENT_AXIS})
    meaning = (
        "Jensen-Shannon divergence of softmax(base) and softmax(lora), from the states in memory during capture; NaN "
        "for tokens left out of the seeded share"
    )
    yield _component_array(spec, f"{root}/js", meaning, units="nat")
    meaning = (
        "share of features whose sum, in the layer's own type, equals base though delta isn't 0; NaN where it wasn't "
        "measured"
    )
    yield _component_array(spec, f"{root}/swallowed", meaning, units="1", optional=True)
    if spec.states != "all":
        yield _component_array(spec, f"{root}/delta_norm", "Euclidean norm of delta", optional=True)
    if spec.kl or spec.n_vocabulary:
        meaning = (
            "Kullback-Leibler divergence of the next-token distribution with the adapter from the one without, "
            "KL(base || adapted); NaN where it wasn't measured"
        )
        yield _token_array(spec, f"{root}/kl", meaning, units="nat", optional=True)
    for column in CHANGE_COLUMNS if spec.n_vocabulary else ():
        yield _column_array(f"{root}/changes", column, spec.n_tokens, "token")
    if spec.ablate is not None:
        meaning = (
            "Kullback-Leibler divergence of the next-token distribution without one part's delta from the adapted "
            "one, KL(adapted || ablated); NaN where it wasn't measured"
        )
        axis = ("part", len(spec.ablation_parts))
        yield _token_array(spec, f"{root}/ablation", meaning, axis, units="nat", parts=spec.ablate)
        meaning = (
            "what is left out: a component's path, a layer's number, or a kind's name, as `parts` of ablation says"
        )
        column = Column(name="ablation_part", dtype="string", fill="", attributes={"long_name": meaning})
        yield _column_array(root, column, len(spec.ablation_parts), "part")
    for column in REPLY_COLUMNS if spec.n_replies else ():
        yield _column_array(f"{root}/replies", column, spec.n_replies, "reply")
    if adapter.importance is not None:
        yield from _importance_arrays(f"{root}/importance", *adapter.importance)
    for column in NULL_COLUMNS if adapter.n_variants else ():
        whole = replace(column, axis=(("variant", adapter.n_variants),))
        yield _column_array(f"{root}/nulls", whole, spec.n_samples, "sample")
    if spec.states != "none":
        yield from _delta_arrays(spec, adapter, root)


def _expert_arrays(spec: RunSpec, block: ExpertBlock) -> Iterator[ArraySpec]:
    """Yield the specifications of a block's routing, and of each chosen expert's measures and z by component."""
    choice = ("choice", block.n_choices)
    known: dict[str, Any] = {"n_experts": block.n_experts, "applied_to": block.applied_to}
    passes = {"": ""} | ({"base_": " in the pass without the adapter"} if spec.stream == "pair" else {})
    for prefix, which in passes.items():
        root = f"experts/{block.path}/{prefix}"
        meaning = f"expert that the token was routed to{which}"
        yield _token_array(spec, f"{root}expert", meaning, choice, dtype="int32", fill=-1, **known)
        meaning = f"weight of this expert, as the router gives it{which}"
        yield _token_array(spec, f"{root}weight", meaning, choice, units="1", **known)
    for component, rank in zip(spec.components, spec.adapters[0].rank, strict=True):
        if rank == 0 or block_path(component.path) != block.path:
            continue
        root = f"experts/{component.path}"
        meaning = "Jensen-Shannon divergence of softmax(base) and softmax(base + delta) of the expert's own output"
        yield _token_array(spec, f"{root}/js", meaning, choice, units="nat")
        for name in ("base", "delta"):
            meaning = f"Euclidean norm of {name} of the expert's own output, before its weight"
            yield _token_array(spec, f"{root}/{name}_norm", meaning, choice)
        if spec.states != "none":
            meaning = "z: the expert's own part of the adapter's factor on the input's side, times the input"
            yield _token_array(spec, f"{root}/z", meaning, choice, ("rank", rank))


def _importance_arrays(root: str, n_passes: int, n_directions: int) -> Iterator[ArraySpec]:
    """Yield the specifications of an adapter's gradients (pass, direction), and of what each axis means."""
    meaning = (
        "derivative, by a scale of 1 on the direction, of the sum over the pass's places of log p(label), each label "
        "drawn from the adapted model's own next-token distribution"
    )
    gradient = _weight_array(f"{root}/gradient", meaning, ("pass", n_passes), ("direction", n_directions))
    chunks = (min(n_passes, ROW_TOKENS), n_directions)
    yield replace(gradient, chunks=chunks, attributes={**gradient.attributes, "units": "nat"})
    for axis, length in (("pass", n_passes), ("direction", n_directions)):
        for column in IMPORTANCE_COLUMNS[axis]:
            yield _column_array(root, column, length, axis)


def _delta_arrays(spec: RunSpec, adapter: Adapter, root: str) -> Iterator[ArraySpec]:
    """Yield the specifications of an adapter's `factor`, `lora_B` and `lora_bias`, or of `delta` stored itself."""
    if adapter.n_factor_columns:
        n, columns = adapter.n_factor_columns, min(FACTOR_CHUNK_COLUMNS, adapter.n_factor_columns)
        meaning = "z = A x of every component side by side; delta = scaling * z @ lora_B.T"
        factor = _token_array(spec, f"{root}/factor", meaning, ("factor_column", n))
        yield replace(factor, chunks=(ROW_TOKENS, columns), shards=(ROW_TOKENS, -(-n // columns) * columns))
    biased = adapter.biased or (False,) * len(spec.components)
    for component, rank, start, has_bias in zip(
        spec.components, adapter.rank, adapter.factor_start, biased, strict=True
    ):
        # Dimension names carry the component's path: arrays of one group may not give one name two lengths.
        path, feature = component.path, (f"feature_{component.path}", component.d_out)
        if start >= 0:
            meaning = "the adapter's B; delta = scaling * (z @ lora_B.T + lora_bias)"
            yield _weight_array(f"{root}/lora_B/{path}", meaning, feature, (f"rank_{path}", rank))
            if has_bias:
                meaning = "bias of lora_B, added to z @ lora_B.T before scaling"
                yield _weight_array(f"{root}/lora_bias/{path}", meaning, feature)
        elif rank > 0:
            meaning = "what the adapter adds to the layer's output; scaling is in it"
            yield _token_array(spec, f"{root}/delta/{path}", meaning, feature)


def _weight_array(path: str, meaning: str, *axes: tuple[str, int]) -> ArraySpec:
    """Return the specification of a float32 array that is written once, in one chunk; `axes` are (name, length)."""
    shape = tuple(n for _, n in axes)
    return ArraySpec(
        path=path,
        shape=shape,
        chunks=shape,
        dtype="float32",
        fill=np.nan,
        dims=tuple(name for name, _ in axes),
        attributes={"long_name": meaning},
    )
