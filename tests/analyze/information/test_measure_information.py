import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import export_pairs, measure_information, mutual_information
from lorascope.analyze.information import components as pairs_module
from lorascope.analyze.information.evidence import FIELDS
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
    # Four coordinates and 1,200 tokens: their intervals are too wide for `ok`, but for a large value.
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
    "options",
    [{"n_workers": 3}, {"scheduler": "processes", "n_workers": 2}],
    ids=str,
)
def test_who_computes_changes_nothing(run: Run, options: dict[str, Any]) -> None:
    """All bits: BLAS has one thread wherever a task runs, and no sum depends on who computes it."""
    settings: dict[str, Any] = {**FEW, "estimator": ("panel", "gaussian"), "components": ["*.0.*"]}
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
    alone = measure_information(run, components=["m.a", "m.c"], against="delta", n_shuffles=1)
    xr.testing.assert_identical(result.isel(component=[0, 2]), alone)


def test_mistakes_come_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "component_blocks", None)
    for options, words in (
        ({"components": ["nope"]}, "'nope' fits none of the"),
        ({"unit": "dit"}, "`unit` is 'dit'"),
        ({"n_tokens": 1}, "of 1 samples;"),
        ({"n_workers": 0}, "`n_workers` is 0"),
        ({"scheduler": "slurm"}, "`scheduler` is 'slurm'"),
    ):
        with pytest.raises(ValueError, match=words):
            measure_information(run, **options)  # type: ignore[arg-type]
