"""What a run holds, array by array: format version 1 as a pure function of a `RunSpec`.

`docs/store-format.md` is the specification; this module is its only copy in code. Nothing here touches a disk.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .spec import DTYPES, ROW_TOKENS, Adapter, Component, RunSpec
from .tables import TABLES, TOKEN_TEXT

__all__ = [
    "BITS_NOTE",
    "MAX_CHUNK_BYTES",
    "TABLE_CHUNK",
    "ArraySpec",
    "array_specs",
    "chunk_key",
    "goes_with_states",
    "require_chunks",
    "worth_factoring",
]

MAX_CHUNK_BYTES = 2**31 - 1
"""What Blosc can hold in one buffer: no larger chunk is written, and none that announces more is read."""

FACTOR_CHUNK = 64
"""Columns of the packed factor in one inner chunk: 256 KiB of float32 a row, below which Blosc loses ratio."""
TABLE_CHUNK = 65_536
"""Entries of a table in one chunk, at most."""
COMPONENT_AXIS = "in the order of components/path"
BITS_NOTE = "; bits of bfloat16 in uint16; widen before use"
"""Ends the long name of an array of such bits, for whoever opens it with xarray alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of the store before it exists."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: int | float | str
    dims: tuple[str, ...]
    shards: tuple[int, ...] | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    by_row: bool = False
    """Written row by row and covered by the rows' digests; else written once, when the run is set up."""


def worth_factoring(*, rank: int, d_out: int, itemsize: int) -> bool:
    """Whether the float32 factor is smaller than delta kept at the base's item size."""
    return 4 * rank < itemsize * d_out


def chunk_key(path: str, row: int, ndim: int) -> str:
    """Key of the chunk that holds a row of an array: its file, relative to the run."""
    return f"{path}/c." + ".".join([str(row)] + ["0"] * (ndim - 1))


def require_chunks(spec: RunSpec) -> None:
    """Raise ValueError where a row of an array is more than one chunk can hold, which takes half a million features."""
    for entry in array_specs(spec):
        if entry.dtype != "string":
            n_bytes = math.prod(entry.shards or entry.chunks) * np.dtype(entry.dtype).itemsize
            if n_bytes > MAX_CHUNK_BYTES:
                raise ValueError(
                    f"a row of {entry.path!r}, {entry.chunks} of {entry.dtype}, takes {n_bytes} bytes; a chunk holds "
                    f"{MAX_CHUNK_BYTES} at most, so leave this component out"
                )


def goes_with_states(path: str) -> bool:
    """Whether rows without states do without this array: states themselves, factor and delta."""
    parts = path.split("/")
    return parts[0] == "states" or (parts[0] == "adapters" and parts[2] in ("factor", "delta"))


def array_specs(spec: RunSpec) -> Iterator[ArraySpec]:
    """Every array of a run with this specification, tables first."""
    yield ArraySpec(
        path="rows/digest",
        shape=(spec.n_rows, 32),
        chunks=(1, 32),
        dtype="uint8",
        fill=0,
        dims=("row", "byte"),
        attributes={"long_name": "SHA-256 over the row's chunks; a row counts once this isn't all zero"},
    )
    yield from _table_arrays(spec)
    if spec.states == "sample":
        yield ArraySpec(
            path="rows/states",
            shape=(spec.n_rows,),
            chunks=(min(spec.n_rows, TABLE_CHUNK),),
            dtype="uint8",
            fill=0,
            dims=("row",),
            attributes={
                "long_name": "1 where the row keeps states, factor and delta; 0 where it keeps reductions alone"
            },
        )
    if spec.states != "all":
        yield _by_token(spec, "reductions/base_norm", "Euclidean norm of base")
        yield _by_token(
            spec,
            "reductions/effective_width",
            "exp of the entropy, in nats, of softmax(base): how many features share its mass",
        )
    for component in spec.components if spec.states != "none" else ():
        yield from _state_arrays(spec, component)
    for adapter in spec.adapters:
        yield from _adapter_arrays(spec, adapter)


def _table_arrays(spec: RunSpec) -> Iterator[ArraySpec]:
    lengths = {
        "samples": spec.n_samples,
        "choices": spec.n_choices,
        "tokens": spec.n_tokens,
        "components": len(spec.components),
    }
    for table, columns in TABLES.items():
        for column in columns:
            if column is TOKEN_TEXT and not spec.token_text:
                continue
            length = lengths[table]
            yield ArraySpec(
                path=f"{table}/{column.name}",
                shape=(length,),
                chunks=(ROW_TOKENS if column.by_row else min(max(length, 1), TABLE_CHUNK),),
                dtype=column.dtype,
                fill=column.fill,
                dims=(table.removesuffix("s"),),
                attributes=dict(column.attributes),
                by_row=column.by_row,
            )


def _state_arrays(spec: RunSpec, component: Component) -> Iterator[ArraySpec]:
    dtype, fill = DTYPES[component.stored_dtype]
    meanings = {"base": "output of the frozen layer, W x (+ bias)"}
    if spec.stream == "pair":
        meanings["adapted"] = "output of the wrapped layer in a run of its own with the adapter active"
    for name, meaning in meanings.items():
        yield ArraySpec(
            path=f"states/{component.path}/{name}",
            shape=(spec.n_tokens, component.d_out),
            chunks=(ROW_TOKENS, component.d_out),
            dtype=dtype.name,
            fill=fill,
            dims=("token", "feature"),
            attributes={
                "long_name": meaning + BITS_NOTE * (component.stored_dtype == "bfloat16"),
                "dtype_logical": component.stored_dtype,
                "source_dtype": component.dtype,
            },
            by_row=True,
        )


