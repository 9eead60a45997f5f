"""Specification of a run: its components, adapters and sizes."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FORMAT = "lorascope.run"
FORMAT_VERSION = 3
"""Version that is written; an interrupted run of an older version is continued as that version."""
READ_VERSIONS = (1, 2, 3)
ROW_TOKENS = 1024
"""Number of tokens in a row, the unit in which a run is written, committed and read."""

Stream = Literal["adapted", "base", "pair"]
States = Literal["all", "sample", "none"]
STATES: tuple[States, ...] = ("all", "sample", "none")
Codec = Literal["default", "zstd", "lz4", "raw"]
"""Compression of a run: by the type of each array (see `compressors`), one compressor for all, or none."""
CODECS: tuple[Codec, ...] = ("default", "zstd", "lz4", "raw")
DELTA_SOURCES = ("factor", "branch", "difference", "")
"""Sources of a component's delta: its factor; the adapter's own branch; output minus base; none if unadapted."""
STREAMS: tuple[Stream, ...] = ("adapted", "base", "pair")
Ablate = Literal["components", "layers", "kinds"]
"""Part that ablation removes from an adapter at a time: a component, all of a layer, or all of a kind."""
ABLATE: tuple[Ablate, ...] = ("components", "layers", "kinds")
MAX_COMPONENTS = 16_384
"""Most components of a run: twenty times the linear layers of the largest models."""
MAX_EXPERTS = 32_767
"""Most experts of a block: sixty times those of the largest mixtures."""
MAX_REPLIES = 65_536
"""Most replies of an adapter, so that each column of them is one chunk."""

DTYPES: Mapping[str, tuple[np.dtype, int | float]] = {
    "float32": (np.dtype("float32"), np.nan),
    "float16": (np.dtype("float16"), np.nan),
    "bfloat16": (np.dtype("uint16"), 0x7FC0),  # Zarr has no bfloat16: its bits are kept as uint16
}
"""Floating-point type of a layer's output -> dtype of its array, and the fill value, NaN."""


