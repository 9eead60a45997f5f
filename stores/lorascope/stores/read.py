"""Opening a run: its tables as xarray datasets, its states as lazy float32 arrays."""

import difflib
import importlib.util
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
import zarr.errors
from zarr.core.metadata import ArrayV3Metadata

from .check import Found, is_base_score, layout_problems, may_be_absent
from .errors import Problem, StoreError
from .layout import BITS_NOTE, FORMAT, FORMAT_VERSION, ROW_TOKENS
from .rows import DeltaSource, RowArray, read_digests, read_once
from .tables import TABLES

__all__ = ["Run", "find_layout_problems", "list_nodes", "open_group", "open_run"]


class Run:
    """One run, open for reading; made by `open_run`.

    Only committed rows are read: tokens of the others are NaN in every state, and `committed` tells which they are.
    """

    def __init__(self, root: Path, group: zarr.Group) -> None:
        self.path = root
        self._group = group
        self._adapter_tables: dict[str, xr.Dataset] = {}
        self.attributes: dict[str, Any] = dict(group.attrs)
        self.stream: str = self.attributes["stream"]
        self.adapters: tuple[str, ...] = tuple(self.attributes["adapters"])
        self.finished: bool = self.attributes["finished"]
        self.n_tokens: int = self.attributes["n_tokens"]
        self.n_rows: int = self.attributes["n_rows"]

    def __repr__(self) -> str:
        rows = f"{int(self.committed_rows.sum())} of {self.n_rows} rows"
        state = "" if self.finished else ", unfinished"
        if len(self.lost_rows):
            state = f", {len(self.lost_rows)} lost since it was finished"
        return (
            f"<Run {str(self.path)!r}: stream {self.stream}, {len(self.component_paths)} components, "
            f"adapters {list(self.adapters)}, {self.n_tokens} tokens, {rows}{state}>"
        )

    @cached_property
    def committed_rows(self) -> np.ndarray:
        """Bool (row,): which rows are whole, as of when this was first asked."""
        return np.asarray(self._digests.any(axis=1))

    @property
    def lost_rows(self) -> np.ndarray:
        """Int (row,): rows of a finished run whose digest is gone, which it can't be read without; else empty."""
        return np.flatnonzero(~self.committed_rows) if self.finished else np.empty(0, np.intp)

    def digest(self, row: int) -> np.ndarray:
        """SHA-256 with which a row was committed, uint8 (32,); all zero where it wasn't."""
        return np.asarray(self._digests[row])

    @cached_property
    def _digests(self) -> np.ndarray:
        return read_digests(self._array("rows/digest"))

    @cached_property
    def committed(self) -> xr.DataArray:
        """Bool (token,): which tokens lie in a committed row."""
        mask = np.repeat(self.committed_rows, ROW_TOKENS)[: self.n_tokens]
        return xr.DataArray(mask, dims="token", name="committed")

    @cached_property
    def samples(self) -> xr.Dataset:
        """One entry a sample: id, dataset, scores, and the range of its captured tokens."""
        return self._table("samples")

    @cached_property
    def choices(self) -> xr.Dataset:
        """One entry a choice: its sample, text and log-likelihood."""
        return self._table("choices")

    @cached_property
    def tokens(self) -> xr.Dataset:
        """One entry a captured token: its sample, position, id, role, and nll in nats."""
        return self._table("tokens")

    @cached_property
    def components(self) -> xr.Dataset:
        """One entry a component: path, kind, layer, widths, dtype."""
        return self._table("components")

    @cached_property
    def component_paths(self) -> tuple[str, ...]:
        """Paths of the components, in the order of every `component` axis."""
        return tuple(self.components["path"].values.tolist())

    @property
    def has_states(self) -> bool:
        """Whether base and delta were kept."""
        return bool(self.attributes["states"] == "all")

    def adapter(self, name: str | None = None) -> xr.Dataset:
        """Rank, scaling and factor_start of an adapter by component; `name` may be left out where there is one."""
        name = self._adapter_name(name)
        if name not in self._adapter_tables:
            columns = {key: self._column(f"adapters/{name}/{key}") for key in ("rank", "scaling", "factor_start")}
            self._adapter_tables[name] = xr.Dataset(columns)
        return self._adapter_tables[name]

    def base(self, component: str) -> xr.DataArray:
        """h_LLM of a component, float32 (token, feature), lazy, one Dask block a row."""
        return self._state(component, "base")

    def adapted(self, component: str) -> xr.DataArray:
        """The component's output in the adapted run of a `pair` stream, float32 (token, feature), lazy."""
        if self.stream != "pair":
            raise StoreError(f"only a run of stream 'pair' holds `adapted`; {str(self.path)!r} is {self.stream!r}")
        return self._state(component, "adapted")

    def factor(self, component: str, adapter: str | None = None) -> xr.DataArray:
        """z = A x of a component, float32 (token, rank), lazy.

        Raises
        ------
        StoreError
            If the run holds this component's delta itself.
        """
        name = self._adapter_name(adapter)
        rows = self._factor_rows(component, name)
        if rows is None:
            raise StoreError(f"component {component!r} of adapter {name!r} is stored as delta; there is no factor")
        return xr.DataArray(rows.to_dask(), dims=("token", "rank"), name="factor", attrs={"component": component})

    def lora_B(self, component: str, adapter: str | None = None) -> xr.DataArray:  # noqa: N802 (PEFT's name)
        """The adapter's B, float32 (feature, rank)."""
        name = self._adapter_name(adapter)
        self._component_index(component)
        values = self._once(f"adapters/{name}/lora_B/{component}")
        return xr.DataArray(values, dims=("feature", "rank"), name="lora_B", attrs={"component": component})

    def delta(self, component: str, adapter: str | None = None) -> xr.DataArray:
        """What the adapter adds, scaling * B A x (+ its bias), float32 (token, feature), lazy."""
        array = self.delta_source(component, adapter).to_dask()
        return xr.DataArray(array, dims=("token", "feature"), name="delta", attrs={"component": component})

    def lora(self, component: str, adapter: str | None = None) -> xr.DataArray:
        """h_LoRA = base + delta before the layer rounds, float32 (token, feature), lazy."""
        lora = self.base(component) + self.delta(component, adapter)
        return lora.rename("lora").assign_attrs(component=component)

    def js(self, adapter: str | None = None) -> xr.DataArray:
        """JS measured during capture, nats (token, component); NaN outside the share of tokens it was measured on."""
        rows = self._rows(f"adapters/{self._adapter_name(adapter)}/js")
        attrs = {
            "units": "nat",
            "long_name": str(self._array(f"adapters/{self._adapter_name(adapter)}/js").attrs.get("long_name", "js")),
        }
        array = xr.DataArray(rows.to_dask(), dims=("token", "component"), name="js", attrs=attrs)
        return array.assign_coords(component=list(self.component_paths))

    def delta_source(self, component: str, adapter: str | None = None) -> DeltaSource:
        """What `delta` is made from, to be read a row at a time in any thread or process."""
        name = self._adapter_name(adapter)
        factor = self._factor_rows(component, name)
        if factor is None:
            return DeltaSource(self._rows(f"adapters/{name}/delta/{component}"))
        bias = f"adapters/{name}/lora_bias/{component}"
        return DeltaSource(
            factor,
            lora_B=self.lora_B(component, name).values,
            scaling=float(self.adapter(name)["scaling"].values[self._component_index(component)]),
            bias=self._once(bias) if bias in self._group else None,
        )

    def base_rows(self, component: str) -> RowArray:
        """`base`, to be read a row at a time in any thread or process."""
        return self._state_rows(component, "base")

    def _state_rows(self, component: str, name: str) -> RowArray:
        self._component_index(component)
        if not self.has_states:
            raise StoreError(
                f"{str(self.path)!r} was captured with states 'none'; it holds no {name}, only js by token"
            )
        return self._rows(f"states/{component}/{name}")

    def _state(self, component: str, name: str) -> xr.DataArray:
        rows = self._state_rows(component, name)
        stored = self._array(f"states/{component}/{name}").attrs
        attrs = {"component": component, **{key: str(value) for key, value in stored.items() if key != "written"}}
        attrs["long_name"] = attrs.get("long_name", name).removesuffix(BITS_NOTE)
        return xr.DataArray(rows.to_dask(), dims=("token", "feature"), name=name, attrs=attrs)

    def _factor_rows(self, component: str, adapter: str) -> RowArray | None:
        if not self.has_states:
            raise StoreError(
                f"{str(self.path)!r} was captured with states 'none'; it holds no factor, only js by token"
            )
        index = self._component_index(component)
        table = self.adapter(adapter)
        start, rank = int(table["factor_start"].values[index]), int(table["rank"].values[index])
        if rank == 0:
            raise StoreError(f"adapter {adapter!r} leaves component {component!r} alone")
        return None if start < 0 else self._rows(f"adapters/{adapter}/factor", slice(start, start + rank))

    def _rows(self, path: str, columns: slice = slice(None)) -> RowArray:
        return RowArray(self._array(path), root=self.path, committed=self.committed_rows, columns=columns)

    def _array(self, path: str) -> zarr.Array[Any]:
        with _fastest_reader():
            node = self._node(path)
        if not isinstance(node, zarr.Array):
            raise StoreError(f"{path!r} of `{self.path}` is a group and should be an array; run `lorascope verify`")
        return node

    def _node(self, path: str) -> Any:
        try:
            return self._group[path]
        except KeyError:
            raise StoreError(f"{path!r} is missing from `{self.path}`; run `lorascope verify`") from None

    def _once(self, path: str) -> np.ndarray:
        return read_once(self._array(path), self.path, may_be_absent=is_base_score(path))

    def _column(self, path: str) -> xr.Variable:
        array = self._array(path)
        values = self._rows(path)[:] if array.attrs.get("written") == "by row" else self._once(path)
        if values.dtype.kind == "T":  # xarray and pandas know text as object
            values = values.astype(object)
        attributes = {key: value for key, value in array.attrs.items() if key != "written"}
        return xr.Variable(cast(Any, array.metadata).dimension_names, values, attributes)

    def _table(self, table: str) -> xr.Dataset:
        paths = {column.name: f"{table}/{column.name}" for column in TABLES[table]}
        return xr.Dataset(
            {name: self._column(path) for name, path in paths.items() if not may_be_absent(path) or path in self._group}
        )

    def _adapter_name(self, name: str | None) -> str:
        if name is None and len(self.adapters) == 1:
            return self.adapters[0]
        if name not in self.adapters:
            raise StoreError(f"`adapter` is {name!r}; this run holds {list(self.adapters)}")
        return name

    def _component_index(self, path: str) -> int:
        try:
            return self.component_paths.index(path)
        except ValueError:
            close = difflib.get_close_matches(path, self.component_paths, n=3)
            hint = f"; close to it are {close}" if close else f"; the first is {self.component_paths[0]!r}"
            raise StoreError(f"no component {path!r} among the {len(self.component_paths)} of this run{hint}") from None


