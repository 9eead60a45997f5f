"""Names beside numbers: the sample, role, position and text of a token, the kind and layer of a component."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from ..errors import StoreError
from ..format.tables import ROLES
from ..names import suggestion_or_first_name

TOKEN_INDEXES = ("sample", "role", "position")
COMPONENT_INDEXES = ("kind", "layer", "rank")
"""Labels by which tokens and components can be selected, beside a component's own name."""


class LazyText(BackendArray):
    """Text of tokens that is read once, when it is first looked at: of ten million tokens that takes seconds."""

    def __init__(self, read: Callable[[], np.ndarray], n_tokens: int) -> None:
        self.shape, self.dtype, self._read = (n_tokens,), np.dtype(object), read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, lambda places: self._values[places])

    @cached_property
    def _values(self) -> np.ndarray:
        texts = self._read()
        objects, known = np.empty(len(texts), object), dict[str, str]()
        for start in range(0, len(texts), 2**16):  # each text once: there are some thousands of them
            part = texts[start : start + 2**16].tolist()
            objects[start : start + len(part)] = [known.setdefault(text, text) for text in part]
        return objects


def token_coordinates(columns: Mapping[str, Any]) -> xr.Coordinates:
    """Coordinates (token,), those of `TOKEN_INDEXES` with an index; text stays the objects that it is, or lazy."""
    coordinates = xr.Coordinates()
    for name, values in columns.items():
        if name in TOKEN_INDEXES:
            index = pd.Index(values, dtype=values.dtype, name=name, copy=False)
            coordinates = coordinates.assign(xr.Coordinates.from_xindex(xr.indexes.PandasIndex(index, "token")))
        else:
            text = values if isinstance(values, xr.Variable) else _text_variable(values)
            coordinates = coordinates.assign({name: text})
    return coordinates


def lazy_text(read: Callable[[], np.ndarray], n_tokens: int, attributes: Mapping[str, Any]) -> xr.Variable:
    """Text (token,) that is read when it is first looked at."""
    attributes = {key: value for key, value in attributes.items() if key != "written"}
    return _text_variable(indexing.LazilyIndexedArray(LazyText(read, n_tokens)), attributes)


def _text_variable(values: Any, attributes: Mapping[str, Any] | None = None) -> xr.Variable:
    return xr.Variable("token", values, attributes, fastpath=True)  # else xarray makes another text of each


def role_names(roles: np.ndarray) -> np.ndarray:
    """Names of roles that are given by number; empty for a token that has none."""
    return np.asarray(np.array([*ROLES, ""], object)[roles])


def with_component_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with an index for each label of components that it has."""
    for name in COMPONENT_INDEXES:
        if name in dataset.coords and dataset[name].ndim == 1 and name not in dataset.xindexes:
            dataset = dataset.set_xindex(name)
    return dataset


def sample_token_places(samples: xr.Dataset, names: str | Sequence[str]) -> slice | np.ndarray:
    """Places of the tokens of these samples, by their ids, in the order in which they are named.

    Raises
    ------
    StoreError
        If there is no sample of this id, or several: of two data sets, say, or of one that was asked with two prompts.
    """
    ids, places = samples["id"].values, []
    if not isinstance(names, Iterable):
        raise TypeError(f"`sample` is {names!r}; give the id of a sample, a text, or several")
    for name in [names] if isinstance(names, str) else names:
        matches = np.flatnonzero(ids == name)
        if not len(matches):
            hint = suggestion_or_first_name(str(name), ids.tolist())
            raise StoreError(f"no sample {name!r} among the {len(ids)} of this run{hint}")
        if len(matches) > 1:  # nothing beside their numbers would tell their tokens apart
            owners = zip(
                *(samples[key].values[matches].tolist() for key in ("dataset", "split", "prompt")), strict=True
            )
            described = "; ".join(", ".join(filter(None, owner)) for owner in owners)
            raise StoreError(
                f"{len(matches)} samples are called {name!r} ({described}); take the tokens of one, `token_start` to "
                "`token_stop` of `run.samples`, by `isel`"
            )
        places.append(slice(*samples[["token_start", "token_stop"]].isel(sample=matches[0]).to_array().values))
    if len(places) == 1:
        return places[0]
    return np.concatenate([np.arange(place.start, place.stop) for place in places] or [np.empty(0, np.intp)])
