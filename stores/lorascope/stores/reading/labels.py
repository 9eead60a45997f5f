"""Labels on the axes of a run's arrays: sample, role, position and text of tokens, kind and layer of components."""

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
"""Labels of tokens, and of components besides their names, that have an index for selection."""


class LazyColumn(BackendArray):
    """Column of a run's tokens for xarray, read at the first access: ten million texts take seconds."""

    def __init__(self, read: Callable[[], np.ndarray], n_tokens: int, dtype: Any) -> None:
        """Keep the function that reads all `n_tokens` values, without calling it."""
        self.shape, self.dtype, self._read = (n_tokens,), np.dtype(dtype), read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the values that xarray's indexer asks for; the first access reads all of them."""
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, lambda places: self._values[places])

    @cached_property
    def _values(self) -> np.ndarray:
        """All values (token,); texts are Python strings, equal ones one object."""
        values = self._read()
        if self.dtype != object:
            return values
        objects, known = np.empty(len(values), object), dict[str, str]()
        for start in range(0, len(values), 2**16):  # each text is kept once: there are only some thousands
            part = values[start : start + 2**16].tolist()
            objects[start : start + len(part)] = [known.setdefault(text, text) for text in part]
        return objects


def token_coordinates(columns: Mapping[str, Any]) -> xr.Coordinates:
    """Return xarray coordinates (token,) of these columns, with an index for sample, role and position.

    Text may be a variable that is read at the first access.
    """
    coordinates = xr.Coordinates()
    for name, values in columns.items():
        if name in TOKEN_INDEXES:
            index = pd.Index(values, dtype=values.dtype, name=name, copy=False)
            coordinates = coordinates.assign(xr.Coordinates.from_xindex(xr.indexes.PandasIndex(index, "token")))
        else:
            text = values if isinstance(values, xr.Variable) else _text_variable(values)
            coordinates = coordinates.assign({name: text})
    return coordinates


def lazy_column(
    read: Callable[[], np.ndarray], n_tokens: int, attributes: Mapping[str, Any], dtype: Any = object
) -> xr.Variable:
    """Return an xarray variable (token,) of texts, or of numbers of `dtype`, that are read at the first access."""
    return _text_variable(indexing.LazilyIndexedArray(LazyColumn(read, n_tokens, dtype)), attributes)


def _text_variable(values: Any, attributes: Mapping[str, Any] | None = None) -> xr.Variable:
    """Return an xarray variable (token,) of these texts, which aren't copied."""
    return xr.Variable("token", values, attributes, fastpath=True)  # else xarray would copy each text


def role_names(roles: np.ndarray) -> np.ndarray:
    """Return the names of tokens' roles, given as indices in `ROLES`, as an array of text; empty for -1."""
    return np.asarray(np.array([*ROLES, ""], object)[roles])


def with_component_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with an xarray index for each of its labels `kind`, `layer` and `rank`, for selection."""
    for name in COMPONENT_INDEXES:
        if name in dataset.coords and dataset[name].ndim == 1 and name not in dataset.xindexes:
            dataset = dataset.set_xindex(name)
    return dataset


def sample_token_places(samples: xr.Dataset, names: str | Sequence[str]) -> slice | np.ndarray:
    """Return where samples' tokens are on the token axis: a slice for one id, an array of indices for several.

    Indices are in the order of the ids.

    Raises
    ------
    StoreError
        If no sample has such an id, or several have it, for example of two data sets or of two prompts.
    """
    ids, places = samples["id"].values, []
    if not isinstance(names, Iterable):
        raise TypeError(f"`sample` is {names!r}; give the id of a sample, a text, or several")
    for name in [names] if isinstance(names, str) else names:
        matches = np.flatnonzero(ids == name)
        if not len(matches):
            hint = suggestion_or_first_name(str(name), ids.tolist())
            raise StoreError(f"no sample {name!r} among the {len(ids)} of this run{hint}")
        if len(matches) > 1:  # their tokens would be indistinguishable
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
