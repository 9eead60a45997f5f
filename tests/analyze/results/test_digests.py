"""A saved result that isn't what was written is found: by `verify_result`, when it is opened, or when it is read."""

import errno
import json
import mmap
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import measure_run, miub, open_result, save, verify_result
from lorascope.analyze.results.options import is_result
from lorascope.stores import Run, StoreError, open_run

NAMES = ("result.zarr", "result.nc")


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


@pytest.fixture(scope="module")
def saved(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, result = tmp_path_factory.mktemp("saved"), miub(run)
    return {name: save(result, folder / name) for name in NAMES}


@pytest.fixture
def result(saved: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a saved result, to be damaged."""
    path = saved[request.param]
    return Path((shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name))


both = pytest.mark.parametrize("result", NAMES, indirect=True)
as_zarr = pytest.mark.parametrize("result", NAMES[:1], indirect=True)


def outcome(result: Path) -> str:
    """What comes of opening a result and reading it whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with open_result(result) as tree:
                tree.load()
        except Exception as error:
            return type(error).__name__
    return "read"


@both
def test_a_bit_flipped_anywhere_in_a_result_is_found(result: Path) -> None:
    files = [file for file in sorted(result.rglob("*")) if file.is_file()] or [result]
    assert (verify_result(result), outcome(result)) == ((), "read")
    chance = random.Random(0)
    for _ in range(60):
        file = chance.choice(files)
        before = file.read_bytes()
        place, bit = chance.randrange(len(before)), chance.randrange(8)
        file.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
        try:
            found = bool(verify_result(result))
        except ValueError:  # an error of reading, such as StoreError
            found = True
        assert found, (file, place, bit)
        assert outcome(result) != "read", (file, place, bit)
        file.write_bytes(before)
    assert (verify_result(result), outcome(result)) == ((), "read")


@both
@pytest.mark.parametrize("other", NAMES)
def test_what_xarray_saved_again_opens_with_a_warning(result: Path, tmp_path: Path, other: str) -> None:
    changed = tmp_path / f"changed-{other}"
    with open_result(result) as tree:
        tree["samples/js"] = tree["samples/js"] * 2
        saved = xr.DataTree.from_dict({"/": tree.to_dataset(), "samples": tree["samples"].to_dataset()})
        saved.to_zarr(changed, zarr_format=3, consolidated=False) if other == NAMES[0] else saved.to_netcdf(changed)
    with pytest.warns(UserWarning, match=f"`{changed}` isn't what was written: it was damaged, or changed and saved"):
        open_result(changed).close()
    assert verify_result(changed)


@both
def test_what_save_saved_again_is_what_was_written(result: Path, tmp_path: Path) -> None:
    for name in NAMES:
        with open_result(result) as tree:
            tree.attrs["note"] = "mine"
            again = save(tree, tmp_path / f"again-{name}")
        assert not verify_result(again)
        with open_result(again) as tree:
            assert tree.attrs["note"] == "mine"
            assert ("chunks_digest" in tree.attrs) == (name == NAMES[0])


@as_zarr
def test_of_a_zarr_result_a_chunk_is_checked_when_it_is_read(result: Path) -> None:
    chunk = next((result / "tokens/js/c").rglob("0"))
    while chunk.is_dir():
        chunk /= "0"
    before = chunk.read_bytes()
    chunk.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    with open_result(result) as tree, pytest.raises(ValueError, match="checksum"):
        tree["tokens/js"].load()
    assert [problem.place for problem in verify_result(result)] == ["chunks"]
    chunk.unlink()  # Zarr would read it as NaN
    with pytest.warns(UserWarning, match="isn't what was written"):
        open_result(result).close()


def test_exchanged_chunks_are_found_although_their_checksums_are_right(tmp_path: Path) -> None:
    path = save(
        xr.Dataset({name: ("x", np.full(1000, number)) for number, name in enumerate("ab", 1)}), tmp_path / "r.zarr"
    )
    first, second = (path / f"{name}/c/0" for name in "ab")
    contents = first.read_bytes(), second.read_bytes()
    assert len(contents[0]) == len(contents[1])
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert [problem.message for problem in verify_result(path)] == [
        "chunks aren't what was written: their digest differs"
    ]


@as_zarr
def test_files_of_the_operating_system_change_no_digest(result: Path) -> None:
    (result / "tokens/js/.DS_Store").write_bytes(b"icons")
    assert (verify_result(result), outcome(result)) == ((), "read")


def without(result: Path, *names: str) -> None:
    """Delete root attributes of a result."""
    if result.suffix == ".nc":
        tree = xr.load_datatree(result, engine="netcdf4")
        for name in names:
            del tree.attrs[name]
        result.unlink()
        tree.to_netcdf(result, engine="netcdf4")  # a new file: HDF5 keeps the bytes of what is deleted
        return
    document = json.loads((result / "zarr.json").read_text())
    for name in names:
        del document["attributes"][name]
    (result / "zarr.json").write_text(json.dumps(document))


@both
def test_of_older_results_is_said_what_can_not_be_found(result: Path) -> None:
    if result.suffix == ".zarr":  # those had no checksums either
        with open_result(result) as tree:
            nodes = {node.path: node.to_dataset(inherit=False).load().drop_encoding() for node in tree.subtree}
        shutil.rmtree(result)
        xr.DataTree.from_dict(nodes).to_zarr(result, zarr_format=3, consolidated=False)
    without(result, "digest", *(["chunks_digest"] if result.suffix == ".zarr" else []))
    with pytest.raises(StoreError, match="was saved before results had digests; whether it was changed since can't be"):
        verify_result(result)
    assert outcome(result) == "read"
    assert is_result(str(result))


@as_zarr
@pytest.mark.parametrize("name", ["digest", "chunks_digest"])
def test_a_result_that_lost_one_digest_is_no_older_one(result: Path, name: str) -> None:
    without(result, name)
    assert verify_result(result)
    assert outcome(result) == "UserWarning"


@as_zarr
def test_what_xarray_appended_to_opens_with_a_warning(result: Path) -> None:
    xr.Dataset({"mine": ("x", [1.0])}).to_zarr(result, mode="a", consolidated=False)  # drops the root's attributes
    assert "digest" not in json.loads((result / "zarr.json").read_text())["attributes"]
    assert verify_result(result)
    assert outcome(result) == "UserWarning"


@as_zarr
def test_empty_node_is_found(result: Path) -> None:
    (result / "tokens/js/zarr.json").write_bytes(b"")
    assert [problem.place for problem in verify_result(result)] == ["metadata or sizes of files"]
    assert outcome(result) == "UserWarning"


@pytest.mark.parametrize("name", NAMES)
def test_results_are_saved_where_no_file_can_be_written_through_a_map(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def mapped(*given: int, access: int = mmap.ACCESS_DEFAULT, original: Any = mmap.mmap) -> mmap.mmap:
        if access != mmap.ACCESS_READ:
            raise OSError(errno.ENODEV, "No such device")
        return original(*given, access=access)

    monkeypatch.setattr("mmap.mmap", mapped)
    assert not verify_result(save(miub(run), tmp_path / name))


def test_what_is_no_result(run: Run, tmp_path: Path) -> None:
    assert not is_result(str(run.path))
    assert not is_result(str(tmp_path))
    (tmp_path / "x.nc").write_bytes(b"")
    with pytest.raises(StoreError, match=r"x.nc` isn't readable NetCDF \(.*\); compute it again"):
        verify_result(tmp_path / "x.nc")
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr/zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="x.zarr` isn't a result: its 'zarr.json' has no attributes"):
        verify_result(tmp_path / "x.zarr")
    for name in NAMES:
        with pytest.raises(FileNotFoundError, match=name):
            verify_result(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=name):
            open_result(tmp_path / name)


@both
def test_a_result_says_which_rows_of_which_run_it_is_of(result: Path, run: Run, unfinished: Path) -> None:
    attrs = miub(run).attrs
    with open_result(result) as tree:
        assert [tree.attrs[name] for name in ("run_fingerprint", "run_rows")] == [
            attrs[name] for name in ("run_fingerprint", "run_rows")
        ]
    other = miub(open_run(unfinished)).attrs  # the same capture with fewer rows
    assert other["run_fingerprint"] == attrs["run_fingerprint"]
    assert other["run_rows"] != attrs["run_rows"]


def test_every_array_has_checksums(run: Run, tmp_path: Path) -> None:
    measured = measure_run(run, ["js"])
    path = save(measured, tmp_path / "m.zarr")
    arrays = [json.loads(file.read_text()) for file in path.rglob("zarr.json")]
    codecs = [[codec["name"] for codec in array["codecs"]] for array in arrays if array["node_type"] == "array"]
    assert all(names[-1] == "crc32c" for names in codecs)
    assert codecs
    with netCDF4.Dataset(save(measured, tmp_path / "m.nc")) as dataset:
        assert all(array.filters()["fletcher32"] for array in dataset.variables.values() if array.ndim)
