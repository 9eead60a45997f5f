import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorascope.stores import open_run, widen
from lorascope.stores.format.widen import widen_block


@given(arrays(np.uint16, st.tuples(st.integers(0, 5), st.integers(0, 7))))
def test_bfloat16_is_the_upper_half_of_a_float32(block: np.ndarray) -> None:
    wide = widen_block(block, "bfloat16")
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide.view(np.uint32), block.astype(np.uint32) << 16)


def test_float16_and_float32_keep_their_values() -> None:
    half = np.array([[1.5, -65504.0, np.inf]], np.float16)
    np.testing.assert_array_equal(widen_block(half, "float16"), half.astype(np.float32))
    full = np.ones(3, np.float32)
    assert widen_block(full, "float32") is full


def test_wrong_storage_type_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16 is stored as uint16, not float32"):
        widen_block(np.zeros(2, np.float32), "bfloat16")
    with pytest.raises(ValueError, match="float32 is stored as float32, not uint16"):
        widen_block(np.zeros(2, np.uint16), "float32")
    with pytest.raises(ValueError, match="`dtype_logical` is 'uint16'; allowed are"):
        widen_block(np.zeros(2, np.uint16), "uint16")


@pytest.mark.parametrize("chunks", [{}, None])
def test_plain_tree_becomes_float32_and_stays_lazy(make_run: Any, chunks: Any) -> None:
    run = make_run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(run.path, engine="zarr", chunks=chunks)
    wide = widen(tree)
    opened = open_run(run.path)
    for component in opened.component_paths:
        array = wide[f"states/{component}/base"]
        assert array.dtype == np.float32
        assert array.attrs["dtype_logical"] == "float32"
        assert (chunks is None) == (array.chunks is None)
        np.testing.assert_array_equal(array.values, opened.base(component).values)
    assert wide["samples/id"].values.tolist() == ["a", "ü"]
