from pathlib import Path

import pytest
import xarray as xr

from lorascope.analyze import measure_run, open_result, save

from ..conftest import Small


@pytest.mark.parametrize("name", ["m.zarr", "m.nc"])
def test_a_dataset_is_the_root_of_what_is_opened(small: Small, tmp_path: Path, name: str) -> None:
    measured = measure_run(small.run, ["js", "delta_ratio"])
    with open_result(save(measured, tmp_path / name)) as found:
        xr.testing.assert_identical(found.to_dataset().load(), measured)
        picked = found["delta_ratio"].sel(sample="item-3").sel(kind="up_proj")
        assert picked.shape == (int((measured["sample"] == "item-3").sum()), 2)
