"""A result comes back from each kind of file with its numbers, texts, units and attributes."""

import enum
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze import measure_run, open_result, save, save_table
from lorascope.analyze.results.save import data_hash, json_value, result_provenance, to_json, with_units

from ..conftest import Small


@pytest.mark.parametrize("name", ["m.zarr", "m.nc"])
def test_a_dataset_is_the_root_of_what_is_opened(small: Small, tmp_path: Path, name: str) -> None:
    measured = measure_run(small.run, ["js", "delta_ratio"])
    with open_result(save(measured, tmp_path / name)) as found:
        loaded = found.to_dataset().load()
        for key in {"digest", "chunks_digest"} & loaded.attrs.keys():
            del loaded.attrs[key]
        xr.testing.assert_identical(loaded, measured)
        picked = found["delta_ratio"].sel(sample="item-3").sel(kind="up_proj")
        assert picked.shape == (int((measured["sample"] == "item-3").sum()), 2)


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


TABLE = pd.DataFrame({"dataset": ["a", "b"], "loss": [0.1, 1 / 3]})


class Pair(NamedTuple):
    left: float
    right: Any


@dataclass(frozen=True)
class Fit:
    slope: float
    pairs: tuple[Pair, ...] = ()


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1, 0.1),
        ("text", "text"),
        (math.nan, None),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float64(0.1), 0.1),
        (np.float64("nan"), None),
        (np.float32("-inf"), "-inf"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), [[1.0, None], ["inf", 2.0]]),
        ([1, (2, [3.0])], [1, [2, [3.0]]]),
        pytest.param({"b", "a", "c"}, ["a", "b", "c"], id="set"),
        (range(3), [0, 1, 2]),
        ({"a": {1: math.nan}}, {"a": {"1": None}}),
        (OrderedDict(x=np.int8(1)), {"x": 1}),
        (Pair(1.0, math.inf), {"left": 1.0, "right": "inf"}),
        (Fit(2.0, (Pair(1.0, None),)), {"slope": 2.0, "pairs": [{"left": 1.0, "right": None}]}),
        (pd.DataFrame({"a": [1, 2], "b": [np.nan, 0.5]}), [{"a": 1, "b": None}, {"a": 2, "b": 0.5}]),
        (pd.Series([1.0, np.nan], index=["x", 2]), {"x": 1.0, "2": None}),
        (pd.Index([1, 2]), [1, 2]),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2025-01-06"), "2025-01-06 00:00:00"),
        (PurePosixPath("a/b"), "a/b"),
        (Colour.RED, "Colour.RED"),
    ],
    ids=repr,
)
def test_plain_values(value: Any, expected: Any) -> None:
    found = json_value(value)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=9))
def test_whatever_json_has_comes_back(value: Any) -> None:
    assert json_value(json_value(value)) == json_value(value)
    assert json.loads(to_json(value)) == json_value(value)


def test_json_is_indented_and_keeps_every_digit() -> None:
    assert to_json({"a": 1 / 3, "b": "ü"}) == '{\n  "a": 0.3333333333333333,\n  "b": "ü"\n}\n'


def test_hash_of_a_table_is_pinned() -> None:
    assert data_hash(TABLE) == "e2eb58412ea7d378add3a6934fed9c132af437fc01dd7dd6b0dbed79d41b3123"


def test_hash_does_not_see_the_index() -> None:
    named = TABLE.set_axis(["x", "y"])
    named.index.name = "row"
    named.attrs["source"] = "elsewhere"
    assert data_hash(named) == data_hash(TABLE)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5), st.data())
def test_hash_differs_with_any_value(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    changed = values.copy()
    changed[place] = data.draw(st.floats(allow_nan=False).filter(lambda one: one != values[place]))
    first, second = (data_hash(pd.DataFrame({"x": one})) for one in (values, changed))
    assert first != second
    for other in (TABLE.rename(columns={"loss": "CE"}), TABLE.iloc[::-1], TABLE.assign(dataset=["a,0.1", "b"])):
        assert data_hash(other) != data_hash(TABLE)


def test_provenance_names_versions_rows_and_settings() -> None:
    found = result_provenance(TABLE, {"delta": np.float64(0.1), "blocks": ("a", "b")})
    assert found["data_sha256"] == data_hash(TABLE)
    assert found["n_rows"] == 2
    assert found["settings"] == {"delta": 0.1, "blocks": ["a", "b"]}
    assert set(found["versions"]) == {"lorascope", "numpy", "scipy", "pandas"}
    assert found["versions"]["numpy"] == version("numpy")
    assert json.loads(to_json(found)) == found
