from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import group_by, measure_run, miub, open_result, qualify, save
from lorascope.stores.format.tables import ROLES

from .conftest import Small


def as_of_old(result: xr.DataTree) -> xr.Dataset:
    """A result as earlier versions had it: one dataset, roles by number, neither ids nor text of tokens."""
    tokens, samples = result["tokens"].to_dataset(), result["samples"].to_dataset()
    roles = np.array([ROLES.index(name) for name in tokens["role"].values], np.int8)
    js = tokens["js"].drop_vars(["sample", "role", "text"]).drop_indexes(["kind", "layer", "rank", "position"])
    flat = js.to_dataset().assign_coords(role=("token", roles)).drop_vars("rank")
    flat = flat.assign_coords(rank=("component", tokens["rank"].values))
    flat = flat.assign(js_sample=samples["js"].drop_vars(["kind", "layer", "rank"]), miub_sample=samples["miub"])
    flat = flat.assign({name: result[name] for name in ("miub", "miub_se")})
    attrs = {key: value for key, value in result.attrs.items() if key not in ("over_tokens", "unit")}
    return flat.assign_attrs(attrs)


@pytest.mark.parametrize("name", ["old.zarr", "old.nc"])
def test_results_of_earlier_versions_are_trees_too(make_small: Callable[..., Small], tmp_path: Path, name: str) -> None:
    run = make_small(is_weighted=True).run
    result, null = miub(run, unit="bit"), qualify(run)["js_permuted"]
    old: Any = as_of_old(result).assign(js_permuted=null.variable)  # what `qualify` gave
    if name.endswith("zarr"):
        old.to_zarr(tmp_path / name, zarr_format=3, consolidated=False)
    else:
        old.to_netcdf(tmp_path / name)
    found = open_result(tmp_path / name)
    for path in ("miub", "js", "js_se", "share", "tokens/js", "tokens/miub", "samples/js", "samples/miub"):
        np.testing.assert_array_equal(found[path], result[path])
    np.testing.assert_array_equal(found["js_permuted"], null)
    assert (found.attrs["unit"], found.attrs["over_tokens"]) == ("bit", "mean")
    assert found["tokens/js"].sel(sample="item-3").sel(role="answer").sizes == {"token": 2, "component": 6}
    xr.testing.assert_allclose(group_by(found, ["role", "kind"]), group_by(result, ["role", "kind"]))


@pytest.mark.parametrize("name", ["m.zarr", "m.nc"])
def test_a_dataset_is_the_root_of_what_is_opened(small: Small, tmp_path: Path, name: str) -> None:
    measured = measure_run(small.run, ["js", "delta_ratio"])
    with open_result(save(measured, tmp_path / name)) as found:
        xr.testing.assert_identical(found.to_dataset().load(), measured)
        picked = found["delta_ratio"].sel(sample="item-3").sel(kind="up_proj")
        assert picked.shape == (int((measured["sample"] == "item-3").sum()), 2)
