"""The unembedding that a run keeps: weight, norm and texts as one dataset, the weight a chunk at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ..format.layout import BITS_NOTE
from ..format.stored_array import StoredArray
from ..format.widen import widen_block
from ..places.place import Place
from .chunks import read_chosen
from .rows import read_once


def stored_unembedding(arrays: Mapping[str, StoredArray], place: Place) -> xr.Dataset:
    """`weight`, lazy, `norm` and `text` of a run that has them; see `Run.unembedding`."""
    import dask.array as da  # half a second, for which nothing else should wait
    from dask.array.core import normalize_chunks

    stored = {name: arrays[f"unembedding/{name}"] for name in ("weight", "norm", "text")}
    weights = stored["weight"]

    def read(block_id: tuple[int, int]) -> np.ndarray:
        n = chunks[0][block_id[0]]  # what the last chunk holds beyond is fill
        return widen_block(read_chosen(place, weights, block_id[0])[0][:n], str(weights.attributes["dtype_logical"]))

    chunks = normalize_chunks(weights.chunks, weights.shape)
    weight = da.map_blocks(read, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    values: dict[str, Any] = {name: read_once(stored[name], place) for name in ("norm", "text")}
    values = {"weight": weight, "norm": values["norm"], "text": values["text"].astype(object)}
    variables = {
        name: (stored[name].dims, value, {"long_name": _meaning(stored[name])}) for name, value in values.items()
    }
    return xr.Dataset(variables, attrs={"centred": bool(stored["norm"].attributes["centred"])})


def _meaning(array: StoredArray) -> str:
    return str(array.attributes.get("long_name", "")).removesuffix(BITS_NOTE)