def open_run(path: str | Path) -> Run:
    """The run stored at `path`, finished or not.

    Raises
    ------
    StoreError
        If there is no run at `path`, it is still being set up, its format is newer than this version of lorascope
        reads, or it isn't laid out as the format says.
    """
    root, group = open_group(path)
    problems = find_layout_problems(root, group)
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise StoreError(
            f"`{root}` isn't laid out as a run: {problems[0].message}{more}; `lorascope verify` lists what is wrong"
        )
    return Run(root, group)


def open_group(path: str | Path) -> tuple[Path, zarr.Group]:
    """Folder and root group of the run at `path`, of a version that we read and set up to the end; raises if not."""
    root = Path(path)
    if not (root / "zarr.json").is_file():
        found = "holds no Zarr store" if root.exists() else "doesn't exist"
        raise StoreError(f"`{root}` {found}; name the folder of a run that `lorascope capture` wrote")
    try:
        group = zarr.open_group(root, mode="r")
    except (ValueError, KeyError, TypeError, zarr.errors.BaseZarrError) as error:
        raise StoreError(f"`{root}` isn't a readable Zarr group ({type(error).__name__}: {error})") from error
    attributes = dict(group.attrs)
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"`{root}` is a Zarr group but no lorascope run: `format` is {attributes.get('format')!r}, not {FORMAT!r}"
        )
    version = attributes.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise StoreError(
            f"`{root}` has format version {version!r}; this lorascope reads version {FORMAT_VERSION}: upgrade it"
        )
    if "static_digest" not in attributes:
        raise StoreError(
            f"`{root}` is still being set up, or was interrupted then: it holds no row yet; wait for its capture, or "
            "delete it and capture again"
        )
    return root, group


