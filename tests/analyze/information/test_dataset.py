from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import js_upper_bound, measure_information
from lorascope.analyze.information.dataset import information_dataset, is_singular
from lorascope.analyze.information.evidence import FIELDS, MEANINGS, VERDICTS
from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.plan import Unit
from lorascope.stores import open_run

from ...stored import store_states

NAMES = ("ksg1", "panel", "gaussian")


def dataset(records: np.ndarray, *, unit: Unit = "nat", dims: Sequence[str] = ()) -> xr.Dataset:
    return information_dataset(records, NAMES, Settings(k=5), unit=unit, n_shuffles=3, dims=dims)


def some_records(*shape: int) -> np.ndarray:
    records = np.random.default_rng(0).normal(size=(*shape, len(NAMES), len(FIELDS)))
    records[..., FIELDS.index("verdict")] = np.arange(len(NAMES))
    return records


def test_fields_are_variables_over_estimators() -> None:
    records = some_records()
    result = dataset(records, unit="nat")
    assert tuple(result.data_vars) == FIELDS
    assert result.sizes == {"estimator": 3}
    assert result["estimator"].values.tolist() == list(NAMES)
    for place, field in enumerate(FIELDS[:-1]):
        np.testing.assert_array_equal(result[field], records[:, place])
    assert result["verdict"].values.tolist() == list(VERDICTS[:3])


def test_every_number_has_its_unit_and_its_meaning() -> None:
    results = {unit: dataset(some_records(), unit=unit) for unit in ("nat", "bit")}
    for unit, result in results.items():
        for field in FIELDS:
            expected = None if field == "verdict" else "1" if field == "p" else unit
            assert (result[field].attrs["long_name"], result[field].attrs.get("units")) == (MEANINGS[field], expected)
    for field in FIELDS[:-1]:
        scale = 1.0 if field == "p" else np.log(2)
        np.testing.assert_allclose(results["bit"][field] * scale, results["nat"][field], rtol=1e-15)
    assert results["bit"]["verdict"].equals(results["nat"]["verdict"])


def test_where_nothing_was_estimated_there_is_no_verdict() -> None:
    records = some_records(2)
    records[1] = np.nan
    result = dataset(records, unit="nat", dims=("component",))
    assert result["verdict"].values[1].tolist() == ["", "", ""]
    assert result["value"][1].isnull().all()


@pytest.mark.parametrize(
    ("d_in", "d_out", "rank", "lora", "delta"),
    [
        (576, 576, 8, True, True),  # q_proj: base is all of x, and delta a function of it
        (576, 192, 8, True, False),  # k_proj: 384 directions of x that base doesn't see
        (576, 1536, 8, True, True),  # up_proj: base is more than all of x
        (1536, 576, 8, True, False),  # down_proj
        (200, 192, 8, True, False),  # as many directions as both sides need
        (199, 192, 8, True, True),  # one less
        (1536, 16, 16, False, False),  # a change of every direction
        (1536, 16, 15, True, False),
        (8, 4, 64, False, False),  # a rank beyond the width counts as the width
        (7, 4, 64, True, True),
    ],
)
def test_singular_counts_directions(d_in: int, d_out: int, rank: int, lora: bool, delta: bool) -> None:
    sizes = [np.array([n]) for n in (d_in, d_out, rank)]
    is_factor = np.array([True])
    assert is_singular(*sizes, "lora", is_factor=is_factor).tolist() == [lora]
    assert is_singular(*sizes, "delta", is_factor=is_factor).tolist() == [delta]
    # The same from ranks of matrices, of random weights: what both sides see of x together, and each alone.
    if d_in * d_out > 10**5:
        return
    rng = np.random.default_rng(0)
    W, A, B = (rng.normal(size=shape) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
    for other, expected in ((W + B @ A, lora), (B @ A, delta)):
        together = np.linalg.matrix_rank(np.concatenate([W, other]))
        assert (together < np.linalg.matrix_rank(W) + np.linalg.matrix_rank(other)) == expected


@pytest.mark.parametrize(
    ("d_in", "d_out", "rank", "singular"),
    [(576, 192, 8, True), (1536, 576, 8, True), (60, 20, 8, True), (8, 4, 4, False)],
)
def test_a_change_of_no_factor_has_the_rank_of_the_width(d_in: int, d_out: int, rank: int, singular: bool) -> None:
    sizes = [np.array([n]) for n in (d_in, d_out, rank)]
    assert is_singular(*sizes, "delta", is_factor=np.array([False])).tolist() == [singular]
    # DoRA: each row of W + BA has a scale of its own, so that the change has W's directions beside A's.
    rng = np.random.default_rng(0)
    W, A, B = (rng.normal(size=shape) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
    change = rng.uniform(0.5, 1, (d_out, 1)) * (W + B @ A) - W
    together, *alone = map(np.linalg.matrix_rank, (np.concatenate([W, change]), W, change))
    assert (together < sum(alone)) == singular


@pytest.mark.parametrize("source", ["branch", "factor"])
def test_where_delta_comes_from_says_its_rank(tmp_path: Path, make_small: Any, source: str) -> None:
    """Ranks 4, 2, 3 and 4; down_proj writes into fewer directions than it reads."""
    run = make_small(factored=source == "factor").run
    result = measure_information(run, against="delta", estimator="gaussian", n_shuffles=0, n_axes=2)
    table = run.adapter()
    at = [run.component_paths.index(path) for path in result["component"].values]
    assert set(table["delta_source"].values[at]) == {source}
    sizes = (result[name].values for name in ("d_in", "d_out", "rank"))
    expected = is_singular(*sizes, "delta", is_factor=np.full(len(at), source == "factor"))
    assert result["singular"].values.tolist() == expected.tolist()


def test_columns_and_their_words(many_rows: Path) -> None:
    run = open_run(many_rows)
    result = measure_information(run, estimator=("classifier", "gaussian"), n_tokens=200, n_shuffles=1, n_axes=2)
    assert result.sizes == {"component": 4, "estimator": 2}
    assert result["component"].values.tolist() == list(run.component_paths)
    assert result["rank"].values.tolist() == [4, 2, 3, 4]
    assert result["d_out"].values.tolist() == [40, 24, 64, 32]
    assert result["singular"].values.tolist() == [True] * 4
    for name in result.data_vars:
        assert result[name].attrs.get("long_name") or name == "verdict", name
    for name in ("js", "js_delta_alone", "js_joint"):
        assert result[name].attrs["units"] == "nat"
    certified = result["value"].sel(estimator="classifier").values
    np.testing.assert_allclose(result["js_joint"].values, js_upper_bound(np.maximum(certified, 0)))
    attrs = result.attrs
    assert (attrs["stream"], attrs["adapter"], attrs["against"]) == ("adapted", "default", "lora")
    assert (attrs["n_tokens_chosen"], attrs["n_samples_chosen"], attrs["n_axes"]) == (200, 5, 2)
    assert attrs["run_fingerprint"] == run.attributes["fingerprint"]
    assert (attrs["units"], attrs["p_floor"], attrs["k"]) == ("nat", 0.5, 3)


def test_a_component_without_values_has_no_js_joint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 200, 4))
    states = {"m.a": (base, delta), "m.b": (base, np.zeros_like(delta))}
    run = store_states(tmp_path / "run.zarr", states, lengths=[10] * 20)
    result = measure_information(run, estimator="classifier", against="delta", n_shuffles=0)
    assert np.isfinite(result["js_joint"].values).tolist() == [True, False]
    assert np.isnan(result["js"].values).tolist() == [False, True]
    assert result["verdict"].values[1].tolist() == [""]
