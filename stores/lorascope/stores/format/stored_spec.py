"""Specification of a stored run, from its attributes and tables."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from .layout import ArraySpec, array_specs
from .spec import MAX_COMPONENTS, Adapter, Component, ExpertBlock, RunSpec
from .stored_array import StoredArray
from .tables import TABLES, VOCABULARY_TEXT, find_column

ArrayDescription = ArrayV3Metadata | StoredArray
_ROUTING = re.compile(r"(experts/[^/]+/)(?:base_)?expert")


def stored_spec(
    attributes: Mapping[str, Any],
    arrays: Mapping[str, ArrayDescription],
    read: Callable[[str], np.ndarray],
    map_all: Callable[..., Iterable[Any]] = map,
) -> RunSpec:
    """Return the specification of a stored run: components, adapters and sizes, which decide its arrays.

    `read` returns a whole array by its path. `map_all` calls it as `map` does, but may do so on several threads.
    """

    def read_lists(folder: str, names: Iterable[str]) -> list[list[Any]]:
        """Return the values of arrays in a folder, one list each."""
        return [values.tolist() for values in map_all(read, [f"{folder}/{name}" for name in names])]

    names = ("path", "kind", "layer", "d_in", "d_out", "dtype", "stored_dtype")
    columns = read_lists("components", names)
    components = tuple(Component(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True))
    adapters = []
    for name in attributes["adapters"]:
        root = f"adapters/{name}"
        has_source = f"{root}/delta_source" in arrays
        stored = ("rank", "scaling", "factor_start", *(["delta_source"] if has_source else []))
        rank, scaling, start, *source = read_lists(root, stored)
        adapter = _adapter_from_columns(name, rank, scaling, start)
        biased = tuple(f"{root}/lora_bias/{component.path}" in arrays for component in components)
        if min(rank, default=0) < 0 or list(adapter.factor_start) != start:
            raise ValueError(f"`rank` and `factor_start` of adapter {name!r} don't fit each other")
        if not np.isfinite(np.array(scaling)[np.array(rank) > 0]).all():
            raise ValueError(f"'{root}/scaling' is {scaling}; it must be finite where `rank` is above 0")
        importance = _stored_shape(arrays, f"{root}/importance/gradient", "(pass, direction), each at least 1", 1)
        nulls = _stored_shape(arrays, f"{root}/nulls/kl", "(sample, variant), with at least 2 variants", 2)
        adapter = replace(adapter, biased=biased, delta_source=tuple(*source), importance=importance)
        adapters.append(replace(adapter, n_variants=nulls[1] if nulls else 0))
    spec = _run_spec(attributes, arrays, components, tuple(adapters))
    if spec.ablate is None:
        return spec
    return replace(spec, ablation_parts=tuple(read(f"adapters/{spec.adapters[0].name}/ablation_part")))


def describe_array(path: str, arrays: Mapping[str, ArrayV3Metadata]) -> StoredArray:
    """Return the description of the array at `path` among a run's arrays, with the limits of a column's values."""
    array, column = StoredArray.from_metadata(path, arrays[path]), find_column(path)
    routing = _ROUTING.fullmatch(path)
    if routing and (first := f"{routing[1]}expert") in arrays:
        n_experts: Any = arrays[first].attributes["n_experts"]
        return replace(array, limits=(0, n_experts - 1))
    if column is None or column.low is None:
        return array
    high = _table_length(arrays, column.high) - 1 if isinstance(column.high, str) else column.high
    return replace(array, limits=(column.low, high))


def specs_read_first(attributes: Mapping[str, Any], arrays: Mapping[str, ArrayDescription]) -> list[ArraySpec]:
    """Return the specifications of arrays whose values decide which others exist, such as ranks by component.

    They are those along the component axis or of ablated parts, and `rows/states`.
    """
    n_components = _table_length(arrays, "components")
    if n_components > MAX_COMPONENTS:
        raise ValueError(f"`components` announces {n_components} entries; a run has at most {MAX_COMPONENTS}")
    bare = _run_spec(
        attributes, arrays, (), tuple(_adapter_from_columns(name, [], [], []) for name in attributes["adapters"])
    )
    if bare.ablate is not None:
        parts = arrays.get(f"adapters/{bare.adapters[0].name}/ablation_part")
        n_parts = parts.shape[0] if parts is not None and parts.shape else 0
        if n_parts > MAX_COMPONENTS:
            raise ValueError(f"`ablation_part` announces {n_parts} entries; a run has at most {MAX_COMPONENTS}")
        bare = replace(bare, ablation_parts=("",) * n_parts)
    return [
        replace(entry, shape=(n_components,)) if entry.dims == ("component",) else entry
        for entry in array_specs(bare)
        if entry.dims in (("component",), ("part",)) or entry.path == "rows/states"
    ]


def _adapter_from_columns(name: str, rank: list[int], scaling: list[float], start: list[int]) -> Adapter:
    """Return the Adapter with these table columns; it has a factor at each component whose `start` isn't -1."""
    return Adapter(name=name, rank=tuple(rank), scaling=tuple(scaling), factored=tuple(s >= 0 for s in start))


