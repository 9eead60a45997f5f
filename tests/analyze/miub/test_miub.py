from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.miub.miub import PRINTED_MIUB, miub, miub_readings
from lorascope.analyze.results.save import open_result, save
from lorascope.analyze.results.tree import mismatch_warning
from lorascope.stores import Run, StoreError, open_run

from ..conftest import divergence


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def test_miub_is_equation_9(run: Run) -> None:
    result = miub(run)
    states = [(run.base(path).values.astype(np.float64), run.delta(path).values) for path in run.component_paths]
    by_token = np.sum([divergence(base, delta) for base, delta in states], axis=0)
    expected = np.array([js.mean() for js in np.split(by_token, run.samples["token_start"].values[1:])])
    np.testing.assert_allclose(result["samples/miub"].values, expected, rtol=1e-5)
    assert float(result["miub"]) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(result["miub_se"]) == pytest.approx(expected.std(ddof=1) / np.sqrt(len(expected)), rel=1e-4)
    np.testing.assert_allclose(result["samples/js"].sum("component").values, result["samples/miub"].values, rtol=1e-12)
    assert result.attrs["reduction"] == "tokens: mean; components: sum; samples: mean"
    units = {one.attrs["units"] for node in result.subtree for name, one in node.data_vars.items() if name != "share"}
    assert units == {"nat"}


def test_attributes_say_what_was_counted(run: Run) -> None:
    attrs = miub(run).attrs
    assert attrs["n_tokens"] == run.n_tokens
    assert attrs["n_components"] == len(run.component_paths)
    assert attrs["n_samples"] == run.samples.sizes["sample"]
    assert (attrs["n_samples_incomplete"], attrs["n_not_finite"]) == (0, 0)
    assert attrs["run_fingerprint"] == run.attributes["fingerprint"]


def test_fidelity_compares_with_js_at_capture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = miub(run)["tokens/js"].values.astype(np.float64)
    monkeypatch.setattr(Run, "js", lambda self, adapter: xr.DataArray(captured, dims=("token", "component")))
    captured[0, 0] *= 1.5
    captured[1:, 1] = np.nan
    attrs = miub(run).attrs
    assert attrs["fidelity_max"] == pytest.approx(1 / 3)
    assert attrs["fidelity_median"] == 0
    assert attrs["fidelity_n"] == captured.size - (len(captured) - 1)
    captured[:] = np.nan
    attrs = miub(run).attrs
    assert np.isnan(attrs["fidelity_max"])
    assert attrs["fidelity_n"] == 0


