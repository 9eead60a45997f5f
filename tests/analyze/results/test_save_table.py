"""A table comes back from each kind of file with its numbers, texts, units and attributes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.analyze import save_table
from lorascope.analyze.results.save_table import with_units

FRAME = with_units(
    pd.DataFrame({"name": ["a", None], "js": [0.1 + 0.2, np.nan], "n": [1, 2]}), {"js": "nat", "n": "1"}, {"run": "r"}
)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, str], object]:
    """(table, units, the attribute `run`)."""
    if path.suffix == ".csv":
        frame = pd.read_csv(path)
        return frame.rename(columns={"js (nat)": "js"}), {"js": "nat"} if "js (nat)" in frame else {}, "r"
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        return frame, frame.attrs["units"], frame.attrs["run"]
    if path.suffix == ".json":
        whole = json.loads(path.read_text())
        return pd.DataFrame(whole["rows"]), whole["units"], whole["attributes"]["run"]
    options = {} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_dataset(path, **options) as saved:
        units = {str(name): one.attrs["units"] for name, one in saved.items() if "units" in one.attrs}
        return saved.to_dataframe().replace("", None), units, saved.attrs["run"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "nc", "zarr"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    path = save_table(FRAME, tmp_path / f"table.{suffix}")
    frame, units, run = read(path)
    assert (units, run) == ({"js": "nat"}, "r")
    assert frame["js"].tolist()[0] == 0.1 + 0.2
    assert np.isnan(frame["js"].tolist()[1])
    assert frame["n"].tolist() == [1, 2]
    assert frame["name"].isna().tolist() == [False, True]
    with pytest.raises(FileExistsError, match="is there already"):
        save_table(FRAME, path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
