"""An open run: its tables as xarray datasets, its states as lazy float32 arrays.

A component is a layer that LoRA wraps; its states are base, the frozen layer's output, and delta, what the adapter
adds. Arrays are written in rows of 1,024 tokens. JS is the Jensen-Shannon divergence of softmax(base) and
softmax(base + delta).
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import xarray as xr

from ..errors import StoreError
from ..format.layout import BITS_NOTE, is_kept_with_states
from ..format.spec import ROW_TOKENS, block_path
from ..format.stored_array import StoredArray
from ..format.tables import (
    CHANGE_COLUMNS,
    IMPORTANCE_COLUMNS,
    NULL_COLUMNS,
    REPLY_COLUMNS,
    TABLES,
    TOKEN_WEIGHT,
    is_base_score_column,
)
from ..names import Patterns, matching_indices, require_choice, suggestion, suggestion_or_first_name
from ..places.place import Place
from .chunks import read_digests
from .labels import lazy_column, role_names, sample_token_places, token_coordinates
from .notebook import run_html
from .rows import RowArray, read_static
from .source import DeltaSource, Source
from .token_choice import checked_token_places
from .token_places import require_contiguous, require_own_tokens
from .walk import walk_rows

Samples = str | Sequence[str] | None
"""Ids of samples whose tokens are read; None for all."""
ADAPTER_REDUCTIONS = ("js", "swallowed", "delta_norm", "kl")
EXPERT_VARIABLES = ("expert", "weight", "base_expert", "base_weight", "js", "base_norm", "delta_norm", "z")
"""Arrays of a block's routing, and of a component's measures by expert, as far as a run has them."""
BASE_REDUCTIONS = ("base_norm", "effective_width")
"""Stored measures per token that depend on base alone, not on the adapter."""


class Run:
    """Captured run, open for reading: its tables, states and measures; made by `open_run`.

    Only committed rows are read. Tokens in other rows are NaN in every state; `committed` says which tokens are read.

    A run is a mapping from paths of components to their states: `run[path]`, `len(run)`, `path in run`, loops.
    """

    def __init__(self, place: Place, attributes: Mapping[str, Any], arrays: Mapping[str, StoredArray]) -> None:
        """Take a run's place, root attributes and arrays, which were checked before; nothing is read."""
        self.place = place
        self.path = place.path
        self.arrays = arrays
        """Path in the store -> array."""
        self._adapter_tables: dict[str, xr.Dataset] = {}
        self._opening = secrets.token_hex(8)
        self.attributes: dict[str, Any] = dict(attributes)
        self.format_version: int = self.attributes["format_version"]
        self.stream: str = self.attributes["stream"]
        self.states: str = self.attributes["states"]
        """Rows that keep base and delta: `all`, `sample` or `none`."""
        self.adapters: tuple[str, ...] = tuple(self.attributes["adapters"])
        self.finished: bool = self.attributes["finished"]
        self.n_tokens: int = self.attributes["n_tokens"]
        self.n_rows: int = self.attributes["n_rows"]

    def __repr__(self) -> str:
        """Return one line on stream, components, adapters, tokens and committed rows."""
        rows = f"{int(self.committed_rows.sum())} of {self.n_rows} rows"
        state = "" if self.finished else ", unfinished"
        if len(self.lost_rows):
            state = f", {len(self.lost_rows)} lost since it was finished"
        return (
            f"<Run {self.place.name!r}: stream {self.stream}, {len(self.component_paths)} components, "
            f"adapters {list(self.adapters)}, {self.n_tokens} tokens, {rows}{state}>"
        )

    def _repr_html_(self) -> str:
        """Return a table about the run as HTML, which notebooks show."""
        return run_html(self)

    def __getitem__(self, component: str) -> xr.Dataset:
        """Return `base`, `delta` and `lora` of a component, lazy float32 (token, feature); only `base` if unadapted."""
        adapter = self._checked_adapter_name(None)
        states = [self.base(component)]
        if self.adapter(adapter)["rank"].values[self._component_index(component)] > 0:
            states += [self.delta(component), self.lora(component)]
        return xr.Dataset({state.name: state for state in states})

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.component_paths)

    def __iter__(self) -> Iterator[str]:
        """Yield the paths of the components."""
        return iter(self.component_paths)

    def _ipython_key_completions_(self) -> list[str]:
        """Return the paths of the components, which IPython offers after `run[`."""
        return list(self.component_paths)

    @cached_property
    def committed_rows(self) -> np.ndarray:
        """Mask of committed (completely written) rows, bool (row,), read at the first access."""
        return np.asarray(self._digests.any(axis=1))

    @property
    def lost_rows(self) -> np.ndarray:
        """Indices of rows of a finished run that can't be read, since their digest was lost."""
        return np.flatnonzero(~self.committed_rows) if self.finished else np.empty(0, np.intp)

    def digest(self, row: int) -> np.ndarray:
        """Return the digest of a committed row, uint8 (32,); all zero if it isn't committed."""
        return np.asarray(self._digests[row])

    @cached_property
    def _digests(self) -> np.ndarray:
        """Digests of all rows, uint8 (row, 32), read at the first access; zero for rows not committed."""
        return read_digests(self.place, self.attributes, self.arrays)

    @cached_property
    def state_rows(self) -> np.ndarray:
        """Mask of rows that keep base and delta, bool (row,), committed or not."""
        if self.states == "sample":
            return self.read_static("rows/states").astype(bool)
        return np.full(self.n_rows, self.states == "all")

    @cached_property
    def committed(self) -> xr.DataArray:
        """Mask of tokens in committed (completely written) rows, bool (token,)."""
        return self._repeat_by_token(self.committed_rows, "committed")

    @cached_property
    def with_states(self) -> xr.DataArray:
        """Mask of tokens in rows that keep base and delta, bool (token,), committed or not."""
        return self._repeat_by_token(self.state_rows, "with_states")

    def row_paths(self, row: int) -> list[str]:
        """Return the paths of the arrays that have a chunk for this row once it is committed."""
        with_states = bool(self.state_rows[row])
        return [
            path
            for path, array in self.arrays.items()
            if array.by_row and (with_states or not is_kept_with_states(path))
        ]

    def _repeat_by_token(self, rows: np.ndarray, name: str) -> xr.DataArray:
        """Return a DataArray (token,) with the value of each token's row, from an array (row,)."""
        return xr.DataArray(np.repeat(rows, ROW_TOKENS)[: self.n_tokens], dims="token", name=name)

    @cached_property
    def samples(self) -> xr.Dataset:
        """Table of samples, labelled by id: data set, scores, and the range of captured tokens."""
        samples = self._read_table("samples")
        return samples.assign_coords(sample=samples["id"].values)

    @cached_property
    def choices(self) -> xr.Dataset:
        """Table of the choices that samples offer as answers: index of the sample, text and log-likelihood."""
        return self._read_table("choices")

    @cached_property
    def tokens(self) -> xr.Dataset:
        """Table of captured tokens: sample, position, id, role, weight in unbiased means, and nll in nats.

        `text` and `nll` are read at the first access.
        """
        tokens = self._read_table("tokens")
        if TOKEN_WEIGHT.name in tokens:
            return tokens
        ones = xr.Variable("token", np.ones(self.n_tokens, np.float32), dict(TOKEN_WEIGHT.attributes))
        return tokens.assign({TOKEN_WEIGHT.name: ones})

    @cached_property
    def token_labels(self) -> xr.Coordinates:
        """Coordinates (token,): `sample` (an id), `role` (a name), `position`, with indexes, and `text` if stored."""
        columns: dict[str, Any] = {
            "sample": self.read_static("samples/id").astype(object)[self.read_static("tokens/sample")],
            "role": role_names(self.read_static("tokens/role")),
            "position": self.read_static("tokens/position"),
        }
        if "tokens/text" in self.arrays:
            columns["text"] = self._token_text.copy(deep=False)
            columns["text"].attrs = {}
        return token_coordinates(columns)

    @cached_property
    def _token_text(self) -> xr.Variable:
        """Texts of tokens as a variable (token,) that is read at the first access."""
        array = self.arrays["tokens/text"]
        return lazy_column(partial(read_static, array, self.place), self.n_tokens, _attributes_of(array))

    @cached_property
    def components(self) -> xr.Dataset:
        """Table of components, the layers that LoRA wraps: path, kind, layer, widths, dtype."""
        return self._read_table("components")

    @cached_property
    def component_paths(self) -> tuple[str, ...]:
        """Paths of the components, in the order of every `component` axis."""
        return tuple(self.components["path"].values.tolist())

    @property
    def has_states(self) -> bool:
        """Whether base and delta are stored for at least some rows."""
        return self.states != "none"

    def adapter(self, name: str | None = None) -> xr.Dataset:
        """Return an adapter's rank, scaling, factor_start and delta_source by component, as a Dataset.

        `name` isn't needed if there is only one. `delta_source` is `factor`, `branch` (measured in the adapter's own
        branch), `difference` (output minus base, in the layer's own rounding), or empty for unadapted components.
        """
        name = self._checked_adapter_name(name)
        if name not in self._adapter_tables:
            columns = {key: self._read_column(f"adapters/{name}/{key}") for key in ("rank", "scaling", "factor_start")}
            path = f"adapters/{name}/delta_source"
            if path in self.arrays:
                columns["delta_source"] = self._read_column(path)
            else:  # early writers knew no `difference`
                stored = np.where(columns["factor_start"].values >= 0, "factor", "branch")
                sources = np.where(columns["rank"].values == 0, "", stored).astype(object)
                columns["delta_source"] = xr.Variable("component", sources)
            self._adapter_tables[name] = xr.Dataset(columns)
        return self._adapter_tables[name]

    def base(self, component: str, *, sample: Samples = None) -> xr.DataArray:
        """Return the output of a component's frozen layer (h_LLM), lazy float32 (token, feature).

        It has one Dask block per row. As in every array by token, `sample` is one id or several of samples whose tokens
        are read, and coordinates label tokens; see `token_labels`.
        """
        return self._state_array(component, "base", sample)

    def adapted(self, component: str, *, sample: Samples = None) -> xr.DataArray:
        """Return a component's output with the adapter, lazy float32 (token, feature); stream `pair` only."""
        if self.stream != "pair":
            raise StoreError(f"only a run of stream 'pair' holds `adapted`; {self.place.name!r} is {self.stream!r}")
        return self._state_array(component, "adapted", sample)

    def factor(self, component: str, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return z = A x of a component, A being the adapter's first matrix: lazy float32 (token, rank).

        Raises
        ------
        StoreError
            If the run stores this component's delta itself.
        """
        name = self._checked_adapter_name(adapter)
        rows = self._factor_row_array(component, name)
        if rows is None:
            raise StoreError(f"component {component!r} of adapter {name!r} is stored as delta; there is no factor")
        array = xr.DataArray(rows.to_dask(), dims=("token", "rank"), name="factor", attrs={"component": component})
        return self._with_labels(array, sample, component)

    def lora_B(self, component: str, adapter: str | None = None) -> xr.DataArray:  # noqa: N802 (PEFT's name)
        """Return the adapter's second matrix, B, of a component: float32 (feature, rank), read at once."""
        name = self._checked_adapter_name(adapter)
        self._component_index(component)
        values = self.read_static(f"adapters/{name}/lora_B/{component}")
        return xr.DataArray(values, dims=("feature", "rank"), name="lora_B", attrs={"component": component})

    def delta(self, component: str, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return the adapter's part of a component's output, `scaling * (B A x + bias)`, lazy (token, feature).

        It is float32; see `delta_arrays`.
        """
        blocks = self.delta_arrays(component, adapter).to_dask()
        array = xr.DataArray(blocks, dims=("token", "feature"), name="delta", attrs={"component": component})
        return self._with_labels(array, sample, component)

    def lora(self, component: str, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return h_LoRA = base + delta of a component before the layer rounds, lazy float32 (token, feature).

        In a run of stream `pair` it is `adapted`.
        """
        if self.stream == "pair":
            return self.adapted(component, sample=sample).rename("lora")
        lora = self.base(component, sample=sample) + self.delta(component, adapter, sample=sample)
        return lora.rename("lora").assign_attrs(component=component)

    def take(self, tokens: Any, *, component: Patterns = None, adapter: str | None = None) -> xr.DataTree:
        """Return base and delta of a few tokens at many components, a DataTree of float32, read at once.

        Parameters
        ----------
        tokens
            Indices on the token axis, a sequence of integers from 0; an index may occur several times.
        component
            Path of a component or a pattern, such as `*.q_proj`, or several; by default all.
        adapter
            Name of the adapter; not needed if there is only one.

        Returns
        -------
        xarray.DataTree
            A node per component, `tree[component]`, in the run's order, with `base` and `delta` (token, feature), since
            widths differ. Each has the coordinate `token`, in the order of `tokens`; the root has no coordinate, so
            that a component may have any name. Unadapted components have no `delta`. Tokens whose row isn't committed
            or keeps no states are NaN.

        Raises
        ------
        StoreError
            If a chunk of a committed row is missing, empty or broken, a name is unknown, or the run has no states.
        ValueError
            If `tokens` isn't a sequence of integers.
        IndexError
            If the run has no such token.

        Notes
        -----
        `base` equals `Run.base` bit for bit; if delta is computed from a factor, its last bits may differ from those of
        `Run.delta`, which multiplies matrices of other shapes.
        """
        chosen_components = matching_indices(self.component_paths, component, of="components of this run")
        places = checked_token_places(tokens, self.n_tokens)
        chosen = np.isin(np.arange(self.n_tokens), places)
        ranks = self.adapter(adapter)["rank"].values
        states: dict[str, dict[str, np.ndarray]] = {}
        touched = []
        for index in chosen_components:
            path = self.component_paths[index]
            if ranks[index] > 0:
                source = self.source(path, adapter)
                shape = (len(places), source.base.shape[1])
                states[path] = {name: np.full(shape, np.nan, np.float32) for name in ("base", "delta")}
                touched.append(source)
            else:
                states[path] = {"base": self.base_rows(path).take(places)}
        for block in walk_rows(touched, ("base", "delta"), tokens=chosen):
            here = np.isin(places, block.tokens)
            order = np.searchsorted(block.tokens, places[here])
            for name, values in (("base", block.base), ("delta", block.delta)):
                for path, state in values.items():
                    states[path][name][here] = state[order]
        nodes = {
            path: xr.Dataset(
                {name: (("token", "feature"), values) for name, values in arrays.items()}, coords={"token": places}
            )
            for path, arrays in states.items()
        }
        return xr.DataTree.from_dict(nodes)

    def js(self, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return the Jensen-Shannon divergence measured during capture, in nats, lazy (token, component).

        Tokens without a measurement are NaN.
        """
        return self.reduction("js", adapter, sample=sample)

    def reduction(self, name: str, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return a measure that capture stored per token, such as `js`, lazy float32 (token, component).

        The measure `kl` is (token,).

        Parameters
        ----------
        name
            `base_norm` and `delta_norm`, Euclidean; `effective_width`, exp of the entropy of softmax(base); `kl`, nats,
            KL(base || adapted) of the next-token distributions; `js`, nats; `swallowed`, the share of
            features that the layers' rounding left equal to base.
        adapter
            Name of the adapter; not needed if there is only one.
        sample
            One id or several of samples whose tokens are read; by default all.

        Raises
        ------
        ValueError
            If there is no measure of this name.
        StoreError
            If this run doesn't have it.
        """
        require_choice("name", name, ADAPTER_REDUCTIONS + BASE_REDUCTIONS)
        folder = "reductions" if name in BASE_REDUCTIONS else f"adapters/{self._checked_adapter_name(adapter)}"
        path = f"{folder}/{name}"
        if path not in self.arrays:
            raise StoreError(f"{self.place.name!r} (states {self.states!r}) holds no {name!r}; it wasn't measured")
        stored = self.arrays[path].attributes
        attrs = {key: str(stored[key]) for key in ("units", "long_name") if key in stored}
        rows = self._row_array(path).to_dask()
        array = xr.DataArray(rows, dims=("token", "component")[: rows.ndim], name=name, attrs=attrs)
        if rows.ndim == 2:
            kinds = {name: ("component", self.components[name].values) for name in ("kind", "layer")}
            array = array.assign_coords({"component": list(self.component_paths), **kinds})
            array = array.set_xindex("kind").set_xindex("layer")
        return self._with_labels(array, sample)

    def ablation(self, adapter: str | None = None, *, sample: Samples = None) -> xr.DataArray:
        """Return how much the model's output changes without each part of an adapter, in nats, lazy (token, part).

        KL(adapted || adapted without this part's delta) of the next-token distributions after each token; NaN in
        batches without a measurement. The attribute `parts` is `components`, `layers` or `kinds`, and the coordinate
        `part` names a component's path, a layer's number or a kind. Raises StoreError if the run has no ablation.
        """
        root = f"adapters/{self._checked_adapter_name(adapter)}"
        self._require_captured(f"{root}/ablation", "ablation", "--ablate components")
        stored = self.arrays[f"{root}/ablation"].attributes
        attrs = {key: str(stored[key]) for key in ("parts", "units", "long_name") if key in stored}
        parts = [str(part) for part in self.read_static(f"{root}/ablation_part")]
        rows = self._row_array(f"{root}/ablation").to_dask()
        array = xr.DataArray(rows, dims=("token", "part"), name="ablation", attrs=attrs, coords={"part": parts})
        return self._with_labels(array, sample)

    def replies(self, adapter: str | None = None) -> xr.Dataset:
        """Return what the model replied to short prompts without the adapter, with it, and with it amplified.

        Returns
        -------
        xarray.Dataset
            One entry (reply) for each prompt and `scale`, the factor on the adapter's scaling (0 is the model without
            it): `prompt`, `text`, `n_tokens`, `is_complete` (1 where it ends with a token that ends a text), and
            `loglik_0`, `loglik_1`, `loglik_1_5` and `loglik_2`, the reply's log-likelihoods in nats at these factors.

        Raises
        ------
        StoreError
            If the run was captured without `--replies`, or a chunk is broken.
        """
        root = f"adapters/{self._checked_adapter_name(adapter)}/replies"
        self._require_captured(f"{root}/text", "replies", "--replies")
        return xr.Dataset({column.name: self._read_column(f"{root}/{column.name}") for column in REPLY_COLUMNS})

    def importance(self, adapter: str | None = None) -> xr.Dataset:
        """Return as a Dataset the gradients by singular direction that an adapter's importance is computed from.

        Returns
        -------
        xarray.Dataset
            `gradient` (pass, direction), float32, nat: derivative, by a scale of 1 on the direction, of the sum over
            the pass's places of log p(label), each label drawn from the adapted model's next-token distribution.
            By pass: `sample` (index), `draw` and `n_tokens`, its number of places. By direction: `component` (index),
            `direction`, its number by descending singular value (-1 for a bias of lora_B), and `singular_value`.

        Raises
        ------
        StoreError
            If the run was captured without `--importance`, or a chunk is broken.

        Notes
        -----
        The Fisher information per place of a scale on a set of directions is the mean over passes of the square of
        their summed gradients, divided by `n_tokens`; half of it is KL(adapted || adapted without them) to second
        order.
        """
        root = f"adapters/{self._checked_adapter_name(adapter)}/importance"
        self._require_captured(f"{root}/gradient", "importance", "--importance 4")
        names = ["gradient", *(column.name for columns in IMPORTANCE_COLUMNS.values() for column in columns)]
        return xr.Dataset({name: self._read_column(f"{root}/{name}") for name in names})

    def null_adapters(self, adapter: str | None = None) -> xr.Dataset:
        """Return as a Dataset what an adapter and random ones of its size do in each sample (sample, variant).

        Variant 0 is the adapter itself. `miub` is in nats, `kl`, KL(base || variant) of next tokens, and `ce_change`,
        by how much the variant changes the loss on the tokens to predict, in nats a token; NaN where not measured.
        Raises StoreError if the run was captured without `--null-adapters`, or a chunk is broken.
        """
        root = f"adapters/{self._checked_adapter_name(adapter)}/nulls"
        self._require_captured(f"{root}/kl", "null adapters", "--null-adapters 8")
        return xr.Dataset({column.name: self._read_column(f"{root}/{column.name}") for column in NULL_COLUMNS})

    def changes(self, adapter: str | None = None, *, sample: Samples = None) -> xr.Dataset:
        """Return how an adapter changes the next token's distribution after each token, a lazy Dataset (token, ...).

        P is the distribution with the adapter, Q that without it.

        Returns
        -------
        xarray.Dataset
            `kl_adapted_base` (token), KL(P || Q) in nats, the sum of p log(p / q) over all token ids; `gain_token` and
            `gain` (token, largest), the ids whose p log(p / q) is largest, descending, and these values; `loss_token`
            and `loss`, the same for q log(q / p), whose sum is KL(Q || P), the measure `kl` of `reduction`;
            `adapted_choice` and `base_choice`, the likeliest ids under P and Q, and `..._p`, their probabilities;
            `adapted_draw` and `base_draw` (token, draw), ids drawn from P and Q by the same uniform numbers, so that
            shares of any set of ids are unbiased; `adapted_nll` and `base_nll`, negative log-likelihoods of the token
            itself, in nats. Ids are int32, other values float32; -1 and NaN in batches without a measurement.

        Raises
        ------
        StoreError
            If the run has no changes, or several adapters and `adapter` names none of them.
        """
        root = f"adapters/{self._checked_adapter_name(adapter)}/changes"
        self._require_captured(f"{root}/gain", "next-token changes", "--changes all")
        variables = {}
        for column in CHANGE_COLUMNS:
            array = self.arrays[f"{root}/{column.name}"]
            variables[column.name] = (array.dims, self._row_array(array.path).to_dask(), _attributes_of(array))
        changes = xr.Dataset(variables, coords=self.token_labels)
        return changes if sample is None else changes.isel(token=sample_token_places(self.samples, sample))

    def experts(self, component: str, *, sample: Samples = None) -> xr.Dataset:
        """Return which experts each token was routed to, and what the adapter changes in each, a lazy Dataset.

        Returns
        -------
        xarray.Dataset
            For each token and each of its experts (token, choice): `expert`, its index, int32, and `weight`, as the
            router gives it, 0 where it chose the identity and no expert (LongCat, ZAYA); `base_expert` and
            `base_weight`, those of the pass without the adapter, in stream `pair`; `js` in nats, `base_norm` and
            `delta_norm` of the expert's own output before its weight, due to the component alone; and, in runs with
            states, `z` (token, choice, rank), the adapter's inner activations.
            Attributes are `n_experts` of the block, and `applied_to`, which `ExpertBlock` explains.

        Raises
        ------
        StoreError
            If the run has no such component, or no routing of it.
        """
        self._component_index(component)
        routing = f"experts/{block_path(component)}"
        if f"{routing}/expert" not in self.arrays:
            raise StoreError(f"{self.place.name!r} holds no routing of {component!r}, which is no parameter of experts")
        variables = {}
        for path in (f"{folder}/{name}" for folder in (routing, f"experts/{component}") for name in EXPERT_VARIABLES):
            if (array := self.arrays.get(path)) is not None:
                variables[path.rpartition("/")[2]] = array.dims, self._row_array(path).to_dask(), _attributes_of(array)
        attrs = {name: self.arrays[f"{routing}/expert"].attributes[name] for name in ("n_experts", "applied_to")}
        experts = xr.Dataset(variables, coords=self.token_labels, attrs=attrs)
        return experts if sample is None else experts.isel(token=sample_token_places(self.samples, sample))

    def vocabulary(self) -> np.ndarray:
        """Return the text of each token id, as the tokenizer decodes it alone, str as object (vocabulary,).

        Raises StoreError if the run has no next-token changes, with which these texts come.
        """
        self._require_captured("vocabulary/text", "texts of token ids", "--changes all")
        return self.read_static("vocabulary/text").astype(object)

    def delta_arrays(self, component: str, adapter: str | None = None) -> DeltaSource:
        """Return the arrays and weights that give `delta`, what the adapter adds, to be read in any process.

        In a `pair` run delta is adapted - base in float32, so it includes the effect of earlier layers.
        """
        name = self._checked_adapter_name(adapter)
        if self.stream == "pair":
            return DeltaSource(
                self._state_row_array(component, "adapted"), base=self._state_row_array(component, "base")
            )
        factor = self._factor_row_array(component, name)
        if factor is None:
            return DeltaSource(self._row_array(f"adapters/{name}/delta/{component}"))
        bias = f"adapters/{name}/lora_bias/{component}"
        return DeltaSource(
            factor,
            lora_B=partial(read_static, self.arrays[f"adapters/{name}/lora_B/{component}"], self.place),
            scaling=float(self.adapter(name)["scaling"].values[self._component_index(component)]),
            bias=partial(read_static, self.arrays[bias], self.place) if bias in self.arrays else None,
        )

    def source(self, component: str, adapter: str | None = None) -> Source:
        """Return base and delta of an adapted component as a Source, to be read in any thread or process.

        `walk_rows` takes such sources.
        """
        delta = self.delta_arrays(component, adapter)
        return Source(component, self.base_rows(component), delta, self._opening)

    def base_rows(self, component: str) -> RowArray:
        """Return base of a component as a RowArray, to be read row by row in any thread or process."""
        return self._state_row_array(component, "base")

    def _state_row_array(self, component: str, name: str) -> RowArray:
        """Return `base` or `adapted` of a component as a RowArray; raises StoreError if the run lacks states."""
        self._component_index(component)
        self._require_states(name)
        return self._row_array(f"states/{component}/{name}")

    def _require_states(self, what: str) -> None:
        """Raise StoreError if the run keeps no states (base and delta); the error names `what` was asked for."""
        if not self.has_states:
            raise StoreError(
                f"{self.place.name!r} was captured with states 'none': it keeps no states (no {what}), only js by token"
            )

    def _with_labels(self, array: xr.DataArray, sample: Samples, component: str | None = None) -> xr.DataArray:
        """Return the array with labels of its tokens and component, cut to the tokens of `sample` if given."""
        if component is not None:
            row = self.components.isel(component=self._component_index(component))
            array = array.assign_coords(component=component, kind=row["kind"].item(), layer=row["layer"].item())
        array = array.assign_coords(self.token_labels)
        return array if sample is None else array.isel(token=sample_token_places(self.samples, sample))

    def _state_array(self, component: str, name: str, sample: Samples) -> xr.DataArray:
        """Return `base` or `adapted` of a component as a labelled DataArray (token, feature), lazy."""
        rows = self._state_row_array(component, name)
        stored = self.arrays[f"states/{component}/{name}"].attributes
        attrs = {"component": component, **{key: str(value) for key, value in stored.items() if key != "written"}}
        attrs["long_name"] = attrs.get("long_name", name).removesuffix(BITS_NOTE)
        array = xr.DataArray(rows.to_dask(), dims=("token", "feature"), name=name, attrs=attrs)
        return self._with_labels(array, sample, component)

    def _factor_row_array(self, component: str, adapter: str) -> RowArray | None:
        """Return z = A x of a component as a RowArray; None if delta is stored instead.

        Raises StoreError if the adapter leaves the component alone.
        """
        self._require_states("factor")
        index = self._component_index(component)
        table = self.adapter(adapter)
        start, rank = int(table["factor_start"].values[index]), int(table["rank"].values[index])
        if rank == 0:
            raise StoreError(f"adapter {adapter!r} leaves component {component!r} alone")
        return None if start < 0 else self._row_array(f"adapters/{adapter}/factor", slice(start, start + rank))

    def _row_array(self, path: str, columns: slice = slice(None)) -> RowArray:
        """Return an array that is written row by row, by its path in the store, as a RowArray."""
        readable = self.committed_rows & self.state_rows if is_kept_with_states(path) else self.committed_rows
        return RowArray(self.arrays[path], place=self.place, committed=readable, columns=columns)

    def read_static(self, path: str) -> np.ndarray:
        """Return a whole array that was written when the run was set up, by its path in the store.

        Raises StoreError if it is missing or broken, or has values that its column may not have.
        """
        if path not in self.arrays:
            raise StoreError(f"{path!r} is missing from `{self.place.name}`; run `lorascope verify`")
        values = read_static(self.arrays[path], self.place, may_be_absent=is_base_score_column(path))
        if path in ("samples/token_start", "samples/token_stop"):
            self._token_bounds  # noqa: B018 (raises)
        elif path in ("tokens/sample", "tokens/position"):
            require_own_tokens(path, values, *self._token_bounds)
        return values

    @cached_property
    def _token_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Index after the last token of each sample, and the length of its sequence; checked to fit the token axis."""
        start, stop, length = (
            read_static(self.arrays[f"samples/{name}"], self.place) for name in ("token_start", "token_stop", "length")
        )
        require_contiguous(start, stop, self.n_tokens)
        return stop, length

    def _require_captured(self, path: str, what: str, option: str) -> None:
        """Raise StoreError, which names `what` and capture's `option` for it, if the run lacks the array at `path`."""
        if path not in self.arrays:
            raise StoreError(f"{self.place.name!r} holds no {what}; capture it again with `{option}`")

    def _read_column(self, path: str) -> xr.Variable:
        """Return a table's column, by its path in the store, as a Variable; text and nll of tokens are read later."""
        array = self.arrays[path]
        if path == "tokens/text":
            return self._token_text
        if array.by_row:
            rows = self._row_array(path)
            return lazy_column(partial(rows.__getitem__, slice(None)), self.n_tokens, _attributes_of(array), rows.dtype)
        values = self.read_static(path)
        if values.dtype.kind == "T":  # xarray and pandas keep text as objects
            values = values.astype(object)
        return xr.Variable(array.dims, values, _attributes_of(array))

    def _read_table(self, table: str) -> xr.Dataset:
        """Return a table as a Dataset, without optional columns that the run lacks."""
        columns = [column for column in TABLES[table] if not column.optional or f"{table}/{column.name}" in self.arrays]
        return xr.Dataset({column.name: self._read_column(f"{table}/{column.name}") for column in columns})

    def _checked_adapter_name(self, name: str | None) -> str:
        """Return the adapter's name, that of the only one if None; raises StoreError if there is no such adapter."""
        if name is None and len(self.adapters) == 1:
            return self.adapters[0]
        if name is None:
            raise StoreError(f"`adapter` isn't given, and this run holds several; name one of {list(self.adapters)}")
        if name not in self.adapters:
            raise StoreError(
                f"`adapter` is {name!r}; this run holds {list(self.adapters)}{suggestion(name, self.adapters)}"
            )
        return name

    def _component_index(self, path: str) -> int:
        """Return a component's place on the component axis; raises StoreError with a suggestion if unknown."""
        if isinstance(path, str) and path in self.component_paths:
            return self.component_paths.index(path)
        hint = suggestion_or_first_name(str(path), self.component_paths)
        if not isinstance(path, str) or not path or set(path) & set("*?["):
            raise StoreError(f"`component` is {path!r}; give the path of one component, and no pattern or list{hint}")
        raise StoreError(f"no component {path!r} among the {len(self)} of this run{hint}")


def _attributes_of(array: StoredArray) -> dict[str, Any]:
    """Return the attributes of an array that say what it means, without how it was written."""
    return {key: value for key, value in array.attributes.items() if key != "written"}
