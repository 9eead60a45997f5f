"""The specification of a run: its components, adapters and sizes, as whoever captures it says."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FORMAT = "lorascope.run"
FORMAT_VERSION = 2
"""The version that is written; a run of version 1 that was interrupted goes on as one."""
READ_VERSIONS = (1, 2)
ROW_TOKENS = 1024
"""Tokens in a row: the unit in which a run is written, committed and read."""

Stream = Literal["adapted", "base", "pair"]
States = Literal["all", "sample", "none"]
STATES: tuple[States, ...] = ("all", "sample", "none")
Codec = Literal["default", "zstd", "lz4", "raw"]
"""Compression of a run: by the type of each array, as `compressors` says; all by one; or not at all."""
CODECS: tuple[Codec, ...] = ("default", "zstd", "lz4", "raw")
DELTA_SOURCES = ("factor", "branch", "difference", "")
"""Sources of a component's delta: its factor; the adapter's own branch; output less base; nowhere, left alone."""
STREAMS: tuple[Stream, ...] = ("adapted", "base", "pair")
Ablate = Literal["components", "layers", "kinds"]
"""Part that is taken out of an adapter at a time: one component, all of a layer, or all of a kind."""
ABLATE: tuple[Ablate, ...] = ("components", "layers", "kinds")
MAX_COMPONENTS = 16_384
"""Components of a run at most: twenty times as many as the largest models have linear layers."""

DTYPES: Mapping[str, tuple[np.dtype, int | float]] = {
    "float32": (np.dtype("float32"), np.nan),
    "float16": (np.dtype("float16"), np.nan),
    "bfloat16": (np.dtype("uint16"), 0x7FC0),  # Zarr has no bfloat16: its bits as uint16, and those of NaN
}
"""Name of a floating-point type that a layer puts out -> what the array holds, and its NaN."""


_VALID_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


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
        _require_valid_name("component", self.path)
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
    """Factor of B A x by component, as the module held it."""
    factored: tuple[bool, ...]
    """Whether a component's delta is kept as its factor z = A x, by component; else as delta itself."""
    biased: tuple[bool, ...] = ()
    """Whether lora_B has a bias, by component; empty where none has."""
    delta_source: tuple[str, ...] = ()
    """One of `DELTA_SOURCES` by component; empty: `factor` or `branch`, as `factored` says."""

    def __post_init__(self) -> None:
        _require_valid_name("adapter", self.name)
        sources = tuple("branch" if source == "difference" else source for source in self.delta_source)
        if sources and sources != self._derived_sources:
            raise ValueError(
                f"`delta_source` of adapter {self.name!r} must give one of {DELTA_SOURCES} for each component: "
                "'factor' where `factored`, '' where `rank` is 0"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Source of each component's delta: one of `DELTA_SOURCES`."""
        return self.delta_source or self._derived_sources

    @property
    def _derived_sources(self) -> tuple[str, ...]:
        return tuple(
            "" if rank == 0 else "factor" if factored else "branch"
            for rank, factored in zip(self.rank, self.factored, strict=True)
        )

    @property
    def factor_start(self) -> tuple[int, ...]:
        """First column of each component's z in the packed factor; -1 where delta is stored instead."""
        starts, column = [], 0
        for rank, factored in zip(self.rank, self.factored, strict=True):
            is_stored = factored and rank > 0
            starts.append(column if is_stored else -1)
            column += rank * is_stored
        return tuple(starts)

    @property
    def n_factor_columns(self) -> int:
        """Columns of the packed factor: the ranks of all factored components added up."""
        return sum(rank * factored for rank, factored in zip(self.rank, self.factored, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unembedding:
    """The model's final norm and output embedding, as far as they decide how they are stored."""

    n_vocabulary: int
    """Token ids that the model tells apart."""
    n_features: int
    """Width of the residual stream."""
    dtype: str
    """Type of the weight: a key of `DTYPES`."""
    centred: bool
    """Whether the norm takes the mean over features off, as LayerNorm does and RMSNorm doesn't."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` of the unembedding is {self.dtype!r}; allowed are {sorted(DTYPES)}")


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
    """`all` keeps base and delta of every row, `sample` of `state_rows`; the others keep reductions by token alone."""
    state_rows: tuple[bool, ...] = ()
    """Mask of the rows that keep states; empty but for states `sample`."""
    kl: bool = False
    """Whether the divergence of the next-token distributions is kept."""
    ablate: Ablate | None = None
    """Parts that the adapter's ablation is kept by; None where it isn't kept."""
    ablation_parts: tuple[str, ...] = ()
    """Names of these parts: paths of components, numbers of layers, or kinds."""
    codec: Codec = "default"
    token_text: bool = True
    """Whether each token's own text is kept, so that a report needs no tokenizer."""
    unembedding: Unembedding | None = None
    """Final norm and output embedding, where they are kept."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Further attributes of the root group, such as `provenance`, of which the fingerprint is made."""

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise ValueError(f"`stream` is {self.stream!r}; allowed are {STREAMS}")
        if self.stream == "pair" and len(self.adapters) != 1:
            raise ValueError(f"stream 'pair' takes one adapter, not {len(self.adapters)}")
        if self.n_tokens < 1:
            raise ValueError(f"`n_tokens` is {self.n_tokens}; a run holds at least one token")
        if len(self.components) > MAX_COMPONENTS:
            raise ValueError(f"a run of {len(self.components)} components; at most {MAX_COMPONENTS} can be kept")
        if self.states not in STATES:
            raise ValueError(f"`states` is {self.states!r}; allowed are {STATES}")
        if self.state_rows and self.states != "sample":
            raise ValueError(f"`state_rows` goes with states 'sample' alone, not {self.states!r}")
        if self.ablate is not None and (self.ablate not in ABLATE or len(self.adapters) != 1):
            raise ValueError(
                f"`ablate` is {self.ablate!r} of {len(self.adapters)} adapters; allowed are {ABLATE}, of one adapter"
            )
        _require_unique("component", [c.path for c in self.components])
        _require_unique("adapter", [a.name for a in self.adapters])
        for adapter in self.adapters:
            if not len(self.components) == len(adapter.rank) == len(adapter.scaling) == len(adapter.factored):
                raise ValueError(f"adapter {adapter.name!r} must give rank, scaling and factored for each component")

    @property
    def n_rows(self) -> int:
        """Rows that the token axis is cut into; the last may be short."""
        return -(-self.n_tokens // ROW_TOKENS)


def _require_valid_name(what: str, name: str) -> None:
    """Names become folders of the store, so they may not leave it."""
    if not _VALID_NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{what} name {name!r} can't be kept in a store; use letters, digits, `_`, `-` and single dots"
        )


def _require_unique(what: str, names: list[str]) -> None:
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise ValueError(f"{what} names must differ; {twice} stand twice")
