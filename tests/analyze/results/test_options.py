"""Names under which nothing can be saved, whatever is to be saved there."""

import os
import re
from pathlib import Path

import pytest

from lorascope.analyze.results.options import PAIR_FORMATS, RESULT_FORMATS, TABLE_FORMATS, refuse_target


@pytest.mark.parametrize(
    ("name", "formats", "error", "words"),
    [
        ("r.csv", RESULT_FORMATS, ValueError, "`out` is 'r.csv'; its name must end in .zarr (Zarr) or .nc (NetCDF)"),
        (
            "t.xlsx",
            TABLE_FORMATS,
            ValueError,
            "must end in .csv (CSV), .parquet (Parquet), .json (JSON), .zarr (Zarr)",
        ),
        ("p.npy", PAIR_FORMATS, ValueError, "its name must end in .npz (NumPy)"),
        ("s3://bucket/r.zarr", RESULT_FORMATS, ValueError, "a result goes to a folder of this machine"),
        ("taken.nc", RESULT_FORMATS, FileExistsError, "`taken.nc` is there already; name another, or delete it first"),
        ("store/r.zarr", RESULT_FORMATS, ValueError, "inside the store"),
        ("taken.nc/r.zarr", RESULT_FORMATS, PermissionError, "is a file; name another place"),
        ("locked/r.zarr", RESULT_FORMATS, PermissionError, "can't be written to; name another place"),
    ],
)
def test_names_that_no_result_can_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    formats: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.nc").touch()
    for folder in ("store", "locked"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store" / "zarr.json").touch()
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    with pytest.raises(error, match=re.escape(words)):
        refuse_target(Path(name), formats)


def test_a_name_that_can_be_had_comes_back(tmp_path: Path) -> None:
    assert refuse_target(tmp_path / "new" / "r.zarr") == tmp_path / "new" / "r.zarr"
