import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from blake3 import blake3

from lorascope.stores import open_run, pull, resume_run, verify
from lorascope.stores.format.spec import FORMAT_VERSION
from lorascope.stores.reading.chunks import read_chunk_columns

from .on_disk import edit_root

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = (1, 2, 3)


def golden(version: int) -> tuple[Path, Any]:
    """A store of a version, and what is in it."""
    return GOLDEN / f"v{version}.zarr", json.loads((GOLDEN / f"v{version}.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_store_of_every_version_stays_readable(version: int) -> None:
    store, expected = golden(version)
    run = open_run(store)
    assert run.format_version == version
    assert run.component_paths == ("layers.0.fc", "layers.1.fc")
    for component in run.component_paths:
        np.testing.assert_array_equal(run.base(component).values, np.float32(expected["base"][component]))
        np.testing.assert_allclose(run.delta(component).values, expected["delta"][component], rtol=1e-6)
    for table, columns in expected["tables"].items():
        for column, values in columns.items():
            assert getattr(run, table)[column].values.tolist() == values
    np.testing.assert_array_equal(run.tokens["nll"].values, np.float32([0.5, 1.5, np.nan, 2.0]))
    np.testing.assert_array_equal(run.js().values[3], np.float32([0.0625, 0.5]))


@pytest.mark.parametrize("version", VERSIONS)
def test_it_verifies_and_its_digests_are_pinned(version: int) -> None:
    store, expected = golden(version)
    assert verify(store).ok
    run = open_run(store)
    assert bytes(run.digest(0)).hex() == expected["digest"]
    assert run.attributes["static_digest"] == expected["static_digest"]


@pytest.mark.parametrize(("version", "of_chunk"), [(1, hashlib.sha256), (2, blake3), (3, blake3)])
def test_digest_is_what_the_specification_says(version: int, of_chunk: Any) -> None:
    """Written from docs/store-format.md alone."""
    store, expected = golden(version)
    keys = sorted(
        str(file.relative_to(store).as_posix())
        for file in store.rglob("c.0*")
        if json.loads((file.parent / "zarr.json").read_text())["attributes"]["written"] == "by row"
    )
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + b"\n" + of_chunk((store / key).read_bytes()).digest() + b"\n")
    assert digest.hexdigest() == expected["digest"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("component", ["layers.0.fc", "layers.1.fc"])
def test_plain_xarray_reads_the_same_bits(component: str, version: int) -> None:
    store, expected = golden(version)
    array = xr.open_datatree(store, engine="zarr", chunks={})[f"states/{component}/base"]
    values = array.values
    if array.attrs["dtype_logical"] == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, np.float32(expected["base"][component]))


def test_digests_of_version_3_are_what_the_specification_says() -> None:
    """Written from docs/store-format.md alone: one object, which the root has a digest of."""
    store, expected = golden(3)
    digests = {0: bytes.fromhex(expected["digest"])}
    whole = hashlib.sha256(b"".join(b"%012d\n" % row + digest + b"\n" for row, digest in digests.items())).hexdigest()
    assert json.loads((store / "zarr.json").read_text())["attributes"]["rows_digest"] == whole
    assert [file.name for file in store.glob("rows/*/c.*")] == ["c.0.0"]
    tree = xr.open_datatree(store, engine="zarr", chunks={})
    assert bytes(tree["rows/digest"].values[0]) == digests[0]


def test_group_of_a_later_writer_is_passed_by(tmp_path: Path) -> None:
    store, _ = golden(3)
    assert open_run(store).attributes["optional_groups"] == ["later"]
    copy = pull(store, tmp_path / "copy.zarr")
    assert copy.attributes["provenance"]["copied"][-1]["omitted"] == ["later"]
    assert not (tmp_path / "copy.zarr/later").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_interrupted_run_of_an_older_version_goes_on_as_one(tmp_path: Path, version: int) -> None:
    """Its row is taken away and written again: the same bytes, under the same digest."""
    store, expected = golden(version)
    run = open_run(store)
    path = Path(shutil.copytree(store, tmp_path / "run.zarr"))
    blocks = {
        name: read_chunk_columns(run.place, run.arrays[name], 0)[0][: run.n_tokens].copy() for name in run.row_paths(0)
    }
    (path / "rows/digest/c.0.0").unlink()
    for name in run.row_paths(0):
        (path / run.arrays[name].key(0)).unlink()
    edit_root(path, finished=False)
    with resume_run(path) as writer:
        writer.write_row(0, blocks)
        writer.finish({})
    assert open_run(path).format_version == version
    assert bytes(open_run(path).digest(0)).hex() == expected["digest"]
    assert verify(path).ok
    for name in run.row_paths(0):
        key = run.arrays[name].key(0)
        assert (path / key).read_bytes() == (store / key).read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_copy_of_an_older_version_is_of_today(tmp_path: Path, version: int) -> None:
    source = open_run(golden(version)[0])
    copy = pull(source.path, tmp_path / "copy.zarr")
    assert copy.format_version == FORMAT_VERSION
    assert verify(copy.path).ok
    for component in source.component_paths:
        np.testing.assert_array_equal(copy.base(component).values, source.base(component).values)


def test_routing_of_experts_stays_readable() -> None:
    store = GOLDEN / "v3-experts.zarr"
    expected = json.loads((GOLDEN / "v3-experts.json").read_text())
    run, tree = open_run(store), xr.open_datatree(store, engine="zarr", chunks={})
    assert run.attributes["optional_groups"] == ["experts"]
    assert verify(store).ok
    assert bytes(run.digest(0)).hex() == expected["digest"]
    assert run.attributes["static_digest"] == expected["static_digest"]
    read: dict[str, Any] = {}
    for component in run.component_paths:
        for name, array in run.experts(component).items():
            block = component.rsplit(".", 2)[0]
            read[f"experts/{block if name.endswith(('expert', 'weight')) else component}/{name}"] = array.values
    assert read.keys() == expected["experts"].keys()
    for path, values in expected["experts"].items():
        np.testing.assert_array_equal(read[path], np.array(values, read[path].dtype))
        np.testing.assert_array_equal(tree[path].values, read[path])
    attributes = [run.experts(component).attrs for component in run.component_paths]
    assert attributes == [{"n_experts": 6, "applied_to": "output"}, {"n_experts": 6, "applied_to": "input"}]
