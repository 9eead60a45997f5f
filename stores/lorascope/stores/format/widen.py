"""Stored bits made into float32."""

from typing import Any

import numpy as np
import xarray as xr

from .layout import BITS_NOTE
from .spec import DTYPES


def widen_block(block: np.ndarray, dtype_logical: str) -> np.ndarray:
    """The block in float32, whatever it was stored as; exact for every type of the format."""
    check_storage(block.dtype, dtype_logical)
    if dtype_logical != "bfloat16":
        return block.astype(np.float32, copy=False)
    bits: np.ndarray = np.left_shift(block, 16, dtype="<u4")  # a bfloat16 is the upper half of a float32
    return bits.view("<f4").astype(np.float32, copy=False)


def check_storage(dtype: np.dtype[Any], dtype_logical: str) -> None:
    """Raise unless this is a type of the format, stored as it must be: bits never read as numbers."""
    if dtype_logical not in DTYPES:
        raise ValueError(f"`dtype_logical` is {dtype_logical!r}; allowed are {sorted(DTYPES)}")
    if dtype != DTYPES[dtype_logical][0]:
        raise ValueError(f"{dtype_logical} is stored as {DTYPES[dtype_logical][0]}, not {dtype}")


def widen(tree: xr.DataTree) -> xr.DataTree:
    """Convert the stored states of a tree to float32; arrays that were lazy stay lazy.

    Use it for a run opened with `xarray.open_datatree`: there bfloat16 is stored as uint16, and means or sums of these
    are nonsense.

    Raises
    ------
    ValueError
        If an array isn't stored as the type that it calls itself asks for.
    """
    return tree.map_over_datasets(_widen_dataset)


def _widen_dataset(dataset: xr.Dataset) -> xr.Dataset:
    wide = {name: _widen_array(array) for name, array in dataset.data_vars.items() if "dtype_logical" in array.attrs}
    return dataset.assign(wide)


def _widen_array(array: xr.DataArray) -> xr.DataArray:
    dtype_logical = array.attrs["dtype_logical"]
    kwargs: dict[str, Any] = {"dtype_logical": dtype_logical}
    wide: xr.DataArray = xr.apply_ufunc(
        widen_block, array, kwargs=kwargs, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )
    wide = wide.assign_attrs(dtype_logical="float32", stored_as=dtype_logical)
    if "long_name" in wide.attrs:
        wide.attrs["long_name"] = str(wide.attrs["long_name"]).removesuffix(BITS_NOTE)
    return wide
