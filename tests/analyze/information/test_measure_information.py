import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import export_pairs, js_upper_bound, measure_information, mutual_information
from lorascope.analyze.information import components as pairs_module
from lorascope.analyze.information.components import ComponentPairs
from lorascope.analyze.information.evidence import FIELDS, MEANINGS, VERDICTS
from lorascope.analyze.information.measure_information import _write_pairs, shares_directions
from lorascope.analyze.information.mutual_information import information_dataset
from lorascope.analyze.information.pairs import Pairs, Settings, Unit
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_states

MODULE = sys.modules["lorascope.analyze.information.measure_information"]  # whose name is also that of its function
SOME_ROWS: dict[str, Any] = {"states": "sample", "state_rows": (False, True), "n_tokens": 120}
FEW: dict[str, Any] = {"n_tokens": 300, "n_shuffles": 2, "n_axes": 3, "seed": 3}


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def known_run(path: Path, rho: float, *, n_samples: int = 150, length: int = 8) -> Run:
    """One component of two features, base and lora normal with correlations rho: I = -ln(1 - rho^2) nats."""
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=(2, n_samples * length, 2))
    lora = rho * base + np.sqrt(1 - rho**2) * noise
    return store_states(path, {"model.layers.0.mlp.up_proj": (base, lora - base)}, lengths=[length] * n_samples)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_known_value_is_found(tmp_path: Path, rho: float) -> None:
    truth = -np.log(1 - rho**2)
    result = measure_information(known_run(tmp_path / "run.zarr", rho), share=1.0, n_shuffles=9).isel(component=0)
    panel = result.sel(estimator="panel")
    assert float(panel["value"]) == pytest.approx(truth, abs=0.06)
    assert float(panel["low"]) - 0.03 < truth < float(panel["high"]) + 0.03
    # Four coordinates and 1,200 tokens: their intervals are too wide for `ok`, except for a large value.
    assert str(panel["verdict"].values) in ("undersampled", "lower bound only")
    assert (float(panel["p"]) > 0.1) == (rho == 0)
    assert (int(result["n_tokens"]), int(result["n_samples"])) == (1200, 150)
    np.testing.assert_allclose([float(result["share_x"]), float(result["share_y"])], 1)


EXPORTS: dict[str, dict[str, Any]] = {"pca": {}, "delta": {"against": "delta", "share": 0.5}}


