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


class ChunkedWeight:
    """A weight that is written once and cut along its first axis; reads like a NumPy array, float32."""

    def __init__(self, array: StoredArray, place: Place) -> None:
        self._array, self._place = array, place
        self.shape, self.dtype, self.ndim = array.shape, np.dtype(np.float32), len(array.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """What NumPy gives for a key of rows and columns, from the chunks between its first and last row."""
        rows, *columns = key
        places, step = np.arange(self.shape[0])[rows], self._array.chunks[0]
        first, last = (places.min() // step, places.max() // step) if places.size else (0, 0)
        chunks = range(int(first), int(last) + 1)
        found = np.concatenate([read_chosen(self._place, self._array, chunk)[0] for chunk in chunks])
        block = found[places - chunks.start * step][..., *columns]
        return widen_block(block, str(self._array.attributes["dtype_logical"]))


def stored_unembedding(arrays: Mapping[str, StoredArray], place: Place) -> xr.Dataset:
    """`weight`, lazy, `norm` and `text` of a run that has them; see `Run.unembedding`."""
    import dask.array as da  # half a second, for which nothing else should wait

    stored = {name: arrays[f"unembedding/{name}"] for name in ("weight", "norm", "text")}
    weight = da.from_array(
        ChunkedWeight(stored["weight"], place),
        chunks=stored["weight"].chunks,
        name=False,
        asarray=False,
        inline_array=True,
        meta=np.empty((0, 0), np.float32),
    )
    values: dict[str, Any] = {name: read_once(stored[name], place) for name in ("norm", "text")}
    values = {"weight": weight, "norm": values["norm"], "text": values["text"].astype(object)}
    variables = {
        name: (stored[name].dims, value, {"long_name": stored[name].attributes["long_name"].removesuffix(BITS_NOTE)})
        for name, value in values.items()
    }
    return xr.Dataset(variables, attrs={"centred": bool(stored["norm"].attributes["centred"])})