_VALID_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_EXPERT_PARAMETER = re.compile(r"(?P<block>.+)\.experts\.[^.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One linear layer of the model that LoRA wraps, the paper's m: its path, sizes and types."""

    path: str
    """Module path in the plain model, e.g. `model.layers.3.self_attn.q_proj`."""
    kind: str
    """Last name of the path, e.g. `q_proj`."""
    layer: int
    """Index of the decoder layer; -1 outside of one."""
    d_in: int
    """Number of input features."""
    d_out: int
    """Number of output features: the length of `base`'s second axis."""
    dtype: str
    """Type of the layer's output: a key of `DTYPES`."""
    stored_dtype: str
    """Type in which `base` is stored; differs from `dtype` only if the user chose a narrower one."""
    fused: tuple[tuple[str, int, int], ...] = ()
    """(name, start, stop) of the row ranges of a fused projection."""

    def __post_init__(self) -> None:
        """Raise ValueError if the path can't name a folder or a type is unknown."""
        _require_valid_name("component", self.path)
        for name in (self.dtype, self.stored_dtype):
            if name not in DTYPES:
                raise ValueError(f"`dtype` of component {self.path!r} is {name!r}; allowed are {sorted(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One LoRA adapter of a run; its tuples have one entry per component (wrapped layer), in order."""

    name: str
    """The adapter's name in PEFT."""
    rank: tuple[int, ...]
    """Rank by component; 0 for components that the adapter doesn't change."""
    scaling: tuple[float, ...]
    """Scaling of B A x by component."""
    factored: tuple[bool, ...]
    """Whether delta is stored as its factor z = A x, by component; else delta itself is stored."""
    biased: tuple[bool, ...] = ()
    """Whether lora_B has a bias, by component; empty if no component has one."""
    delta_source: tuple[str, ...] = ()
    """One of `DELTA_SOURCES` by component; empty: `factor` or `branch`, as `factored` says."""
    importance: tuple[int, int] | None = None
    """Numbers of passes and of directions whose gradients are stored; None if importance wasn't measured."""
    n_variants: int = 0
    """Number of stored variants of the adapter: itself and its null adapters; 0 without nulls."""

    def __post_init__(self) -> None:
        """Raise ValueError if the name can't name a folder, or `delta_source` contradicts `rank` and `factored`."""
        _require_valid_name("adapter", self.name)
        sources = tuple("branch" if source == "difference" else source for source in self.delta_source)
        if sources and sources != self._derived_sources:
            raise ValueError(
                f"`delta_source` of adapter {self.name!r} must give one of {DELTA_SOURCES} for each component: "
                "'factor' where `factored`, '' where `rank` is 0"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Origin of each component's delta, what the adapter adds: one of `DELTA_SOURCES`, such as `factor`."""
        return self.delta_source or self._derived_sources

    @property
    def _derived_sources(self) -> tuple[str, ...]:
        """Origin of each component's delta as far as `rank` and `factored` show it: `factor`, `branch` or empty."""
        return tuple(
            "" if rank == 0 else "factor" if factored else "branch"
            for rank, factored in zip(self.rank, self.factored, strict=True)
        )

    @property
    def factor_start(self) -> tuple[int, ...]:
        """First column of each component's z = A x in the array `factor`; -1 if z isn't stored."""
        starts, column = [], 0
        for rank, factored in zip(self.rank, self.factored, strict=True):
            is_stored = factored and rank > 0
            starts.append(column if is_stored else -1)
            column += rank * is_stored
        return tuple(starts)

    @property
    def n_factor_columns(self) -> int:
        """Number of columns of the array `factor`: the sum of ranks over components stored as z = A x."""
        return sum(rank * factored for rank, factored in zip(self.rank, self.factored, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertBlock:
    """Block of a mixture of experts whose routing is stored: its path and its numbers of experts.

    Its components are the adapted parameters of its experts, `<path>.experts.<parameter>`; see `block_path`.
    """

    path: str
    """Module path in the plain model, e.g. `model.layers.3.mlp`."""
    n_experts: int
    n_choices: int
    """Number of experts that each token is routed to."""
    applied_to: Literal["output", "input"] = "output"
    """Factor of the router's weights in their product: the experts' output, or their input as in Llama 4."""

    def __post_init__(self) -> None:
        """Raise ValueError if the path can't name a folder, or a number or `applied_to` is impossible."""
        _require_valid_name("block", self.path)
        numbers = {"n_experts": (self.n_experts, MAX_EXPERTS), "n_choices": (self.n_choices, self.n_experts)}
        for name, (value, most) in numbers.items():
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"`{name}` of block {self.path!r} is {value!r}; allowed are 1 to {most}")
        if self.applied_to not in ("output", "input"):
            raise ValueError(f"`applied_to` of block {self.path!r} is {self.applied_to!r}; allowed: 'output', 'input'")


def block_path(component: str) -> str | None:
    """Return the path of the block whose experts have this component as a parameter; None for another layer."""
    match = _EXPERT_PARAMETER.fullmatch(component)
    return match and match["block"]


def component_kind(path: str) -> str:
    """Return the last name of a component's path, e.g. `q_proj`; of a parameter of experts `experts.down_proj`."""
    block = block_path(path)
    return path.removeprefix(f"{block}.") if block else path.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Specification of a run: everything that decides which arrays it has and their sizes."""

    stream: Stream
    components: tuple[Component, ...]
    adapters: tuple[Adapter, ...]
    n_tokens: int
    """Number of captured tokens: the length of the token axis."""
    n_samples: int
    n_choices: int
    states: States = "all"
    """Rows that keep base and delta: `all`, `sample` (see `state_rows`) or `none`; others keep reductions only."""
    state_rows: tuple[bool, ...] = ()
    """Mask of the rows that keep states; empty except for states `sample`."""
    kl: bool = False
    """Whether the KL divergence of the next-token distributions is stored."""
    n_vocabulary: int = 0
    """Number of token ids, all with their text, if next-token changes are stored; else 0."""
    ablate: Ablate | None = None
    """Parts whose ablation is stored; None if no ablation is."""
    ablation_parts: tuple[str, ...] = ()
    """Names of these parts: paths of components, numbers of layers, or kinds."""
    n_replies: int = 0
    """Number of each adapter's replies to prompts: prompts times scales; 0 if they weren't asked for."""
    experts: tuple[ExpertBlock, ...] = ()
    """Blocks of experts whose routing is stored, with measures of each expert that a token was routed to."""
    codec: Codec = "default"
    token_text: bool = True
    """Whether each token's text is stored, so that a report needs no tokenizer."""
    format_version: int = FORMAT_VERSION
    """Version of the format, on which the arrays of rows' digests depend."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Further attributes of the root group, such as `provenance`, from which the fingerprint is computed."""

    def __post_init__(self) -> None:
        """Raise ValueError if fields are impossible or contradict each other, or a name occurs twice."""
        if self.stream not in STREAMS:
            raise ValueError(f"`stream` is {self.stream!r}; allowed are {STREAMS}")
        if self.stream == "pair" and len(self.adapters) != 1:
            raise ValueError(f"stream 'pair' takes one adapter, not {len(self.adapters)}")
        if self.n_tokens < 1:
            raise ValueError(f"`n_tokens` is {self.n_tokens}; a run holds at least one token")
        if len(self.components) > MAX_COMPONENTS:
            raise ValueError(f"a run of {len(self.components)} components; at most {MAX_COMPONENTS} can be kept")
        if not 0 <= self.n_replies <= MAX_REPLIES:
            raise ValueError(f"`n_replies` is {self.n_replies}; an adapter has at most {MAX_REPLIES} replies")
        if self.states not in STATES:
            raise ValueError(f"`states` is {self.states!r}; allowed are {STATES}")
        if self.state_rows and self.states != "sample":
            raise ValueError(f"`state_rows` goes with states 'sample' alone, not {self.states!r}")
        if self.ablate is not None and (self.ablate not in ABLATE or len(self.adapters) != 1):
            raise ValueError(
                f"`ablate` is {self.ablate!r} of {len(self.adapters)} adapters; allowed are {ABLATE}, of one adapter"
            )
        if self.experts and len(self.adapters) != 1:
            raise ValueError(f"`experts` goes with one adapter, not {len(self.adapters)}")
        _require_unique("block", [block.path for block in self.experts])
        _require_unique("component", [c.path for c in self.components])
        _require_unique("adapter", [a.name for a in self.adapters])
        for adapter in self.adapters:
            if not len(self.components) == len(adapter.rank) == len(adapter.scaling) == len(adapter.factored):
                raise ValueError(f"adapter {adapter.name!r} must give rank, scaling and factored for each component")

    @property
    def n_rows(self) -> int:
        """Number of rows (blocks of 1,024 tokens) of the token axis; the last one may be short."""
        return -(-self.n_tokens // ROW_TOKENS)


def _require_valid_name(what: str, name: str) -> None:
    """Raise ValueError unless this name can be a folder inside of a store; `what` has it, for the error."""
    if not _VALID_NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{what} name {name!r} can't be kept in a store; use letters, digits, `_`, `-` and single dots"
        )


def _require_unique(what: str, names: list[str]) -> None:
    """Raise ValueError if a name occurs twice; `what` has these names, for the error."""
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise ValueError(f"{what} names must differ; {twice} stand twice")