def _run_spec(
    attributes: Mapping[str, Any],
    arrays: Mapping[str, ArrayDescription],
    components: tuple[Component, ...],
    adapters: tuple[Adapter, ...],
) -> RunSpec:
    """Return the RunSpec of these components and adapters, with sizes from root attributes and array shapes."""
    ablation = arrays.get(f"adapters/{adapters[0].name}/ablation") if len(adapters) == 1 else None
    return RunSpec(
        stream=attributes["stream"],
        states=attributes["states"],
        kl=True,  # optional: whether it exists is seen from the arrays
        n_vocabulary=_table_length(arrays, "vocabulary"),
        ablate=None if ablation is None else str(ablation.attributes.get("parts", "")),  # type: ignore[arg-type]
        n_tokens=attributes["n_tokens"],
        n_samples=_table_length(arrays, "samples"),
        n_choices=_table_length(arrays, "choices"),
        n_replies=max((_n_replies(arrays, adapter.name) for adapter in adapters), default=0),
        components=components,
        adapters=adapters,
        experts=tuple(_expert_blocks(arrays)),
        format_version=attributes["format_version"],
    )


def _stored_shape(
    arrays: Mapping[str, ArrayDescription], path: str, expected: str, least: int
) -> tuple[int, int] | None:
    """Return the shape of an adapter's array, whose second axis has `least` entries or more; None if it's missing."""
    if (array := arrays.get(path)) is None:
        return None
    if len(array.shape) != 2 or array.shape[0] < 1 or array.shape[1] < least:
        raise ValueError(f"`shape` of {path!r} is {array.shape}; it must be {expected}")
    return (array.shape[0], array.shape[1])


def _expert_blocks(arrays: Mapping[str, ArrayDescription]) -> Iterator[ExpertBlock]:
    """Yield the blocks of experts whose routing is among a run's arrays; ValueError if their numbers are impossible."""
    for path, array in arrays.items():
        group, *names = path.split("/")
        if group == "experts" and names[1:] == ["expert"]:
            known: dict[str, Any] = {name: array.attributes.get(name) for name in ("n_experts", "applied_to")}
            n_choices = array.shape[1] if len(array.shape) == 2 else 0
            yield ExpertBlock(path=names[0], n_choices=n_choices, **known)


def _n_replies(arrays: Mapping[str, ArrayDescription], adapter: str) -> int:
    """Return the number of an adapter's stored replies to prompts."""
    texts = arrays.get(f"adapters/{adapter}/replies/text")
    return texts.shape[0] if texts is not None and texts.shape else 0


def _table_length(arrays: Mapping[str, ArrayDescription], table: str) -> int:
    """Return the number of entries of a table, from its first existing column; 0 without columns."""
    columns = (VOCABULARY_TEXT,) if table == "vocabulary" else TABLES[table]
    shapes = (arrays[path].shape for column in columns if (path := f"{table}/{column.name}") in arrays)
    return next((shape[0] for shape in shapes if shape), 0)