def _adapter_arrays(spec: RunSpec, adapter: Adapter) -> Iterator[ArraySpec]:
    root = f"adapters/{adapter.name}"
    n_components = len(spec.components)
    for name, dtype, fill, meaning in (
        ("rank", "int32", -1, "rank of the adapter at this component; 0 where it leaves it alone"),
        ("scaling", "float64", np.nan, "delta = scaling * B A x"),
        (
            "factor_start",
            "int64",
            -1,
            "first column of this component's z in `factor`; -1 where delta is stored",
        ),
        (
            "delta_source",
            "string",
            "",
            "where delta comes from: factor, the adapter's own branch, or the difference of output and base",
        ),
    ):
        yield ArraySpec(
            path=f"{root}/{name}",
            shape=(n_components,),
            chunks=(min(max(n_components, 1), TABLE_CHUNK),),
            dtype=dtype,
            fill=fill,
            dims=("component",),
            attributes={"long_name": meaning, "component_axis": COMPONENT_AXIS},
        )
    for name, units, meaning in (
        (
            "js",
            "nat",
            "Jensen-Shannon divergence of softmax(base) and softmax(lora), from the states in memory during capture; "
            "NaN for tokens left out of the seeded share",
        ),
        (
            "swallowed",
            "1",
            "share of features whose sum, in the layer's own type, equals base though delta isn't 0; NaN where it "
            "wasn't measured",
        ),
    ):
        yield _by_token(spec, f"{root}/{name}", meaning, units)
    if spec.states != "all":
        yield _by_token(spec, f"{root}/delta_norm", "Euclidean norm of delta")
    if spec.kl:
        yield ArraySpec(
            path=f"{root}/kl",
            shape=(spec.n_tokens,),
            chunks=(ROW_TOKENS,),
            dtype="float32",
            fill=np.nan,
            dims=("token",),
            attributes={
                "long_name": "Kullback-Leibler divergence of the next-token distribution with the adapter from the one "
                "without, KL(base || adapted); NaN where it wasn't measured",
                "units": "nat",
            },
            by_row=True,
        )
    if spec.states != "none":
        yield from _delta_arrays(spec, adapter, root)


def _by_token(spec: RunSpec, path: str, meaning: str, units: str | None = None) -> ArraySpec:
    """One number a token and component."""
    n_components = len(spec.components)
    return ArraySpec(
        path=path,
        shape=(spec.n_tokens, n_components),
        chunks=(ROW_TOKENS, n_components),
        dtype="float32",
        fill=np.nan,
        dims=("token", "component"),
        attributes={
            "long_name": meaning,
            **({"units": units} if units else {}),
            "component_axis": COMPONENT_AXIS,
        },
        by_row=True,
    )


def _delta_arrays(spec: RunSpec, adapter: Adapter, root: str) -> Iterator[ArraySpec]:
    if adapter.n_factors:
        columns = min(FACTOR_CHUNK, adapter.n_factors)
        yield ArraySpec(
            path=f"{root}/factor",
            shape=(spec.n_tokens, adapter.n_factors),
            chunks=(ROW_TOKENS, columns),
            shards=(ROW_TOKENS, -(-adapter.n_factors // columns) * columns),
            dtype="float32",
            fill=np.nan,
            dims=("token", "factor_column"),
            attributes={"long_name": "z = A x of every component side by side; delta = scaling * z @ lora_B.T"},
            by_row=True,
        )
    biased = adapter.biased or (False,) * len(spec.components)
    for component, rank, start, has_bias in zip(
        spec.components, adapter.rank, adapter.factor_start, biased, strict=True
    ):
        # Dimension names carry the component's path: arrays of one group may not give one name two lengths.
        feature = f"feature_{component.path}"
        if start >= 0:
            yield _weight(
                f"{root}/lora_B/{component.path}",
                (component.d_out, rank),
                (feature, f"rank_{component.path}"),
                "the adapter's B; delta = scaling * (z @ lora_B.T + lora_bias)",
            )
            if has_bias:
                yield _weight(
                    f"{root}/lora_bias/{component.path}",
                    (component.d_out,),
                    (feature,),
                    "bias of lora_B, added to z @ lora_B.T before scaling",
                )
        elif rank > 0:
            yield ArraySpec(
                path=f"{root}/delta/{component.path}",
                shape=(spec.n_tokens, component.d_out),
                chunks=(ROW_TOKENS, component.d_out),
                dtype="float32",
                fill=np.nan,
                dims=("token", feature),
                attributes={"long_name": "what the adapter adds to the layer's output; scaling is in it"},
                by_row=True,
            )


def _weight(path: str, shape: tuple[int, ...], dims: tuple[str, ...], meaning: str) -> ArraySpec:
    return ArraySpec(
        path=path,
        shape=shape,
        chunks=shape,
        dtype="float32",
        fill=np.nan,
        dims=dims,
        attributes={"long_name": meaning},
    )
