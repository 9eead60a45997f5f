import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.stores import open_run, verify

GOLDEN = Path(__file__).parent / "golden"
STORE = GOLDEN / "v1.zarr"
EXPECTED = json.loads((GOLDEN / "v1.json").read_text())


def test_store_of_version_1_stays_readable() -> None:
    run = open_run(STORE)
    assert run.component_paths == ("layers.0.fc", "layers.1.fc")
    for component in run.component_paths:
        np.testing.assert_array_equal(run.base(component).values, np.float32(EXPECTED["base"][component]))
        np.testing.assert_allclose(run.delta(component).values, EXPECTED["delta"][component], rtol=1e-6)
    for table, columns in EXPECTED["tables"].items():
        for column, values in columns.items():
            assert getattr(run, table)[column].values.tolist() == values
    np.testing.assert_array_equal(run.tokens["nll"].values, np.float32([0.5, 1.5, np.nan, 2.0]))
    np.testing.assert_array_equal(run.js().values[3], np.float32([0.0625, 0.5]))


def test_it_verifies_and_its_digests_are_pinned() -> None:
    assert verify(STORE).ok
    run = open_run(STORE)
    assert bytes(run.digest(0)).hex() == EXPECTED["digest"]
    assert run.attributes["static_digest"] == EXPECTED["static_digest"]


def test_digest_is_what_the_specification_says() -> None:
    """Written from docs/store-format.md alone."""
    keys = sorted(
        str(file.relative_to(STORE).as_posix())
        for file in STORE.rglob("c.0*")
        if json.loads((file.parent / "zarr.json").read_text())["attributes"]["written"] == "by row"
    )
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + b"\n" + hashlib.sha256((STORE / key).read_bytes()).digest() + b"\n")
    assert digest.hexdigest() == EXPECTED["digest"]


@pytest.mark.parametrize("component", ["layers.0.fc", "layers.1.fc"])
def test_plain_xarray_reads_the_same_bits(component: str) -> None:
    array = xr.open_datatree(STORE, engine="zarr", chunks={})[f"states/{component}/base"]
    values = array.values
    if array.attrs["dtype_logical"] == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, np.float32(EXPECTED["base"][component]))