def find_layout_problems(root: Path, group: zarr.Group) -> list[Problem]:
    """Every way in which this run isn't laid out as the format says; reads metadata and the smallest tables only."""
    try:
        metadata = _array_metadata(group)
    except (ValueError, KeyError, TypeError, zarr.errors.BaseZarrError) as error:
        message = f"metadata of `{root}` can't be read ({type(error).__name__}: {error})"
        return [Problem("metadata", "unreadable", message)]
    arrays = {path: Found.of(found) for path, found in metadata.items()}
    return layout_problems(dict(group.attrs), arrays, lambda path: read_once(cast(Any, group[path]), root))


def _array_metadata(group: zarr.Group) -> dict[str, ArrayV3Metadata]:
    consolidated = group.metadata.consolidated_metadata
    if consolidated is not None:  # already parsed; making an array of each would take ten times as long
        nodes = consolidated.flattened_metadata
    else:
        nodes = {path: node.metadata for path, node in list_nodes(group)}
    return {path: node for path, node in nodes.items() if isinstance(node, ArrayV3Metadata)}


def list_nodes(group: zarr.Group) -> list[tuple[str, zarr.Array[Any] | zarr.Group]]:
    """Every group and array below; a file that isn't one, such as an interrupted write leaves, is passed over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized", category=UserWarning)
        return list(group.members(max_depth=None))


def _fastest_reader() -> AbstractContextManager[Any]:
    """Zarr settles an array's pipeline when it opens it; zarrs is the fastest, and is never used to write."""
    if importlib.util.find_spec("zarrs") is None:
        return nullcontext()
    pipeline: AbstractContextManager[Any] = zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return pipeline