@pytest.fixture(scope="module")
def short_samples(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two components and many samples."""
    rng = np.random.default_rng(0)
    states = {
        f"m.{name}": (base, delta) for name, base, delta in zip("ab", *rng.normal(size=(2, 2, 400, 8)), strict=True)
    }
    return store_states(tmp_path_factory.mktemp("short") / "run.zarr", states, lengths=[10] * 40)


@pytest.mark.parametrize("name", EXPORTS)
def test_exported_pairs_are_what_estimates_are_made_of(short_samples: Run, tmp_path: Path, name: str) -> None:
    run = short_samples
    options = {key: value for key, value in (FEW | EXPORTS[name]).items() if key != "n_shuffles"}
    calls: list[tuple[int, int]] = []
    left_out = export_pairs(run, tmp_path / "p.npz", progress=lambda *call: calls.append(call), **options)
    assert left_out == {}
    assert calls == [(1, 2), (2, 2)]
    estimators = ("panel", "classifier") if name == "pca" else ("ksg1", "cca_ksg", "gaussian_copula")
    result = measure_information(run, estimator=estimators, n_shuffles=2, **options)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        assert (about["against"], about["seed"], about["stream"]) == (options.get("against", "lora"), 3, "adapted")
        for component in file["components"].tolist():
            x, y, samples, tokens = (file[f"{component}/{key}"] for key in ("x", "y", "sample", "token"))
            one = result.sel(component=component)
            sizes = [int(one[name]) for name in ("n_axes_x", "n_axes_y", "n_tokens")]
            assert sizes == [x.shape[1], y.shape[1], len(x)]
            np.testing.assert_array_equal(samples, run.tokens["sample"].values[tokens])
            expected = mutual_information(x, y, groups=samples, estimator=estimators, n_shuffles=2, seed=3)
            for field in FIELDS:
                np.testing.assert_array_equal(one[field].values, expected[field].values, err_msg=field)


@pytest.mark.parametrize(
    ("tokens", "is_chosen"),
    [("last:9", lambda place: place >= 6), ("from:2", lambda place: place >= 2), (None, lambda place: place % 4 == 1)],
)
def test_a_choice_of_tokens_is_as_if_the_run_had_no_others(tmp_path: Path, tokens: str | None, is_chosen: Any) -> None:
    rng = np.random.default_rng(5)
    base, delta = rng.normal(size=(2, 450, 4))
    sink = np.arange(450) % 15 == 0  # would take the first axis if axes were of all tokens
    base[sink] += 1e3 * rng.normal(size=4)
    chosen = is_chosen(np.arange(450) % 15)
    run = store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[15] * 30)
    n_left = int(chosen.sum()) // 30
    alone = store_states(tmp_path / "alone.zarr", {"m.a": (base[chosen], delta[chosen])}, lengths=[n_left] * 30)
    choice = np.flatnonzero(chosen) if tokens is None else tokens
    options: dict[str, Any] = {"n_tokens": 60, "n_axes": 2, "seed": 7}
    result = measure_information(run, tokens=choice, n_shuffles=2, **options)
    expected = measure_information(alone, n_shuffles=2, **options)
    xr.testing.assert_equal(result, expected)
    assert np.isfinite(result["value"].values).all()
    assert (result.attrs["tokens"], expected.attrs["tokens"]) == (tokens or f"{n_left * 30} chosen", "all")

    export_pairs(run, tmp_path / "p.npz", tokens=choice, **options)
    export_pairs(alone, tmp_path / "q.npz", **options)
    with np.load(tmp_path / "p.npz") as pairs, np.load(tmp_path / "q.npz") as by_hand:
        np.testing.assert_array_equal(pairs["m.a/token"], np.flatnonzero(chosen)[by_hand["m.a/token"]])
        for name in ("x", "y", "sample"):
            np.testing.assert_array_equal(pairs[f"m.a/{name}"], by_hand[f"m.a/{name}"])
        assert json.loads(str(pairs["about"]))["tokens"] == result.attrs["tokens"]


@pytest.mark.parametrize(
    "options",
    [{"n_workers": 3}, {"scheduler": "processes", "n_workers": 2}],
    ids=str,
)
def test_who_computes_changes_nothing(run: Run, options: dict[str, Any]) -> None:
    """All bits: BLAS has one thread wherever a task runs, and no sum depends on who computes it."""
    settings: dict[str, Any] = {**FEW, "estimator": ("panel", "gaussian"), "component": ["*.0.*"]}
    expected = measure_information(run, scheduler="synchronous", **settings)
    with dask.config.set({"multiprocessing.context": "spawn"}):
        xr.testing.assert_identical(measure_information(run, **options, **settings), expected)


# A cluster's own threads and sockets end a moment after it does.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_changes_nothing(run: Run) -> None:
    with distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=":0", silence_logs=50) as local:
        found = measure_information(run, scheduler=local.scheduler_address, **FEW)
    xr.testing.assert_identical(found, measure_information(run, scheduler="synchronous", **FEW))


@pytest.mark.parametrize(
    "options", [{}, {"factored": False}, {"stream": "pair"}, {"dtype": "bfloat16"}, SOME_ROWS], ids=str
)
def test_kinds_of_runs(make_small: Callable[..., Any], options: dict[str, Any]) -> None:
    run = make_small(**options).run
    result = measure_information(run, n_shuffles=1, n_axes=2)
    assert (result["note"].values == "").all()
    assert np.isfinite(result["value"].values).all()
    assert result.attrs["stream"] == run.stream
    if "state_rows" in options:
        assert (result["n_tokens"].values == 416).all()


def test_two_adapters(two_adapters: Path) -> None:
    run = open_run(two_adapters)
    a, b = (measure_information(run, adapter=name, **FEW) for name in "ab")
    assert (a.attrs["adapter"], b.attrs["adapter"]) == ("a", "b")
    assert (a["value"] != b["value"]).all()
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several"):
        measure_information(run, **FEW)


def test_one_component_without_values_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 200, 4))
    states = {"m.a": (base, delta), "m.b": (base, np.zeros_like(delta)), "m.c": (delta, base)}
    run = store_states(tmp_path / "run.zarr", states, lengths=[10] * 20)
    result = measure_information(run, against="delta", n_shuffles=1)
    assert result["note"].values.tolist() == ["", "`delta`: the 200 tokens are all equal; they have no axes", ""]
    assert np.isfinite(result["value"].values).all(axis=1).tolist() == [True, False, True]
    alone = measure_information(run, component=["m.a", "m.c"], against="delta", n_shuffles=1)
    xr.testing.assert_identical(result.isel(component=[0, 2]), alone)


def test_mistakes_come_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "component_blocks", None)
    for options, words in (
        ({"component": ["nope"]}, "'nope' fits none of the"),
        ({"unit": "dit"}, "`unit` is 'dit'"),
        ({"n_tokens": 1}, "of 1 samples;"),
        ({"tokens": "answr"}, "`tokens` is 'answr'; allowed are 'all', .*; did you mean 'answer'"),
        ({"n_workers": 0}, "`n_workers` is 0"),
        ({"scheduler": "slurm"}, "`scheduler` is 'slurm'"),
    ):
        with pytest.raises(ValueError, match=words):
            measure_information(run, **options)  # type: ignore[arg-type]


def some(n: int = 5, *, seed: int = 0) -> ComponentPairs:
    rng = np.random.default_rng(seed)
    samples = np.arange(n) // 2
    pairs = Pairs(rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), samples, samples)
    return ComponentPairs(pairs, np.arange(n) * 7, np.zeros((n, 2), np.float32), (0.9, 0.8), 0, 0)


def test_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.npz"
    found: dict[str, Any] = {"m.a": some(5), "m.b": some()._replace(why="nothing varies"), "m.c": some(4, seed=1)}
    assert _write_pairs(path, found, {"against": "lora"}) == {"m.b": "nothing varies"}
    assert [entry.name for entry in path.parent.iterdir()] == ["p.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert file["components"].tolist() == ["m.a", "m.c"]
        assert json.loads(str(file["about"])) == {"against": "lora", "left_out": {"m.b": "nothing varies"}}
        for name in ("m.a", "m.c"):
            np.testing.assert_array_equal(file[f"{name}/x"], found[name].pairs.x)
            np.testing.assert_array_equal(file[f"{name}/y"], found[name].pairs.y)
            np.testing.assert_array_equal(file[f"{name}/sample"], found[name].pairs.groups_x)
            np.testing.assert_array_equal(file[f"{name}/token"], found[name].tokens)


def test_nothing_to_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no states can be projected; the first are those of m\.a: too few"):
        _write_pairs(tmp_path / "p.npz", {"m.a": some()._replace(why="too few")}, {})
    assert list(tmp_path.iterdir()) == []


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
    assert shares_directions(*sizes, "lora", is_factor=is_factor).tolist() == [lora]
    assert shares_directions(*sizes, "delta", is_factor=is_factor).tolist() == [delta]
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
    assert shares_directions(*sizes, "delta", is_factor=np.array([False])).tolist() == [singular]
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
    expected = shares_directions(*sizes, "delta", is_factor=np.full(len(at), source == "factor"))
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