def test_js_is_scanned_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its reduction, its holes and its fidelity: it may lie on the disk."""
    module = import_module("lorascope.analyze.miub.miub")
    scanned: list[tuple[int, ...]] = []
    original = module.token_blocks
    monkeypatch.setattr(module, "token_blocks", lambda values: scanned.append(values.shape) or original(values))
    miub(run)
    assert scanned == [(run.n_tokens, len(run.component_paths))]


@pytest.mark.parametrize(
    ("off", "store", "said"), [(0.02, "exact", True), (0.005, "exact", False), (0.1, "bf16", False)]
)
def test_states_that_are_not_those_of_the_capture_are_told(off: float, store: str, said: bool) -> None:
    result = xr.DataTree(xr.Dataset(attrs={"fidelity_max": off}))
    run_like = type("R", (), {"attributes": {"provenance": {"settings": {"store": store}}}})()
    text = mismatch_warning(result, run_like)
    assert (text is not None) == said
    assert text is None or f"is off by {off:.2g} of what was measured during capture" in text
    assert mismatch_warning(xr.DataTree(xr.Dataset(attrs={"fidelity_max": np.nan})), run_like) is None


def test_incomplete_samples_are_left_out(unfinished: Path) -> None:
    run = open_run(unfinished)
    result = miub(run)
    whole = [
        bool(run.committed[start:stop].all())
        for start, stop in zip(run.samples["token_start"].values, run.samples["token_stop"].values, strict=True)
    ]
    assert 0 < sum(whole) < len(whole)
    np.testing.assert_array_equal(np.isfinite(result["samples/miub"].values), whole)
    assert float(result["miub"]) == pytest.approx(np.nanmean(result["samples/miub"].values))
    assert result.attrs["n_samples"] == sum(whole)
    assert result.attrs["n_samples_incomplete"] == len(whole) - sum(whole)


def test_run_with_nothing_whole_is_refused(nothing_committed: Path) -> None:
    with pytest.raises(StoreError, match="no sample of .* is wholly committed yet"):
        miub(open_run(nothing_committed))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_and_never_averaged_away(
    run: Run, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    from lorascope.stores.reading.rows import RowArray

    path = run.component_paths[2]
    original = RowArray.read_stored

    def poisoned(self: RowArray, row: int) -> np.ndarray:
        block = original(self, row)
        if row == 1 and self._array.path == f"states/{path}/base":
            block = block.copy()
            block[5, 3] = bad
        return block

    monkeypatch.setattr(RowArray, "read_stored", poisoned)
    result = miub(run)
    assert result.attrs["n_not_finite"] == 1
    assert (result.attrs["not_finite_token"], result.attrs["not_finite_component"]) == (1024 + 5, path)
    sample = int(run.tokens["sample"].values[1024 + 5])
    assert np.isnan(result["samples/miub"].values[sample])
    assert np.isfinite(np.delete(result["samples/miub"].values, sample)).all()
    assert np.isnan(float(result["miub"]))


@pytest.mark.parametrize("name", ["result.zarr", "result.nc"])
def test_results_save_and_come_back(run: Run, tmp_path: Path, name: str) -> None:
    result = miub(run)
    path = save(result, tmp_path / "new" / name)
    with open_result(path) as back:
        for key in {"digest", "chunks_digest"} & back.attrs.keys():
            del back.attrs[key]
        xr.testing.assert_identical(back.load(), result)
        assert back["tokens/js"].sel(sample="s3").equals(result["tokens/js"].sel(sample="s3"))
    assert [p.name for p in path.parent.iterdir()] == [name]
    with pytest.raises(FileExistsError, match="is there already"):
        save(result, path)


LN2 = np.log(2)


def test_every_cell_is_its_definition(make_small: Any) -> None:
    small = make_small(is_weighted=True)
    cells = miub_readings(small.run)
    stops = small.run.samples["token_stop"].values
    alone = np.stack([divergence(b, small.delta[k] - b) for k, b in small.base.items()], axis=1)
    for states, js in (("lora", small.js()), ("delta alone", alone)):
        for unit, values in (("nat", js), ("bit", js / LN2), ("sqrt", np.sqrt(js))):
            spans = list(zip(small.starts, stops, strict=True))
            sums = np.array([(small.weight[a:b, None] * values[a:b]).sum() for a, b in spans])
            weights = np.array([small.weight[a:b].sum() for a, b in spans])
            expected = {"mean": sums / weights, "sum": sums, "last": values[stops - 1].sum(axis=1)}
            for tokens, samples in expected.items():
                cell = cells.sel(states=states, tokens=tokens, unit=unit)
                assert float(cell["miub"]) == pytest.approx(samples.mean(), rel=1e-5)
                assert float(cell["miub_se"]) == pytest.approx(samples.std(ddof=1) / np.sqrt(len(samples)), rel=1e-4)
    assert cells.sizes == {"states": 2, "tokens": 3, "unit": 3}


def test_the_first_cell_is_miub(make_small: Any) -> None:
    run = make_small().run
    cells = miub_readings(run)
    assert float(cells["miub"].sel(states="lora", tokens="mean", unit="nat")) == float(miub(run)["miub"])


def test_sizes_are_beside_the_papers(make_small: Any) -> None:
    cells = miub_readings(make_small().run)
    n = cells.attrs["n_components"]
    np.testing.assert_allclose(cells["per_component"] * n, cells["miub"])
    assert cells.attrs["printed_low"] == pytest.approx(1511.6 / 128)
    assert cells.attrs["printed_high"] == pytest.approx(3837.0 / 224)
    np.testing.assert_allclose(cells["times_low"] * cells["per_component"], 1511.6 / 128)
    assert all(low < high for low, high, _ in PRINTED_MIUB.values())


def test_delta_alone_needs_states(make_small: Any) -> None:
    cells = miub_readings(make_small(states="none", js_share=1.0).run)
    assert np.isfinite(cells["miub"].sel(states="lora")).all()
    assert np.isnan(cells["miub"].sel(states="delta alone")).all()


def test_an_adapter_that_does_nothing_is_infinitely_far_off(make_small: Any) -> None:
    cells = miub_readings(make_small(zero=True).run).sel(states="lora")
    assert (cells["miub"] == 0).all()
    assert np.isposinf(cells["times_low"]).all()
