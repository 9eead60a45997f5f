"""What a run holds, array by array: format version 1 as a pure function of a `RunSpec`.

`docs/store-format.md` is the specification; this module is its only copy in code. Nothing here touches a disk.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .tables import TABLES, TOKEN_TEXT

__all__ = [
    "BITS_NOTE",
    "DTYPES",
    "FACTOR_CHUNK",
    "FORMAT",
    "FORMAT_VERSION",
    "ROW_TOKENS",
    "STREAMS",
    "Adapter",
    "ArraySpec",
    "Component",
    "RunSpec",
    "array_specs",
    "chunk_key",
    "worth_factoring",
]

FORMAT = "lorascope.run"
FORMAT_VERSION = 1
ROW_TOKENS = 1024
"""Tokens in a row: the unit in which a run is written, committed and read."""
FACTOR_CHUNK = 64
"""Columns of the packed factor in one inner chunk: 256 KiB of float32 a row, below which Blosc loses ratio."""
TABLE_CHUNK = 65_536
COMPONENT_AXIS = "in the order of components/path"

Stream = Literal["adapted", "base", "pair"]
States = Literal["all", "none"]
STREAMS: tuple[Stream, ...] = ("adapted", "base", "pair")

DTYPES: Mapping[str, tuple[np.dtype, int | float]] = {
    "float32": (np.dtype("float32"), np.nan),
    "float16": (np.dtype("float16"), np.nan),
    "bfloat16": (
        np.dtype("uint16"),
        0x7FC0,
    ),  # Zarr has no bfloat16: its bits as uint16, NaN as the fill value
}
"""Name of a floating-point type that a layer puts out -> what the array holds, and its NaN."""

BITS_NOTE = "; bits of bfloat16 in uint16; widen before use"
"""Ends the long name of an array of such bits, for whoever opens it with xarray alone."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One LoRA-wrapped linear layer of the model, the paper's m."""

    path: str
    """Module path in the plain model, e.g. `model.layers.3.self_attn.q_proj`."""
    kind: str
    """Last name of the path, e.g. `q_proj`."""
    layer: int
    """Index of the decoder layer, -1 outside of one."""
    d_in: int
    """Features that come in."""
    d_out: int
    """Features that go out: the length of `base`'s second axis."""
    dtype: str
    """Type in which the layer put its output out: a key of `DTYPES`."""
    stored_dtype: str
    """Type in which `base` is stored; another than `dtype` only where the user chose to narrow it."""
    fused: tuple[tuple[str, int, int], ...] = ()
    """(name, start, stop) of the row ranges of a fused projection."""

    def __post_init__(self) -> None:
        _check_name("component", self.path)
        for name in (self.dtype, self.stored_dtype):
            if name not in DTYPES:
                raise ValueError(f"`dtype` of component {self.path!r} is {name!r}; allowed are {sorted(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One LoRA adapter over a run's components, in their order."""

    name: str
    """The adapter's name in PEFT."""
    rank: tuple[int, ...]
    """Rank by component; 0 where this adapter leaves the component alone."""
    scaling: tuple[float, ...]
    """What B A x is multiplied by, by component, as the module held it."""
    factored: tuple[bool, ...]
    """Whether a component's delta is kept as its factor z = A x, by component; else as delta itself."""
    biased: tuple[bool, ...] = ()
    """Whether lora_B has a bias, by component; empty where none has."""

    def __post_init__(self) -> None:
        _check_name("adapter", self.name)

    @property
    def factor_start(self) -> tuple[int, ...]:
        """First column of each component's z in the packed factor; -1 where delta is stored instead."""
        starts, column = [], 0
        for rank, factored in zip(self.rank, self.factored, strict=True):
            kept = factored and rank > 0
            starts.append(column if kept else -1)
            column += rank * kept
        return tuple(starts)

    @property
    def n_factors(self) -> int:
        """Columns of the packed factor: the ranks of all factored components added up."""
        return sum(rank * kept for rank, kept in zip(self.rank, self.factored, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that decides which arrays a run has and how large they are."""

    stream: Stream
    components: tuple[Component, ...]
    adapters: tuple[Adapter, ...]
    n_tokens: int
    """Captured tokens: the length of the flat token axis."""
    n_samples: int
    n_choices: int
    states: States = "all"
    """`all` keeps base and delta; `none` keeps only reductions by token (js)."""
    codec: Literal["zstd", "raw"] = "zstd"
    token_text: bool = True
    """Whether each token's own text is kept, so that a report needs no tokenizer."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Further attributes of the root group: fingerprint, provenance, selection."""

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise ValueError(f"`stream` is {self.stream!r}; allowed are {STREAMS}")
        if self.stream == "pair" and len(self.adapters) != 1:
            raise ValueError(f"stream 'pair' takes one adapter, not {len(self.adapters)}")
        if self.n_tokens < 1:
            raise ValueError(f"`n_tokens` is {self.n_tokens}; a run holds at least one token")
        _check_unique("component", [c.path for c in self.components])
        _check_unique("adapter", [a.name for a in self.adapters])
        for adapter in self.adapters:
            if not len(self.components) == len(adapter.rank) == len(adapter.scaling) == len(adapter.factored):
                raise ValueError(f"adapter {adapter.name!r} must give rank, scaling and factored for each component")

    @property
    def n_rows(self) -> int:
        """Rows that the token axis is cut into; the last may be short."""
        return -(-self.n_tokens // ROW_TOKENS)


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
    for component in spec.components if spec.states == "all" else ():
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
    ):
        yield ArraySpec(
            path=f"{root}/{name}",
            shape=(n_components,),
            chunks=(max(n_components, 1),),
            dtype=dtype,
            fill=fill,
            dims=("component",),
            attributes={"long_name": meaning, "component_axis": COMPONENT_AXIS},
        )
    yield ArraySpec(
        path=f"{root}/js",
        shape=(spec.n_tokens, n_components),
        chunks=(ROW_TOKENS, n_components),
        dtype="float32",
        fill=np.nan,
        dims=("token", "component"),
        attributes={
            "long_name": "Jensen-Shannon divergence of softmax(base) and softmax(lora), from the states in memory "
            "during capture; NaN for tokens left out of the seeded share",
            "units": "nat",
            "component_axis": COMPONENT_AXIS,
        },
        by_row=True,
    )
    if spec.states == "all":
        yield from _delta_arrays(spec, adapter, root)


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


def _check_name(what: str, name: str) -> None:
    """Names become folders of the store, so they may not leave it."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{what} name {name!r} can't be kept in a store; use letters, digits, `_`, `-` and single dots"
        )


def _check_unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} names must differ; {twice} stand twice")
